"""A reference whose losses were computed beforehand (the paper's foundation dataset)."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from active_learning.config import ConfigError
from active_learning.data.parts import Data
from active_learning.references import score_file
from active_learning.references.base import Obtained, Reference, TrainRun


@dataclass(frozen=True)
class Stored(Reference):
    """Scores that `store_scores` wrote, joined to the data by id; no reference runs."""

    kind_name = "stored"
    models_scoring = 0
    has_params = False
    charge = False

    # The file of the scores.
    path: str = ""
    # The model whose scores are expected, by its hash (`store_scores` prints it); '': any.
    model: str = ""

    def check(self, config: Any) -> None:
        policy = config.select.policy
        if not self.path:
            raise ConfigError(
                "config.reference.kind='stored' needs config.reference.path, a file that "
                "store_scores wrote"
            )
        if not policy.reads_reference:
            return
        if config.task.text:
            raise ConfigError(
                "config.reference.kind='stored': a score of a pair depends on the caption drawn; "
                "use 'embedded', which stores embeddings, or 'loaded'"
            )
        if "reference" in policy.needs and policy.observe is not None:
            raise ConfigError(
                f"config.reference.kind='stored': policy {policy.name!r} reads more of the "
                "reference than its losses"
            )

    def attach(self, config: Any, data: Data, view: str) -> tuple[Data, dict | None]:
        content, by = data.provenance["hash"], data.provenance.get("ids", "place")
        scores = score_file.read(Path(self.path), content, view, self.model, by)
        about = data.provenance | {"scores": scores.about["sha256"][:16]}
        rows = score_file.rows_for(scores, data.train)
        train = data.train.with_column(score_file.COLUMN, scores.loss[rows])
        gate = None
        if config.evaluate.gate:
            rows = score_file.rows_for(scores, data.parts[config.evaluate.gate])
            gate = {
                "accuracy": float(scores.hit[rows].mean()),
                "loss": float(scores.loss[rows].mean()),
            }
        return dataclasses.replace(data, train=train, provenance=about), gate

    def obtain(self, experiment: Any, workdir: Path, train: TrainRun) -> Obtained | None:
        return Obtained()

    def each(self, params: Any) -> list[Any]:
        return []

    def batch_columns(self, module: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {score_file.COLUMN: ("float32", ())}
