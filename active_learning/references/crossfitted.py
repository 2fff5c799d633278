"""Cross-fitted references: no part of the data is held out, and none is scored by its own model."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from active_learning import distributed
from active_learning.config import ConfigError, setting
from active_learning.core.optim import Optim
from active_learning.cost.ledger import sum_flops
from active_learning.data import splits
from active_learning.data.parts import Data
from active_learning.references.base import Obtained, Reference, TrainRun, single
from active_learning.references.trained import own_run_config, params_of


@dataclass(frozen=True)
class CrossFitted(Reference):
    """Two references, each trained on one half of the training data and scoring the other.

    Both run on the whole super-batch and are charged; of each example's scores one is read.
    """

    kind_name = "crossfitted"
    models_scoring = splits.FOLDS

    # Folder or address for both runs; '': WORKDIR/reference.
    path: str = ""
    # Duration of the training of each.
    total: str = "1000 steps"
    batch_size: int = setting(128, at_least=1, at_most=2**24)
    optim: Optim = Optim(learning_rate=2e-3)
    # Whether their training is on this run's bill.
    charge: bool = True
    # Added to the run's seed.
    seed: int = setting(0, at_least=0, below=2**31)

    def check(self, config: Any) -> None:
        policy = config.select.policy
        if policy.needs_embeddings:
            raise ConfigError(
                f"config.reference.kind='crossfitted': {policy.name!r} compares pairs across "
                "both references"
            )

    def own_runs(self, config: Any) -> dict[str, Any]:
        return {f"fold{k}": own_run_config(config, self, fold=k) for k in range(splits.FOLDS)}

    def pool_size(self, config: Any, data: Data, name: str) -> int:
        fold = int(name.removeprefix("fold"))
        return int(np.sum(splits.fold_of(data.train.picture_ids) == fold))

    def attach(self, config: Any, data: Data, view: str) -> tuple[Data, dict | None]:
        ids, folds = data.train.ids, splits.fold_of(data.train.picture_ids)
        scored_by = 1 - folds
        check_out_of_fold([ids[folds == k] for k in range(splits.FOLDS)], ids, scored_by)
        train = data.train.with_column("scored_by", scored_by.astype(np.int32))
        return dataclasses.replace(data, train=train), None

    def obtain(self, experiment: Any, workdir: Path, train: TrainRun) -> Obtained | None:
        runs = self.own_runs(experiment.config)
        with distributed.writable(self.path or workdir / "reference", shared=True) as place:
            summaries = [train(own, place.folder / name) for name, own in runs.items()]
            if not all(summary["complete"] for summary in summaries):
                return None
            params = [params_of(place.folder / fold) for fold in runs]
        name = f"test_full/{experiment.config.task.primary_metric}"
        values = [s["final"][name] for s in summaries if name in s["final"]]
        return Obtained(
            jax.tree.map(lambda *leaves: np.stack(leaves), *params),
            {name: float(np.mean(values))} if values else {},
            sum_flops(s["flops"] for s in summaries),
            sum(s["train_seconds"] for s in summaries),
            sum(s["step"] for s in summaries),
        )

    def abstract_params(self, one: PyTree) -> PyTree:
        stack = lambda p: jax.tree.map(lambda x: jnp.stack([x] * splits.FOLDS), p)
        return jax.eval_shape(stack, one)

    def each(self, params: PyTree) -> list[PyTree]:
        return [single(params, k) for k in range(splits.FOLDS)]

    def one_of(self, params: PyTree) -> PyTree:
        return single(params, 0)

    def batch_columns(self, module: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {"scored_by": ("int32", ())}

    def planned_training_flops(self, config: Any, steps_of: Callable, per_example: float) -> float:
        runs = self.own_runs(config).values()
        return sum(steps_of(own) * own.batch_size for own in runs) * per_example


def check_out_of_fold(trained_on: list[np.ndarray], ids: np.ndarray, scored_by: np.ndarray) -> None:
    """Checks that no reference scores an example that it was trained on.

    Raises:
      DataError: Names the reference and the number of ids.
    """
    for k, own in enumerate(trained_on):
        splits.check_disjoint(
            {f"trained on by reference {k}": own, f"scored by reference {k}": ids[scored_by == k]}
        )
