"""A reference whose losses or embeddings were computed beforehand.

This is the paper's foundation dataset: no reference runs.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from active_learning.config import ConfigError
from active_learning.data.embeddings import EmbeddingTable
from active_learning.data.errors import DataError
from active_learning.data.features import REFERENCE_COLUMNS
from active_learning.data.parts import Data, rows_of_ids
from active_learning.models import TwoTower
from active_learning.references import score_file
from active_learning.references.base import Obtained, Reference, TrainRun
from active_learning.references.embedding_pass import captions_hash


@dataclass(frozen=True)
class Stored(Reference):
    """Scores that `store_scores` wrote, joined to the data by id; no reference runs."""

    kind_name = "stored"
    models_scoring = 0
    has_params = False
    charge = False

    # The file of the scores; for pairs the folder of the embeddings.
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
            if config.evaluate.gate:
                raise ConfigError(
                    f"config.evaluate.gate={config.evaluate.gate!r}: a gate evaluates the "
                    "reference, but stored embeddings of pairs are not a model; use 'loaded', "
                    "or no gate"
                )
            return
        if "reference" in policy.needs and policy.observe is not None:
            raise ConfigError(
                f"config.reference.kind='stored': policy {policy.name!r} reads more of the "
                "reference than its losses"
            )

    def attach(self, config: Any, data: Data, view: str) -> tuple[Data, dict | None]:
        if config.task.text:
            return self._attach_embeddings(data, view), None
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

    def _attach_embeddings(self, data: Data, view: str) -> Data:
        """Checks that the embeddings are of these images and captions; batches then carry them."""
        captions, about = data.train.captions, data.provenance
        assert captions is not None  # attached by the task
        table = EmbeddingTable(Path(self.path))
        theirs = table.about
        made_of = about.get("ids", "place")
        if theirs["data"] != about["hash"] and theirs["ids"] != made_of:
            raise DataError(
                f"{self.path}: its ids are of kind {theirs['ids']!r}, but those of these data "
                f"are of kind {made_of!r}; write it again with store_scores"
            )
        expected = {
            "data": about["hash"],
            "view": view,
            "captions": captions_hash(captions),
            "model": self.model or theirs["model"],
        }
        for name, ours in expected.items():
            if theirs[name] != ours:
                raise DataError(
                    f"{self.path}: embeddings of another {name} ({theirs[name]} there, {ours} in "
                    "this config)"
                )
        if len(table.missing):
            raise DataError(
                f"{self.path}: {len(table.missing)} of {len(table.ids)} examples have no "
                f"embeddings yet, the first is id {table.ids[table.missing[0]]}; run the same "
                "store_scores command again"
            )
        ids = data.train.source.ids
        if len(table.ids) != len(ids) or (table.ids != ids).any():
            rows_of_ids(table.ids, ids, score_file.KEY)
            raise DataError(f"{self.path}: its examples are in a different order from the data's")
        train = dataclasses.replace(data.train, embeddings=table)
        digest = f"{theirs['model']} {theirs['dtype']}"
        return dataclasses.replace(data, train=train, provenance=about | {"scores": digest})

    def obtain(self, experiment: Any, workdir: Path, train: TrainRun) -> Obtained | None:
        return Obtained()

    def each(self, params: Any) -> list[Any]:
        return []

    def batch_columns(self, module: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
        if not isinstance(module, TwoTower):
            return {score_file.COLUMN: ("float32", ())}
        width = (module.text_out or module.text.width,)
        shapes = (width, width, (), ())
        return {
            name: ("float32", shape) for name, shape in zip(REFERENCE_COLUMNS, shapes, strict=True)
        }
