"""`select.until='auto'`: selection goes on only while there is a reason to pay for it."""

from typing import Any

from active_learning.core.recipe import TrainState
from active_learning.cost.ledger import sum_flops, total
from active_learning.metrics import LOG
from active_learning.train import economics
from active_learning.train.build import Experiment
from active_learning.train.evaluation import Evaluation


class Gate:
    """Watches the small models on the gate, and ends the window of a run with until='auto'.

    Args:
      experiment: The run.
      evaluation: Its evaluators.
      spent: FLOPs that selection has cost before the first update.

    Attributes:
      window: Updates in which selection is on; shrinks to the current update when it ends.
      reason: Why more than the unproven fraction may be spent; empty while there is none.
      reference: Mean value of a frozen reference on the gate.
      decisions: What was decided, when and why, for summary.json.
    """

    def __init__(self, experiment: Experiment, evaluation: Evaluation, spent: float = 0.0):
        self.experiment, self.evaluation, self.spent = experiment, evaluation, spent
        self.latest = self.window = experiment.steps.window
        self.reason = ""
        self.reference: float | None = None
        self.decisions: list[dict[str, Any]] = []
        config = experiment.config
        self.decides = config.select.until == "auto" and bool(experiment.steps.window)
        self.watches = bool(config.evaluate.gate and config.select.policy.uses_online_and_reference)
        uniform = total(dict(experiment.uniform_costs))
        active = total(dict(experiment.costs))
        without = active - config.batch_size * experiment.scorer_train_flops
        self.comparisons = economics.Comparisons(without / uniform - 1.0)
        self.trial = self.latest
        if self.decides:
            steps = economics.trial_steps(experiment.steps.total, uniform, active, spent)
            self.trial = min(steps, self.latest)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {
            "window": self.window,
            "reason": self.reason,
            "reference": self.reference,
            "decisions": self.decisions,
            "comparisons": self.comparisons.as_dict(),
        }

    def restore(self, meta: dict[str, Any]) -> None:
        """Continues from what `state` gave."""
        self.window, self.reason = meta["window"], meta["reason"]
        self.reference = meta["reference"]
        self.decisions = list(meta["decisions"])
        self.comparisons.restore(meta["comparisons"])

    def warm_up(self, state: TrainState, step: int) -> None:
        """Compiles the comparison, so that no compilation is on the training clock."""
        if self.decides and step < self.window:
            self.evaluation.compare(state)
            self.evaluation.learner_on_gate(state)

    def open(self, state: TrainState, watch: Any) -> dict[str, float]:
        """Before the first update: is there a reason to select, or one not to?

        With until='auto' and a held-out reference the corrupted fraction of the labels is
        estimated from it. Returns the FLOPs to charge by account.
        """
        if not self.decides:
            return {}
        with watch.running():
            estimate, cost = self.evaluation.corrupted_fraction(state)
            self.reference, more = self.evaluation.reference_on_gate(state)
        if estimate is None:
            self._decide(0, "trial", "nothing is known of the labels", {})
        else:
            known = {"low": estimate.low, "value": estimate.value, "high": estimate.high}
            said = f"{estimate.low:.0%} to {estimate.high:.0%} of the labels are corrupted"
            if estimate.low > economics.NOISY:
                self.reason = said
                self._decide(0, "select", said, known)
            elif estimate.high < economics.NOISY:
                self.window = 0
                self._decide(0, "no selection", said, known)
            else:
                self._decide(0, "trial", said, known)
        if self.window and not self.reason:
            self.window = self.trial
        return sum_flops((cost, more))

    def due(self, step: int, evaluate: bool) -> bool:
        """Whether to look after update `step`; `evaluate`: the learner is evaluated there."""
        if not self.decides:
            return evaluate
        every = max(1, self.trial // economics.LOOKS)
        inside = step <= self.window
        return inside and (
            step == self.window or evaluate or step <= self.trial and not step % every
        )

    def look(
        self, state: TrainState, step: int, evaluate: bool, watch: Any
    ) -> tuple[dict, dict, bool]:
        """Compares the models after update `step`.

        With until='auto' the comparisons are part of the method, so their time and FLOPs are
        charged; what is only logged is not.

        Args:
          state: The train state.
          step: Updates done.
          evaluate: Whether the learner is evaluated after this update.
          watch: The training stopwatch, paused.

        Returns:
          Metrics for the log, FLOPs to charge by account, and whether the window has just ended
          early.
        """
        if step > self.window:
            return {}, {}, False
        values = self.evaluation.gate(state) if self.watches else {}
        if not self.decides:
            return values, {}, False
        with watch.running():
            online, shadow, cost = self.evaluation.compare(state)
        verdict = self.comparisons.add(step, online, shadow)
        values |= {
            "gate/gain": verdict.gain,
            "gate/gain_error": verdict.error,
            "gate/price": verdict.price,
        }
        caught_up = ""
        if evaluate and self.reference is not None:
            with watch.running():
                learner, more = self.evaluation.learner_on_gate(state)
            values, cost = values | {"gate/learner": learner}, sum_flops((cost, more))
            if learner >= self.reference:
                caught_up = f"the learner ({learner:.3f}) has caught up with the reference "
                caught_up += f"({self.reference:.3f})"
        return values, cost, self._judge(step, verdict, caught_up)

    def _judge(self, step: int, verdict: economics.Verdict, caught_up: str) -> bool:
        """Acts on a comparison; returns whether selection ends before it would have."""
        numbers = {"gain": verdict.gain, "error": verdict.error, "price": verdict.price}
        said = (
            f"the online model is {verdict.gain:+.3f} +- {verdict.error:.3f} from one trained "
            f"uniformly, selection pays above {verdict.price:+.3f}"
        )
        if verdict.no_longer_pays or caught_up:
            early, self.window = step < self.window, step
            why = caught_up or (
                f"it no longer pays ({verdict.recent:+.3f} +- {verdict.recent_error:.3f} in the "
                f"last {economics.RECENT} comparisons)"
            )
            self._decide(step, "end", f"{why}: {said}", numbers)
            return early
        if verdict.pays and not self.reason:
            self.reason, self.window = said, self.latest
            self._decide(step, "select", said, numbers)
        elif step == self.window and not self.reason:
            spent = f"no evidence of a gain within {economics.UNPROVEN:.0%} of uniform's FLOPs"
            self._decide(step, "end", f"{spent}: {said}", numbers)
        elif step == self.window:
            self._decide(step, "end", f"the latest update with selection: {said}", numbers)
        return False

    def _decide(self, step: int, what: str, why: str, numbers: dict[str, float]) -> None:
        self.decisions.append({"step": step, "decision": what, "reason": why} | numbers)
        LOG.info("%s: update %d: %s: %s", self.experiment.config.name, step, what, why)
