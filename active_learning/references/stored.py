"""A reference whose losses or embeddings were computed beforehand.

This is the paper's foundation dataset: no reference runs.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from active_learning.config import ConfigError
from active_learning.data.errors import DataError
from active_learning.data.parts import Data, rows_of_ids
from active_learning.data.stored_rows import REFERENCE_COLUMNS, PairTables, RowTable
from active_learning.models import TwoTower
from active_learning.references import score_file
from active_learning.references.base import Reference, WithoutModel


@dataclass(frozen=True)
class Stored(WithoutModel, Reference):
    """Scores that `store_scores` wrote, joined to the data by id; no reference runs."""

    kind_name = "stored"
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
        provenance, gate = data.provenance, config.evaluate.gate
        expected = provenance["hash"], view, self.model, provenance.get("ids", "place")
        about = score_file.check(Path(self.path), *expected)

        def join() -> dict[str, np.ndarray]:
            scores = score_file.read_checked(Path(self.path), about)
            held = {"train": scores.loss[score_file.rows_for(scores, data.train)]}
            if gate:
                rows = score_file.rows_for(scores, data.parts[gate])
                held["gate"] = np.array([scores.hit[rows].mean(), scores.loss[rows].mean()])
            return held

        # What decides which examples the parts hold, and their labels.
        also = config.evaluate.also.get(gate)
        parts = f"{config.split}, {config.data.label!r}, gate {gate!r} of {also}"
        held = data.train.source.kept(f"losses of {about['sha256']} for {parts}", join)
        train = data.train.with_column(score_file.COLUMN, held["train"])
        data = dataclasses.replace(
            data, train=train, provenance=provenance | {"scores": about["sha256"][:16]}
        )
        if not gate:
            return data, None
        accuracy, loss = held["gate"].tolist()
        return data, {"accuracy": accuracy, "loss": loss}

    def _attach_embeddings(self, data: Data, view: str) -> Data:
        """Checks that the embeddings are of these images and captions; batches then carry them."""
        captions, about = data.train.captions, data.provenance
        assert captions is not None  # attached by the task
        tables = open_pairs(Path(self.path))
        theirs = tables.image.about
        made_of = about.get("ids", "place")
        if theirs["data"] != about["hash"] and theirs.get("ids_by") != made_of:
            raise DataError(
                f"{self.path}: its ids are of kind {theirs.get('ids_by')!r}, but those of these "
                f"data are of kind {made_of!r}; write it again with store_scores"
            )
        expected = {
            "data": about["hash"],
            "view": view,
            "captions": captions.content_hash(),
            "model": self.model or theirs["model"],
        }
        for name, ours in expected.items():
            if theirs.get(name) != ours:
                raise DataError(
                    f"{self.path}: embeddings of another {name} ({theirs.get(name)} there, {ours} "
                    "in this config)"
                )
        ids = tables.image.ids
        every = np.arange(len(ids))
        stored = tables.image.is_stored(every) & tables.text.is_stored(every)
        if not stored.all():
            raise DataError(
                f"{self.path}: {np.sum(~stored)} of {len(ids)} examples have no embeddings yet, "
                f"the first is id {ids[~stored][0]}; run the same store_scores command again"
            )
        ours = data.train.source.ids
        if len(ids) != len(ours) or (ids != ours).any():
            rows_of_ids(ids, ours, score_file.KEY)
            raise DataError(f"{self.path}: its examples are in a different order from the data's")
        train = dataclasses.replace(data.train, embeddings=tables)
        digest = f"{theirs['model']} {theirs['dtype']}"
        return dataclasses.replace(data, train=train, provenance=about | {"scores": digest})

    def batch_columns(self, module: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
        if not isinstance(module, TwoTower):
            return {score_file.COLUMN: ("float32", ())}
        width = (module.text_out or module.text.width,)
        shapes = (width, width, (), ())
        return {
            name: ("float32", shape) for name, shape in zip(REFERENCE_COLUMNS, shapes, strict=True)
        }


def open_pairs(folder: Path) -> PairTables:
    """Embeddings in a folder that `store_scores` wrote. Raises DataError naming what is wrong."""
    try:
        image, text = (RowTable(folder / name) for name in ("image", "text"))
        return PairTables(image, text, float(text.about["scale"]), float(text.about["bias"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder}: no embeddings of pairs ({error}); `python -m active_learning.store_scores` "
            "writes them"
        ) from error
