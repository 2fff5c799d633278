"""Offline filtering: the reference scores the pool once, and training sees what it keeps."""

import dataclasses
import io
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, PyTree

from active_learning import distributed
from active_learning.data.parts import Part
from active_learning.metrics import write_atomic
from active_learning.references import score_file


def kept_ids(
    train: Part, fraction: float, losses: Float32[np.ndarray, "n"]
) -> Int64[np.ndarray, "k"]:
    """Ids of the given fraction of a part with the lowest losses, ascending.

    Ties go to the lower row.
    """
    rows = np.argsort(losses, kind="stable")[: round(fraction * len(train))]
    return np.sort(train.ids[rows])


def _losses(experiment: Any, params: PyTree) -> Float32[np.ndarray, "n"]:
    """Each example's loss by the reference; of several by the one that was not trained on it."""
    train, model = experiment.data.train, experiment.recipe.scorer
    each = experiment.reference.each(params)
    losses = np.empty(len(train), np.float32)
    scored_by = train.columns.get("scored_by", np.zeros(len(train), np.int32))
    for k, one in enumerate(each):
        rows = np.flatnonzero(scored_by == k)
        losses[rows], _ = score_file.score_all(model, one, train.select(rows).small_view())
    return losses


def filter_pool(experiment: Any, params: PyTree | None, workdir: Path) -> tuple[Any, float, float]:
    """Restricts a run to the examples that the reference finds easiest.

    The choice is written to kept.npz, so that a resumed run trains on the same examples and pays
    nothing twice.

    Returns:
      The experiment on the examples kept, and FLOPs and seconds of scoring the pool (0 where the
      scores are stored).
    """
    train, file = experiment.data.train, workdir / "kept.npz"
    fraction = experiment.recipe.policy.pool_fraction

    def choose() -> dict[str, np.ndarray]:
        if (saved := _read(file)) is not None:
            return saved
        flops, began = 0.0, time.monotonic()
        if score_file.COLUMN in train.columns:
            losses = train.columns[score_file.COLUMN]
        else:
            losses = _losses(experiment, params)
            cost = experiment.scorer.cost(experiment.scorer_view.image_shape)
            flops = len(train) * cost.forward
        ids, seconds = kept_ids(train, fraction, losses), time.monotonic() - began
        chosen = {"id": ids, "flops": np.asarray(flops), "seconds": np.asarray(seconds)}
        content = io.BytesIO()
        np.savez(content, id=ids, flops=flops, seconds=seconds)
        write_atomic(file, content.getvalue())
        return chosen

    chosen = distributed.arrays_from_primary(choose)
    kept = train.select(np.flatnonzero(np.isin(train.ids, chosen["id"])))
    if "reference" not in experiment.recipe.policy.needs:  # No update reads what it said.
        kept = dataclasses.replace(kept, columns={})
    data = dataclasses.replace(experiment.data, train=kept)
    seen = dataclasses.replace(experiment, opened_data=data)
    return seen, float(chosen["flops"]), float(chosen["seconds"])


def _read(file: Path) -> dict[str, np.ndarray] | None:
    """What `filter_pool` has written; None where it is missing or damaged, and chosen again."""
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as saved:
            numbers = {name: np.asarray(saved[name].item()) for name in ("flops", "seconds")}
            return {"id": saved["id"]} | numbers
    except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile, zlib.error):
        return None
