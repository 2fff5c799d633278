"""A control: the reference is a copy of the online model, so that every score is 0."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import PyTree

from active_learning.config import ConfigError
from active_learning.references.base import Obtained, Reference, TrainRun


@dataclass(frozen=True)
class CopyOfOnline(Reference):
    """The online model of the same step: scores of exactly 0 through the full path."""

    kind_name = "online"
    has_params = False
    exists_before = False
    reported = False

    def check(self, config: Any) -> None:
        policy = config.select.policy
        if "reference" in policy.needs and "online" not in policy.needs:
            raise ConfigError(
                f"config.reference.kind='online': policy {policy.name!r} trains no online model "
                "to copy"
            )

    def obtain(self, experiment: Any, workdir: Path, train: TrainRun) -> Obtained | None:
        return Obtained()

    def recipe_fields(self, config: Any, scorer_model: Callable) -> dict[str, Any]:
        return {"reference_params": lambda state: state.online.params}

    def initial_params(self, params: PyTree | None, fresh: Callable[[], PyTree]) -> PyTree | None:
        return None
