"""A reference that exists already: a finished run, or published weights."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from active_learning import checkpoint
from active_learning.config import ConfigError
from active_learning.cost.ledger import ACCOUNTS, total
from active_learning.metrics import read_summary
from active_learning.models.weights import load_into
from active_learning.references.base import Obtained, Reference, TrainRun
from active_learning.references.trained import obtained


@dataclass(frozen=True)
class Loaded(Reference):
    """Loaded from a run folder, or from an .npz of a published two-tower's weights."""

    kind_name = "loaded"

    # Folder of a complete run, or NAME.npz.
    path: str = ""
    # Whether its training is on this run's bill; that of published weights never is.
    charge: bool = True

    def check(self, config: Any) -> None:
        if not self.path:
            raise ConfigError(
                "config.reference.kind='loaded' needs config.reference.path, the folder of a run"
            )

    def obtain(self, experiment: Any, workdir: Path, train: TrainRun) -> Obtained | None:
        folder, key = Path(self.path), "config.reference.path"
        if folder.suffix == ".npz":
            if not experiment.config.task.text:
                raise ConfigError(
                    f"{key}={self.path!r}: weights of a two-tower, but config.task is no "
                    "image-text task"
                )
            shape = experiment.scorer_view.image_shape
            params = load_into(folder, experiment.scorer, shape, key)
            return Obtained(params, flops=dict.fromkeys(ACCOUNTS, 0.0))
        summary = read_summary(folder)
        if summary is None or not summary["complete"]:
            raise ConfigError(f"{key}={self.path!r}: no complete run there to load")
        experiment.config.task.check_loaded_reference(folder, experiment.data)
        return obtained(summary, checkpoint.load_params(folder))

    def planned_training_flops(self, config: Any, steps_of: Callable, per_example: float) -> float:
        """What its run says; published weights say nothing of their cost."""
        summary = read_summary(Path(self.path))
        return total(summary["flops"]) if summary else 0.0
