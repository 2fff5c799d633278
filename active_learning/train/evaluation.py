"""What the loop evaluates: fixed stratified subsets during the run, whole sets at the end, online against reference on the gate."""

import jax
import numpy as np
from jaxtyping import PyTree

from active_learning.core.recipe import TrainState
from active_learning.core.sharding import over_data
from active_learning.data import splits
from active_learning.train.build import Run, subset


class Evaluation:
    """The evaluators of one run; each compiles once."""

    def __init__(self, it: Run):
        self.it, self.settings = it, it.config.evaluate
        shared = self.settings.batch_size, over_data(it.mesh)
        self._learner = it.task.evaluator(it.recipe.learner, *shared)
        self._scorer = it.task.evaluator(it.recipe.scorer, *shared)
        self._subsets = {
            name: subset(it.data.parts[name], self.settings.subset) for name in self.settings.sets
        }

    def now(self, state: TrainState) -> dict:
        """`SET/accuracy` and so on, on the fixed subset of each set."""
        out = {}
        for name in self.settings.sets:
            figures = self._learner(
                state.learner.params, self.it.data.parts[name], self._subsets[name]
            )
            out |= {f"{name}/{k}": v for k, v in figures.items() if isinstance(v, float)}
        return out

    def full(self, state: TrainState) -> dict:
        """`SET_full/accuracy` and so on, per class included, on every example of each set."""
        return self._whole(self._learner, state.learner.params)

    def full_reference(self, state: TrainState) -> dict:
        """The same of the reference that a run has trained along."""
        return self._whole(self._scorer, state.reference.params)

    def _whole(self, evaluator, params: PyTree) -> dict:
        out = {}
        for name in self.settings.sets:
            figures = evaluator(params, self.it.data.parts[name])
            out |= {f"{name}_full/{k}": v for k, v in figures.items()}
        return out

    def gate(self, state: TrainState) -> tuple[dict, dict]:
        """Figures of online and reference on the gate, `merit` among them (the one to compare), and what the forward passes cost, by account."""
        part = self.it.data.parts[self.settings.gate]
        out = {}
        models = {"online": [state.online.params], "reference": self._references(state)}
        for name, alternatives in models.items():
            found = [self._scorer(params, part) for params in alternatives] or [
                self.it.stored_gate
            ]
            found = [f | {"merit": self.it.task.merit(f)} for f in found]
            kept = ("accuracy", "loss", "recall", "log_rank", "merit")
            out |= {
                f"gate/{name}_{k}": float(np.mean([f[k] for f in found]))
                for k in kept
                if k in found[0]
            }
        forward = len(part) * self.it.scorer.cost(self.it.scorer_task.image_shape).forward
        return out, {"online_score": forward, "reference_score": forward * len(models["reference"])}

    def _references(self, state: TrainState) -> list:
        """Parameters of each reference: none when its scores are stored, two when they are cross-fitted."""
        if self.it.stored_gate is not None:
            return []
        params = self.it.recipe.reference_params(state)
        if self.it.config.reference.kind != "crossfitted":
            return [params]
        return [jax.tree.map(lambda leaf, k=k: leaf[k], params) for k in range(splits.FOLDS)]
