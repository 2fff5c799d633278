"""`select.until='auto'`: selection ends when the online model has caught up with the reference."""

import contextlib
from typing import Any

from active_learning.core.recipe import TrainState
from active_learning.metrics import LOG
from active_learning.train.build import Experiment
from active_learning.train.evaluation import Evaluation

# Evaluations in a row with the online model at or above the reference that end the window.
CATCH_UPS = 3


class Gate:
    """Compares online and reference on the gate, and ends the window of a run with until='auto'.

    Attributes:
      window: Updates in which selection is on; shrinks to the current update when it ends.
      catch_up_count: Evaluations in a row with the online model at or above the reference.
    """

    def __init__(self, experiment: Experiment, evaluation: Evaluation):
        self.experiment, self.evaluation = experiment, evaluation
        self.window = experiment.steps.window
        self.catch_up_count = 0
        select = experiment.config.select
        self.decides = select.until == "auto" and bool(experiment.steps.window)
        self.watches = bool(
            experiment.config.evaluate.gate and select.policy.uses_online_and_reference
        )

    def state(self) -> dict[str, int]:
        """What a checkpoint holds of it."""
        return {"window": self.window, "catch_up_count": self.catch_up_count}

    def restore(self, meta: dict[str, Any]) -> None:
        """Continues from what `state` gave."""
        self.window, self.catch_up_count = meta["window"], meta["catch_up_count"]

    def warm_up(self, state: TrainState, step: int) -> None:
        """Compiles the comparison, so that no compilation is on the training clock."""
        if self.decides and step < self.window:
            self.evaluation.gate(state)

    def look(self, state: TrainState, step: int, watch: Any) -> tuple[dict, dict, bool]:
        """Compares the models after update `step`.

        With until='auto' the comparison is part of the method, so its time and FLOPs are charged;
        otherwise they are not.

        Args:
          state: The train state.
          step: Updates done.
          watch: The training stopwatch, paused.

        Returns:
          Metrics for the log, FLOPs to charge by account, and whether the window has just ended.
        """
        if not self.watches or step > self.window:
            return {}, {}, False
        with watch.running() if self.decides else contextlib.nullcontext():
            values, cost = self.evaluation.gate(state)
        if not self.decides:
            return values, {}, False
        caught_up = values["gate/online_metric"] >= values["gate/reference_metric"]
        self.catch_up_count = self.catch_up_count + 1 if caught_up else 0
        closes = self.catch_up_count >= CATCH_UPS
        if closes:
            self.window = step
            name = self.experiment.config.name
            LOG.info("%s: the online model has caught up, selection ends at update %d", name, step)
        return values, cost, closes
