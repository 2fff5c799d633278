"""Evaluators: exact figures of a model on a whole set, padded last batch included."""

from active_learning.evaluators.accuracy import Accuracy

__all__ = ["Accuracy"]
