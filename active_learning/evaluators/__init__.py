"""Evaluators: exact figures of a model on a whole set, padded last batch included."""

from active_learning.evaluators import few_shot, human, zero_shot
from active_learning.evaluators.accuracy import Accuracy
from active_learning.evaluators.embed import Embedder
from active_learning.evaluators.retrieval import Retrieval

__all__ = ["Accuracy", "Embedder", "Retrieval", "few_shot", "human", "zero_shot"]
