"""Files of reference scores: the loss of every example by id, computed once by `store_scores`.

NAME.npz (or .parquet, .csv) holds id int64, label int32 (the one that the loss is of), loss float32
(nats) and hit bool; NAME.json its sha256, the hashes of data and model, the view and the compute
type.
"""

import csv
import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float32, Int32, Int64, PyTree

from active_learning.core import losses
from active_learning.core.recipe import Model
from active_learning.core.sharding import batch_sharding, replicated
from active_learning.data.parts import Part, rows_of_ids
from active_learning.data.sources.source import DataError
from active_learning.evaluators.batches import map_batches
from active_learning.metrics import write_atomic

COLUMN = "reference_loss"  # of a batch
KEY = "config.reference.path"
BATCH = 500  # examples at a time


@dataclass(frozen=True)
class Scores:
    """Scores by id. `about` is what the JSON file says."""

    ids: Int64[np.ndarray, "n"]
    labels: Int32[np.ndarray, "n"]
    loss: Float32[np.ndarray, "n"]
    hit: Bool[np.ndarray, "n"]
    about: dict


def score_all(
    model: Model, params: PyTree, part: Part, batch_size: int = BATCH, mesh: Mesh | None = None
) -> tuple[Float32[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """Scores every example of a part on the unaugmented view in evaluation mode.

    Args:
      model: The model.
      params: Its parameters.
      part: The examples.
      batch_size: Examples at a time.
      mesh: Devices that share the batches; None: one.

    Returns:
      l_act of each example, and whether the prediction is its label.
    """
    return scorer(model, params, part, batch_size, mesh)(np.arange(len(part)))


def scorer(
    model: Model, params: PyTree, part: Part, batch_size: int, mesh: Mesh | None
) -> Callable[[Int64[np.ndarray, "k"]], tuple[Float32[np.ndarray, "k"], Bool[np.ndarray, "k"]]]:
    """`score_all` for some rows of a part; compiles when it is first called."""

    def one(params, batch):
        outputs = model.apply(params, batch, False)
        return model.act_loss(outputs, batch), losses.accuracy(outputs["logits"], batch["label"])

    placement = None if mesh is None else batch_sharding(mesh)
    everywhere = None if mesh is None else replicated(mesh)
    if everywhere is not None:
        params = jax.device_put(params, everywhere)
    scored = jax.jit(one, out_shardings=everywhere)

    def score(rows: Int64[np.ndarray, "k"]):
        blocks = map_batches(
            lambda batch: scored(params, batch),
            lambda at: part.batch(rows[at], np.zeros(len(at), np.int32)),
            len(rows),
            min(batch_size, len(part)),
            placement,
        )
        loss, hit = (np.concatenate(leaves) for leaves in zip(*blocks, strict=True))
        return loss.astype(np.float32), hit > 0.5

    return score


def pieces_of(count: int) -> list[Int64[np.ndarray, "k"]]:
    """Rows of each piece of a pass over `count` examples: about 256 pieces of whole batches.

    A piece is what a stopped pass loses, and what several workers share.
    """
    batches = min(max(count // (256 * BATCH), 8), 128)
    starts = range(0, count, batches * BATCH)
    return [np.arange(start, min(start + batches * BATCH, count)) for start in starts]


def view_name(image_shape: tuple[int, int, int]) -> str:
    """The name of the view that is scored: plain (no augmentation), at this size."""
    return "plain {}x{}x{}".format(*image_shape)


def write(path: Path, scores: Scores) -> dict:
    """Writes the file, in the format of its suffix, and then NAME.json, which is returned."""
    columns = {"id": scores.ids, "label": scores.labels, "loss": scores.loss, "hit": scores.hit}
    write_atomic(path, _WRITERS[path.suffix](columns))
    about = scores.about | {"examples": len(scores.ids), "sha256": _sha256(path)}
    write_atomic(path.with_suffix(".json"), json.dumps(about, indent=1))
    return about


def _npz(columns: dict[str, np.ndarray]) -> bytes:
    content = io.BytesIO()
    np.savez(
        content, id=columns["id"], label=columns["label"], loss=columns["loss"], hit=columns["hit"]
    )
    return content.getvalue()


def _parquet(columns: dict[str, np.ndarray]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    content = io.BytesIO()
    parquet.write_table(pa.table(columns), content)
    return content.getvalue()


def _csv(columns: dict[str, np.ndarray]) -> bytes:
    content = io.StringIO()
    writer = csv.writer(content)
    writer.writerow(columns)
    loss = [f"{value:.9g}" for value in columns["loss"].tolist()]  # float32 survives nine digits
    hit = columns["hit"].astype(int).tolist()
    writer.writerows(zip(columns["id"].tolist(), columns["label"].tolist(), loss, hit, strict=True))
    return content.getvalue().encode()


_WRITERS = {".npz": _npz, ".parquet": _parquet, ".csv": _csv}
SUFFIXES = tuple(_WRITERS)


def _columns(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """id, label, loss and hit of a file. Raises KeyError, ValueError or BadZipFile."""
    names = ("id", "label", "loss", "hit")
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as found:
            return found["id"], found["label"], found["loss"], found["hit"]
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as parquet

        try:
            table = parquet.read_table(path, columns=list(names))
        except (OSError, pa.ArrowException) as error:
            raise ValueError(" ".join(str(error).split())) from error
        ids, labels, loss, hit = (table[name].to_numpy() for name in names)
        return ids, labels, loss, hit
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = (np.int64, np.int32, np.float32, np.int8)
    found = [
        np.array([row[name] for row in rows]).astype(kind)
        for name, kind in zip(names, kinds, strict=True)
    ]
    return found[0], found[1], found[2], found[3].astype(bool)


def check(path: Path, data_hash: str, view: str, model: str = "", ids_by: str = "place") -> dict:
    """Checks that a file is whole and holds the scores that are expected; returns its JSON.

    Args:
      path: NAME.npz, .parquet or .csv.
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
            f"{path}: its ids are of kind {theirs!r}, but those of these data are of kind "
            f"{ids_by!r}; write it again with store_scores"
        )
    for name, ours in (("data", data_hash), ("view", view), ("model", model or about["model"])):
        if about[name] != ours:
            raise DataError(
                f"{path}: scores of another {name} ({about[name]} there, {ours} in this config)"
            )
    return about


def read(path: Path, data_hash: str, view: str, model: str = "", ids_by: str = "place") -> Scores:
    """Checks a file and reads it; arguments and errors are those of `check`."""
    return read_checked(path, check(path, data_hash, view, model, ids_by))


def read_checked(path: Path, about: dict) -> Scores:
    """Reads a file whose JSON `check` has returned. Raises DataError where it holds no scores."""
    try:
        ids, labels, loss, hit = _columns(path)
        scores = Scores(ids, labels, loss, hit, about)
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: no stored scores ({error})") from error
    if len(bad := np.flatnonzero(~np.isfinite(scores.loss))):
        raise DataError(
            f"{path}: {len(bad)} losses are not finite, the first of id {scores.ids[bad[0]]}"
        )
    return scores


def already(path: Path, about: dict, part: Part) -> dict | None:
    """What NAME.json says, where the file holds the scores of exactly this pass; else None."""
    if not path.is_file():
        return None
    try:
        scores = read(path, about["data"], about["view"], about["model"], about["ids"])
    except DataError:
        return None
    same = all(scores.about.get(name) == value for name, value in about.items())
    same = same and np.array_equal(scores.ids, np.asarray(part.source.ids))
    return scores.about if same and np.array_equal(scores.labels, part.labels) else None


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
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
