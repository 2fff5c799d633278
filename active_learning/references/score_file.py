"""Files of reference scores: the loss of every example by id, computed once by `store_scores`.

NAME.npz holds id int64, label int32 (the one that the loss is of), loss float32 (nats) and hit
bool; NAME.json its sha256, the hashes of data and model, the view and the compute type.
"""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, PyTree

from active_learning.core import losses
from active_learning.core.recipe import Model
from active_learning.data.parts import Part, rows_of_ids
from active_learning.data.sources.source import DataError
from active_learning.evaluators.batches import map_batches
from active_learning.metrics import write_atomic

COLUMN = "reference_loss"  # of a batch
KEY = "config.reference.path"


@dataclass(frozen=True)
class Scores:
    """Scores by id. `about` is what the JSON file says."""

    ids: Int64[np.ndarray, "n"]
    labels: Int32[np.ndarray, "n"]
    loss: Float32[np.ndarray, "n"]
    hit: Bool[np.ndarray, "n"]
    about: dict


def score_all(
    model: Model, params: PyTree, part: Part, batch_size: int = 500
) -> tuple[Float32[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """Scores every example of a part on the unaugmented view in evaluation mode.

    Returns:
      l_act of each example, and whether the prediction is its label.
    """

    def one(params, batch):
        outputs = model.apply(params, batch, False)
        return model.act_loss(outputs, batch), losses.accuracy(outputs["logits"], batch["label"])

    scored = jax.jit(one)
    blocks = map_batches(
        lambda batch: scored(params, batch),
        lambda rows: part.batch(rows, np.zeros(len(rows), np.int32)),
        len(part),
        min(batch_size, len(part)),
    )
    loss, hit = (np.concatenate(leaves) for leaves in zip(*blocks, strict=True))
    return loss.astype(np.float32), hit > 0.5


def view_name(image_shape: tuple[int, int, int]) -> str:
    """The name of the view that is scored: plain (no augmentation), at this size."""
    return "plain {}x{}x{}".format(*image_shape)


def write(path: Path, scores: Scores) -> dict:
    """Writes NAME.npz and then NAME.json, which is returned."""
    content = io.BytesIO()
    np.savez(content, id=scores.ids, label=scores.labels, loss=scores.loss, hit=scores.hit)
    write_atomic(path, content.getvalue())
    about = scores.about | {"examples": len(scores.ids), "sha256": _sha256(path)}
    write_atomic(path.with_suffix(".json"), json.dumps(about, indent=1))
    return about


def read(path: Path, data_hash: str, view: str, model: str = "", ids_by: str = "place") -> Scores:
    """Reads stored scores.

    Args:
      path: NAME.npz.
      data_hash: Hash of the data that they must be of.
      view: Name of the view that they must be of.
      model: Hash of the model that they must be of; "": any.
      ids_by: What the ids of the data are made of.

    Raises:
      DataError: Names the file when it is missing, damaged, or of another data set, view or model.
    """
    beside = path.with_suffix(".json")
    for file in (path, beside):
        if not file.is_file():
            raise DataError(
                f"{KEY}={str(path)!r}: no {file.name} there; `python -m "
                "active_learning.store_scores` writes it"
            )
    try:
        about = json.loads(beside.read_bytes())
        [about[name] for name in ("sha256", "data", "view", "model")]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{beside}: unreadable ({error})") from error
    if about["sha256"] != _sha256(path):
        raise DataError(f"{path}: its sha256 is not the one in {beside.name}: damaged or replaced")
    theirs = about.get("ids", "place")
    if about["data"] != data_hash and theirs != ids_by:
        raise DataError(
            f"{path}: its ids are made of {theirs}, those of these data of {ids_by}; write it "
            "again with store_scores"
        )
    for name, ours in (("data", data_hash), ("view", view), ("model", model or about["model"])):
        if about[name] != ours:
            raise DataError(
                f"{path}: scores of another {name} ({about[name]} there, {ours} in this config)"
            )
    try:
        with np.load(path) as found:
            scores = Scores(found["id"], found["label"], found["loss"], found["hit"], about)
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: no stored scores ({error})") from error
    if len(bad := np.flatnonzero(~np.isfinite(scores.loss))):
        raise DataError(
            f"{path}: {len(bad)} losses are not finite, the first of id {scores.ids[bad[0]]}"
        )
    return scores


def rows_for(scores: Scores, part: Part) -> Int64[np.ndarray, "n"]:
    """Rows of the stored scores for the examples of a part, in its order.

    Raises:
      DataError: An example without a score, or scored with another label.
    """
    rows = rows_of_ids(scores.ids, part.ids, KEY)
    differ = np.flatnonzero(scores.labels[rows] != part.labels)
    if len(differ):
        first = differ[0]
        raise DataError(
            f"{KEY}: id {part.ids[first]} was scored with label {scores.labels[rows][first]}, "
            f"here it is {part.labels[first]} ({len(differ)} of {len(part)} differ)"
        )
    return rows


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
