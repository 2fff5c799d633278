"""When a checkpoint is due."""

import jax

from active_learning import distributed

FIRST_SAVE = 200.0  # seconds of training; leaves slack within the promised five minutes
LATER_SAVES = 3600.0


class CheckpointClock:
    """Tells when a checkpoint is due: every `every` updates, and by time where that would be late.

    The first checkpoint of a run is due after FIRST_SAVE seconds of training and later ones at most
    LATER_SAVES seconds apart, however long the run is. All processes get the same answers: those by
    time follow the clock of the first process, which is shared at a few updates only.

    Args:
      every: Updates between two checkpoints.
      seconds: Training seconds at which the run starts or continues.
      first: Whether the run folder holds no checkpoint yet.
    """

    def __init__(self, every: int, seconds: float = 0.0, first: bool = True):
        self.every = every
        self._limit = FIRST_SAVE if first else LATER_SAVES
        self._saved_at, self._updates, self._next_look = seconds, 0, 1

    def due(self, step: int, seconds: float) -> bool:
        """Returns whether to save after update `step`; call once for every update.

        Args:
          step: Number of updates done.
          seconds: Training seconds so far, on this process.
        """
        self._updates += 1
        by_time = False
        if jax.process_count() == 1:
            by_time = seconds - self._saved_at >= self._limit
        elif self._updates >= self._next_look:
            passed = distributed.run_on_primary(lambda: seconds - self._saved_at)
            by_time = passed >= self._limit
            # Look again when the limit will be reached at this rate, or a quarter later.
            expected = self._updates * self._limit / max(passed, 1e-9)
            self._next_look = max(self._updates + 1, int(min(1.25 * self._updates, expected)))
        if due := by_time or step % self.every == 0:
            self._limit = LATER_SAVES
            self._saved_at, self._updates, self._next_look = seconds, 0, 1
        return due
