"""What the loop evaluates: fixed subsets during the run, whole sets at the end, and the gate."""

from typing import Any

import numpy as np
from jaxtyping import PyTree

from active_learning.core.recipe import TrainState
from active_learning.core.sharding import batch_sharding
from active_learning.tasks.base import LabelCheck
from active_learning.train.build import Experiment

# Examples of the pool by which the labels are checked, and of the gate by which the learner is
# compared with the reference.
POOL_ROWS, GATE_ROWS = 10_000, 1000
# Metrics of the gate's two models that are logged.
GATE_METRICS = ("accuracy", "loss", "recall", "log_rank", "metric")


class Evaluation:
    """The evaluators of one run; each compiles once and reads its sets batch by batch."""

    def __init__(self, experiment: Experiment):
        self.experiment, self.settings = experiment, experiment.config.evaluate
        task, recipe = experiment.task, experiment.recipe
        shared = self.settings.batch_size, batch_sharding(experiment.mesh)
        self._learner = task.evaluator(recipe.learner, experiment.view, *shared)
        self._scorer = task.evaluator(recipe.model("online"), experiment.scorer_view, *shared)
        self._reference = self._scorer
        if (own := experiment.own_reference) is not None:
            self._reference = task.evaluator(recipe.model("reference"), own.view, *shared)

    def during(self, state: TrainState) -> dict[str, float]:
        """`SET/accuracy` and so on, on the fixed subset of each set.

        `SET/ema_accuracy` and so on are of the moving average of the weights, where there is one.
        """
        out = {}
        for name in self.settings.sets:
            part = self.experiment.data.parts[name]
            rows = part.subset(self.settings.subset)
            for prefix, params in _weights(state).items():
                metrics = self._learner(params, part, rows)
                scalars = {k: v for k, v in metrics.items() if isinstance(v, float)}
                out |= {f"{name}/{prefix}{k}": v for k, v in scalars.items()}
        return out

    def full(self, state: TrainState) -> dict[str, Any]:
        """`SET_full/accuracy` and so on, per class included, on every example of each set."""
        return self._whole(self._learner, _weights(state))

    def full_reference(self, state: TrainState) -> dict[str, Any]:
        """The same for a reference that was trained along."""
        return self._whole(self._scorer, {"": state.reference.params})

    def _whole(self, evaluator: Any, weights: dict[str, PyTree]) -> dict[str, Any]:
        out = {}
        for name in self.settings.sets:
            for prefix, params in weights.items():
                metrics = evaluator(params, self.experiment.data.parts[name])
                out |= {f"{name}_full/{prefix}{k}": v for k, v in metrics.items()}
        return out

    def reference_on_gate(self, state: TrainState) -> tuple[float | None, dict[str, float]]:
        """The reference's metric on the gate (`Task.gate_metric`), and FLOPs by account.

        None where there is no reference, or where it changes in the course of the run. Means over
        cross-fitted references.
        """
        experiment = self.experiment
        if "reference" not in experiment.recipe.policy.needs or experiment.reference.trains_along:
            return None, {}
        if experiment.known.gate is not None:
            return experiment.task.gate_metric(experiment.known.gate), {}
        (part, rows), references = self._gate_rows(), self._references(state)
        metrics = [self._reference(params, part, rows) for params in references]
        values = [experiment.task.gate_metric(one) for one in metrics]
        cost = len(rows) * len(references) * self._forward
        return float(np.mean(values)), {"reference_score": cost}

    def learner_on_gate(self, state: TrainState) -> tuple[float, dict[str, float]]:
        """The learner's metric on the same examples of the gate, and FLOPs by account."""
        part, rows = self._gate_rows()
        metrics = self._learner(state.learner.params, part, rows)
        return self.experiment.task.gate_metric(metrics), {"learner_train": self.look_flops}

    @property
    def look_flops(self) -> float:
        """FLOPs of `learner_on_gate`."""
        experiment = self.experiment
        forward = experiment.learner.cost(experiment.view.image_shape).forward
        return len(self._gate_rows()[1]) * forward

    def _gate_rows(self) -> tuple[Any, np.ndarray]:
        part = self.experiment.data.parts[self.settings.gate]
        return part, part.subset(GATE_ROWS)

    def check_labels(self, state: TrainState) -> tuple[LabelCheck | None, dict[str, float]]:
        """What a held-out reference says about the labels of the pool.

        Returns:
          The check (None where the reference may have been trained on the pool), and FLOPs by
          account.
        """
        experiment = self.experiment
        if experiment.known.labels is not None:
            return experiment.known.labels, {}
        held_out = experiment.reference.held_out(experiment.config)
        if not held_out or "reference" not in experiment.recipe.policy.needs:
            return None, {}
        part = experiment.data.train.small_view()
        rows = part.subset(POOL_ROWS)
        params = experiment.recipe.reference_params(state)
        check = experiment.task.check_labels(self._reference, params, part, rows)
        return check, {} if check is None else {"reference_score": len(rows) * self._forward}

    @property
    def _forward(self) -> float:
        """FLOPs of a reference's forward pass on one example."""
        role = self.experiment.reference_role
        return role.module.cost(role.view.image_shape).forward

    def gate(self, state: TrainState) -> dict[str, float]:
        """Metrics of online and reference on the gate, for the log.

        `gate/online_metric` and `gate/reference_metric` are those to compare; means over
        cross-fitted references.
        """
        experiment, out = self.experiment, {}
        part = experiment.data.parts[self.settings.gate]
        references = self._references(state)
        for name, judge, models in (
            ("online", self._scorer, [state.online.params]),
            ("reference", self._reference, references),
        ):
            every = [judge(params, part) for params in models]
            every = every or [experiment.known.gate]
            every = [m | {"metric": experiment.task.gate_metric(m)} for m in every]
            for key in GATE_METRICS:
                if key in every[0]:
                    out[f"gate/{name}_{key}"] = float(np.mean([m[key] for m in every]))
        return out

    def _references(self, state: TrainState) -> list[PyTree]:
        """Parameters of each reference; none where its scores are stored."""
        if self.experiment.known.gate is not None:
            return []
        params = self.experiment.recipe.reference_params(state)
        return self.experiment.reference.each(params)


def _weights(state: TrainState) -> dict[str, PyTree]:
    """The learner's weights, and their moving average where there is one, by metric prefix."""
    raw = {"": state.learner.params}
    return raw if state.ema is None else raw | {"ema_": state.ema.params}
