"""The method in a loop of one's own, with four ways to write a model.

They show that the functions of `active_learning.core` need nothing else of the package. Their
accuracies are no evidence of savings: the reference's training is not counted.
"""
