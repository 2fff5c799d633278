"""Outputs of the update before, fetched one update late, so that the host never waits."""

import time

import jax
import numpy as np

from active_learning import distributed
from active_learning.metrics import NonFiniteError
from active_learning.train.recorder import SelectionLogger
from active_learning.train.updates import UpdateOutput


class DelayedOutputs:
    """Holds the outputs of one update until the next one has been dispatched.

    Args:
      name: The run's name, for messages.
      logger: What fetched outputs are added to.
    """

    def __init__(self, name: str, logger: SelectionLogger):
        self.name, self.logger = name, logger
        self._held: tuple[int, UpdateOutput] | None = None
        # Seconds for which the host has waited for the devices.
        self.waited = 0.0

    def put(self, step: int, output: UpdateOutput) -> None:
        """Fetches what is held, then holds the outputs of update `step`."""
        self.fetch()
        self._held = step, output

    def fetch(self) -> None:
        """Moves the held outputs to the host, checks them and logs them.

        Raises:
          NonFiniteError: A metric or the mean score is not finite.
        """
        if self._held is None:
            return
        (step, output), self._held = self._held, None
        chosen = output.chosen
        extra = {} if chosen is None else {"the mean score": chosen.metrics["score_mean_all"]}
        began = time.perf_counter()
        metrics, extra = jax.device_get((output.metrics, extra))
        self.waited += time.perf_counter() - began
        for name, value in (metrics | extra).items():
            if not np.isfinite(value):
                raise NonFiniteError(f"{self.name}: {name} is {value} at update {step}")
        if distributed.is_primary():
            self.logger.add(step, metrics, chosen, output.rows, output.epochs)
