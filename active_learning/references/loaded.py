"""A reference that exists already: a finished run, or published weights."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from active_learning import checkpoint, distributed
from active_learning.config import ConfigError
from active_learning.cost.ledger import ACCOUNTS, total
from active_learning.metrics import read_summary
from active_learning.models.published import Published
from active_learning.references.base import Obtained, Reference, TrainRun
from active_learning.references.trained import obtained
from active_learning.storage.addresses import is_bucket
from active_learning.storage.runs import readable

KEY = "config.reference.path"
_WEIGHTS = (".npz", ".safetensors", ".json")


@dataclass(frozen=True)
class Loaded(Reference):
    """Loaded from a run folder, or from published weights of two towers at their own size."""

    kind_name = "loaded"

    # Folder of a complete run or its address in a bucket, or published weights as in `Published`.
    path: str = ""
    # Whether its training is on this run's bill; that of published weights never is.
    charge: bool = True

    def check(self, config: Any) -> None:
        if not self.path:
            raise ConfigError(
                "config.reference.kind='loaded' needs config.reference.path, the folder of a run "
                "or published weights"
            )

    def published(self, config: Any) -> Published | None:
        if not self.path or not is_weights(self.path):
            return None
        if not config.task.text:
            raise ConfigError(
                f"{KEY}={self.path!r}: published weights are a reference for image-text pairs; "
                "for labels, heads on their features are: config.scorer=section(OnFeatures, of=...)"
            )
        return Published(path=self.path)

    def obtain(self, experiment: Any, workdir: Path, train: TrainRun) -> Obtained | None:
        start = experiment.starts.reference
        if start is not None:
            model = experiment.reference_role
            params = start.params(model.module, model.view, jax.random.key(0))
            return Obtained(params, flops=dict.fromkeys(ACCOUNTS, 0.0))
        with distributed.agreement("reference"):
            folder = readable(self.path)
            summary = read_summary(folder)
            if summary is None or not summary["complete"]:
                raise ConfigError(f"{KEY}={self.path!r}: no complete run there to load")
            experiment.config.task.check_loaded_reference(folder, experiment.data)
            return obtained(summary, checkpoint.load_params(folder))

    def for_plan(self) -> "Loaded":
        """A run in place of weights that are not there: planned at the size of the scorer."""
        path = Path(self.path)
        is_missing = not is_bucket(self.path) and path.suffix in _WEIGHTS and not path.exists()
        return dataclasses.replace(self, path=str(path.with_suffix(""))) if is_missing else self

    def planned_training_flops(self, config: Any, steps_of: Callable, per_example: float) -> float:
        """What its run says; published weights say nothing of their cost."""
        if is_weights(self.path):
            return 0.0
        summary = read_summary(readable(self.path))
        return total(summary["flops"]) if summary else 0.0


def run_for_plan(weights: str) -> Loaded:
    """A run in place of weights that are not there: planned at the size of the scorer."""
    return Loaded(path=str(Path(weights).with_suffix("")), charge=False)


def is_weights(name: str) -> bool:
    """Whether a path is published weights, not the folder or address of a run."""
    if is_bucket(name):
        return False
    path = Path(name)
    if not path.is_dir():
        return path.suffix in _WEIGHTS
    is_run = (path / "summary.json").exists() or (path / "checkpoints").exists()
    return not is_run and any(file.suffix in _WEIGHTS[:2] for file in path.iterdir())
