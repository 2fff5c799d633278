"""InfoBatch (arXiv 2303.04947) as a way of drawing: fewer of what is learnt already."""

import threading
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, Int64

from active_learning.data.order import hash64, permutation

# In the last eighth of a run nothing is pruned (the paper's delta = 0.875).
PRUNED_UNTIL = 0.875


def kept(
    losses: Float32[np.ndarray, "n"], fraction: float, seed: int, epoch: int
) -> tuple[Int64[np.ndarray, "k"], Float32[np.ndarray, "k"]]:
    """Rows that an epoch draws, ascending, and the weights of their losses.

    Of the examples whose loss is below the mean, each is left out with probability `fraction`; the
    others among them weigh 1 / (1 - fraction), so that the expected gradient is that of all.

    Args:
      losses: Loss of each example when it was last trained on; inf: never, so it is kept.
      fraction: Probability in [0, 1).
      seed: Decides the draw, with `epoch`.
      epoch: Number of the epoch.
    """
    known = np.isfinite(losses)
    below = known & (losses < losses[known].mean() if known.any() else known)
    drawn = hash64(0x1F0B, seed, epoch, np.arange(len(losses))) / 2.0**64
    rows = np.flatnonzero(~(below & (drawn < fraction)))
    weights = np.where(below[rows], 1.0 / (1.0 - fraction), 1.0)
    return rows, weights.astype(np.float32)


class _Epoch(NamedTuple):
    start: int
    number: int
    rows: np.ndarray
    weights: np.ndarray


class Pruned:
    """The stream (`data.loader.Stream`) of InfoBatch.

    An epoch's examples are known once the one before has been trained on: `end` is the first
    position that is not known yet, and nothing is read ahead of it. What does not fill the last
    batch of an epoch is left out.

    Args:
      part: What is drawn from.
      seed: Decides the order and what is pruned.
      fraction: Probability with which a below-average example is left out.
      batch_size: Examples of an update.
      total: Updates of the run.
    """

    def __init__(self, part: Any, seed: int, fraction: float, batch_size: int, total: int):
        self.part, self.seed, self.fraction = part, seed, fraction
        self.batch_size, self.full_from = batch_size, PRUNED_UNTIL * total * batch_size
        self._epochs: list[_Epoch] = []
        self._lock = threading.Lock()

    @property
    def end(self) -> int:
        """The first position that is not known yet."""
        if not self._epochs:
            return 0
        last = self._epochs[-1]
        return last.start + len(last.rows)

    def begin(self, number: int, start: int, losses: Float32[np.ndarray, "n"]) -> None:
        """Draws epoch `number`, which begins at position `start`, from the losses known by then."""
        fraction = 0.0 if start >= self.full_from else self.fraction
        rows, weights = kept(losses, fraction, self.seed, number)
        order = permutation(len(rows), self.seed, number)
        order = order[: len(order) // self.batch_size * self.batch_size]
        epoch = _Epoch(start, number, rows[order], weights[order])
        with self._lock:
            self._epochs = [*self._epochs[-1:], epoch]

    def at(
        self, position: int, count: int
    ) -> tuple[Int64[np.ndarray, "k"], Int32[np.ndarray, "k"]]:
        """Rows and epochs of the `count` examples from `position` on, all of one epoch."""
        epoch, first = self._find(position)
        return epoch.rows[first : first + count], np.full(count, epoch.number, np.int32)

    def read(self, position: int, count: int, mine: Any, small: bool) -> dict[str, Any]:
        """The batch also carries `weight`, (b,) float32."""
        rows, epochs = self.at(position, count)
        epoch, first = self._find(position)
        weight = epoch.weights[first : first + count][mine]
        return self.part.batch(rows[mine], epochs[mine], small) | {"weight": weight}

    def _find(self, position: int) -> tuple[_Epoch, int]:
        with self._lock:
            epoch = next(e for e in reversed(self._epochs) if e.start <= position)
        return epoch, position - epoch.start
