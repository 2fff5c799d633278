"""A reference that is trained along with the learner (the paper's online reference)."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import PyTree

from active_learning.references.base import Obtained, Reference, TrainRun


@dataclass(frozen=True)
class CoTrained(Reference):
    """Trained on every super-batch, at twice the online model's rate, as in the paper."""

    kind_name = "cotrained"
    has_params = False
    exists_before = False
    trains_along = True

    def obtain(self, experiment: Any, workdir: Path, train: TrainRun) -> Obtained | None:
        return Obtained()

    def recipe_fields(self, config: Any, scorer_model: Callable) -> dict[str, Any]:
        rate = 2 * config.scorer_optim.learning_rate
        return {
            "reference": scorer_model(dataclasses.replace(config.scorer_optim, learning_rate=rate))
        }

    def initial_params(self, params: PyTree | None, fresh: Callable[[], PyTree]) -> PyTree | None:
        return fresh()
