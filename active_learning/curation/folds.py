"""Which fold holds an example out."""

import numpy as np
from jaxtyping import Int64, Integer

from active_learning.data.order import hash64


def assign_folds(
    labels: Integer[np.ndarray, "n"],
    groups: Integer[np.ndarray, "n"],
    folds: int,
    repeat: int,
    seed: int = 0,
) -> Int64[np.ndarray, "n"]:
    """The fold of every example: stratified by label, copies together, another draw each repeat.

    Args:
      labels: Given labels.
      groups: Equal numbers for copies of one picture, which a model must not see while one of
        them is judged.
      folds: Number of folds, at least 2.
      repeat: Which draw.
      seed: Of all draws.

    Raises:
      ValueError: fewer groups than folds, or fewer than 2 folds.
    """
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    if folds < 2 or len(first) < folds:
        raise ValueError(
            f"{folds} folds of {len(first)} different examples: give 2 .. {len(first)}"
        )
    drawn = hash64(seed, repeat, np.arange(len(first)))
    order = np.lexsort((drawn, labels[first]))  # by label, within it at random
    of_group = np.empty(len(first), np.int64)
    of_group[order] = np.arange(len(first)) % folds
    return of_group[group]
