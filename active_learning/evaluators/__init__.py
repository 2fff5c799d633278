"""Evaluators: exact metrics of a model on a whole set, read batch by batch."""

from active_learning.evaluators.accuracy import Accuracy
from active_learning.evaluators.embed import Embedder
from active_learning.evaluators.retrieval import Retrieval

__all__ = ["Accuracy", "Embedder", "Retrieval"]
