"""`select.until='auto'`: selection goes on only while there is a reason to pay for it."""

from typing import Any

from active_learning.core.recipe import TrainState
from active_learning.cost.ledger import sum_flops, total
from active_learning.metrics import LOG
from active_learning.train import economics
from active_learning.train.build import Experiment
from active_learning.train.evaluation import Evaluation


class Gate:
    """Watches the models on the gate, and ends the window of a run with until='auto'.

    Args:
      experiment: The run.
      evaluation: Its evaluators.
      spent: FLOPs that selection has cost before the first update.

    Attributes:
      window: Updates in which selection is on; shrinks to the current update when it ends.
      reference: Metric of a frozen reference on the gate; None where there is none.
      labels: What the reference says about the labels, for summary.json.
      decisions: What was decided, when and why, for summary.json.
    """

    def __init__(self, experiment: Experiment, evaluation: Evaluation, spent: float = 0.0):
        self.experiment, self.evaluation, self.spent = experiment, evaluation, spent
        config, steps = experiment.config, experiment.steps
        self.window = steps.window
        self.reference: float | None = None
        self.labels: dict[str, Any] | None = None
        self.decisions: list[dict[str, Any]] = []
        self.decides = config.select.until == "auto" and bool(steps.window)
        self.watches = bool(config.evaluate.gate and config.select.policy.uses_online_and_reference)
        self.looks = economics.look_steps(steps.total) if self.decides else ()

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {
            "window": self.window,
            "reference": self.reference,
            "labels": self.labels,
            "decisions": self.decisions,
        }

    def restore(self, meta: dict[str, Any]) -> None:
        """Continues from what `state` gave."""
        self.window, self.reference = meta["window"], meta["reference"]
        self.labels, self.decisions = meta["labels"], list(meta["decisions"])

    def summary(self) -> dict[str, Any]:
        """What summary.json says of it."""
        labels = {} if self.labels is None else {"labels": self.labels}
        return labels | {"selection": self.decisions}

    def warm_up(self, state: TrainState, step: int) -> None:
        """Compiles the passes, so that no compilation is on the training clock."""
        if self.decides and step < self.window:
            self.evaluation.learner_on_gate(state)
            if not step:
                self.evaluation.check_labels(state)
                self.evaluation.reference_on_gate(state)

    def open(self, state: TrainState, watch: Any) -> dict[str, float]:
        """Before the first update: looks at the labels and decides what selection may cost.

        Returns:
          FLOPs to charge by account.
        """
        if not self.decides:
            return {}
        with watch.running():
            check, cost = self.evaluation.check_labels(state)
            self.reference, more = self.evaluation.reference_on_gate(state)
        cost = sum_flops((cost, more))
        if check is not None:
            self.labels = check.as_dict()
            LOG.info("%s: labels: %s", self.experiment.config.name, check)
        opening = economics.opening(check)
        self.window = self._affordable(opening.decision, self.spent + total(cost))
        reason = opening.reason
        if opening.decision != "none":
            lasts = f"selection may last {self.window} updates" if self.window else "no selection"
            reason = f"{reason}; {lasts}"
        self._decide(0, opening.decision, reason, window=self.window)
        return cost

    def _affordable(self, decision: str, spent: float) -> int:
        """Updates with selection that the decision allows."""
        if decision == "none":
            return 0
        experiment = self.experiment
        uniform = total(dict(experiment.uniform_costs))
        run = experiment.steps.total * uniform
        budget = economics.PROVEN * run
        if decision == "little":
            budget = economics.UNPROVEN * run - spent
        extra = total(dict(experiment.costs)) - uniform
        look = self.evaluation.look_flops if self.reference is not None else 0.0
        updates = economics.affordable(budget, extra, self.looks, look)
        return min(updates, experiment.steps.window)

    def due(self, step: int, evaluate: bool) -> bool:
        """Whether to look after update `step`; `evaluate`: the learner is evaluated there."""
        return step <= self.window and (evaluate or step in self.looks or step == self.window)

    def look(
        self, state: TrainState, step: int, evaluate: bool, watch: Any
    ) -> tuple[dict, dict, bool]:
        """Compares the models after update `step`.

        With until='auto' the learner's comparison with the reference is part of the method, so its
        time and FLOPs are charged; what is only logged is not.

        Args:
          state: The train state.
          step: Updates done.
          evaluate: Whether the learner is evaluated after this update.
          watch: The training stopwatch, paused.

        Returns:
          Metrics for the log, FLOPs to charge by account, and whether the window has just ended
          early.
        """
        values = self.evaluation.gate(state) if self.watches and evaluate else {}
        if not self.decides:
            return values, {}, False
        if step == self.window:
            self._decide(step, "end", "this was the last update of the window")
            return values, {}, False
        if step not in self.looks or self.reference is None:
            return values, {}, False
        with watch.running():
            learner, cost = self.evaluation.learner_on_gate(state)
        values["gate/learner_metric"] = learner
        ends = learner >= self.reference
        found = "as good as" if ends else "behind"
        reason = f"the learner ({learner:.3f}) is {found} the reference"
        reason += f" ({self.reference:.3f}) on the gate"
        if ends:
            self.window = step
            self._decide(step, "end", reason, learner=learner, reference=self.reference)
        else:
            self._log({"step": step, "decision": "goes on", "reason": reason})
        return values, cost, ends

    def tell(self) -> None:
        """Logs the last decision, of a run that goes on."""
        if self.decisions:
            self._log(self.decisions[-1])

    def _decide(self, step: int, decision: str, reason: str, **numbers: float | int) -> None:
        self.decisions.append({"step": step, "decision": decision, "reason": reason} | numbers)
        self._log(self.decisions[-1])

    def _log(self, decision: dict[str, Any]) -> None:
        said = (decision[key] for key in ("step", "decision", "reason"))
        LOG.info("%s: selection, update %d: %s: %s", self.experiment.config.name, *said)
