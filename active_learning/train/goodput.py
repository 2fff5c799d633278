"""How much of the wall-clock time updates take, and which process takes longest for its part."""

import time
from typing import Any

import numpy as np

from active_learning import distributed
from active_learning.metrics import LOG, Stopwatch

# Above the median by this factor, the slowest process is named in the log.
_NOTABLE = 1.1


class Goodput:
    """Fraction of a run's wall-clock time that is spent in updates.

    The rest is restoring, compilation, evaluation and checkpoints. Processes that continue a run
    add up; what one did after its last checkpoint counts on neither side.

    Args:
      watch: Counts seconds in updates, on top of `opening`.
      opening: Seconds that the run had paid before its first update (its reference).
    """

    def __init__(self, watch: Stopwatch, opening: float):
        self._watch, self._opening = watch, opening
        self._began, self._before = time.perf_counter(), 0.0

    def restore(self, meta: dict[str, Any]) -> None:
        """Continues from a checkpoint; one without wall-clock time counts updates only."""
        self._before = meta.get("wall_seconds", self._watch.seconds - self._opening)

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"wall_seconds": self.wall_seconds}

    @property
    def wall_seconds(self) -> float:
        """Wall-clock seconds of the run so far."""
        return self._before + time.perf_counter() - self._began

    @property
    def fraction(self) -> float:
        """Seconds in updates over wall-clock seconds."""
        return (self._watch.elapsed() - self._opening) / max(self.wall_seconds, 1e-9)


class OwnTime:
    """Seconds of an update that each of several processes needs for itself.

    All processes take equally long for an update, as they wait for the last one. What differs is
    how long each waits for its devices: the process with slow data or a slow host waits least.

    Args:
      name: The run's name, for messages.
      watch: Counts seconds in updates.
      step: Updates done already.
    """

    def __init__(self, name: str, watch: Stopwatch, step: int):
        self._name, self._watch = name, watch
        self._last = step, watch.seconds, 0.0

    def compare(self, step: int, waited: float) -> dict[str, float]:
        """Names the slowest process since the last call; {} for a single process.

        All processes must call it at the same update.

        Args:
          step: Updates done.
          waited: Seconds for which this process has waited for its devices in all.
        """
        last, seconds, before = self._last
        self._last = step, self._watch.seconds, waited
        if step == last:
            return {}
        own = (self._watch.seconds - seconds - (waited - before)) / (step - last)
        every = distributed.gather_floats(own)
        if len(every) == 1:
            return {}
        slowest, median = int(np.argmax(every)), float(np.median(every))
        if every[slowest] > _NOTABLE * median:
            LOG.info(
                "%s: process %d is the slowest: it works %.3g s per update, the median process "
                "%.3g s",
                self._name, slowest, every[slowest], median,
            )  # fmt: skip
        return {
            "hosts/slowest_rank": float(slowest),
            "hosts/slowest_seconds": every[slowest],
            "hosts/median_seconds": median,
        }
