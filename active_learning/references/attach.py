"""What a kind of reference adds to the data before a run: stored losses, which half scored which example, or a filtered pool."""

import dataclasses
import time
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from active_learning import distributed
from active_learning.config import ConfigError
from active_learning.data import splits
from active_learning.references import stored
from active_learning.settings import Config, reference_config, resolve


def attach(config: Config, data, view: str):
    """`data` with the columns that the reference's kind needs, and {"accuracy", "loss"} of a stored reference on the gate (else None).

    Raises ConfigError or DataError naming file, id or key.
    """
    kind, gate = config.reference.kind, None
    if not config.select.policy.reads_reference:
        return data, gate
    if kind == "stored":
        found = stored.read(
            Path(config.reference.path), data.provenance["hash"], view, config.reference.model
        )
        data = dataclasses.replace(
            data, provenance=data.provenance | {"scores": found.about["sha256"][:16]}
        )
        data = _with(data, stored.COLUMN, found.loss[stored.of(found, data.train)])
        if config.evaluate.gate:
            rows = stored.of(found, data.parts[config.evaluate.gate])
            gate = {
                "accuracy": float(found.hit[rows].mean()),
                "loss": float(found.loss[rows].mean()),
            }
    if kind == "crossfitted":
        ids = data.train.source.ids[data.train.indices]
        pictures = data.train.source.picture_ids[data.train.indices]
        scored_by = 1 - splits.fold_of(pictures)
        check_unseen([ids[splits.fold_of(pictures) == k] for k in range(splits.FOLDS)], ids, scored_by)
        data = _with(data, "scored_by", scored_by.astype(np.int32))
    return data, gate


def _with(data, column: str, values: np.ndarray):
    return dataclasses.replace(
        data, train=dataclasses.replace(data.train, columns={column: values})
    )


def check_unseen(
    trained_on: list[np.ndarray], ids: Int64[np.ndarray, "n"], scored_by: np.ndarray
) -> None:
    """DataError naming the reference that would score what it was trained on, and how many ids."""
    for k, seen in enumerate(trained_on):
        splits.check_disjoint(
            {f"trained on by reference {k}": seen, f"scored by reference {k}": ids[scored_by == k]}
        )


def check_own_runs(it) -> None:
    """A reference that is to be trained is a run of its own. ConfigError, before anything is written, when its config cannot run."""
    config, reference, data = it.config, it.config.reference, it.data
    if not config.select.policy.reads_reference or reference.kind not in ("trained", "crossfitted"):
        return
    if reference.kind == "crossfitted":
        halves = splits.fold_of(data.train.source.picture_ids[data.train.indices])
        pools = {k: int(np.sum(halves == k)) for k in range(splits.FOLDS)}
    elif reference.part in (known := config.split.parts or {"pool": 1}):
        pools = {-1: len(data.parts[reference.part])}
    else:
        raise ConfigError(
            f"config.reference.part={reference.part!r}: no part is named so; parts: {', '.join(known)}"
        )
    for fold, pool in pools.items():
        try:
            resolve(reference_config(config, fold), pool, it.mesh.size)
        except ConfigError as error:
            raise ConfigError(f"config.reference, as a run of its own: {error}") from error


def kept_ids(it, losses: Float32[np.ndarray, "n"]) -> Int64[np.ndarray, "k"]:
    """Ids of the share `keep` of the training part with the lowest reference loss, ascending; ties go to the lower row."""
    train, count = it.data.train, round(it.recipe.policy.keep * len(it.data.train))
    rows = np.argsort(losses, kind="stable")[:count]
    return np.sort(train.source.ids[train.indices[rows]])


def filtered(it, params, workdir: Path):
    """The run on the examples that the reference keeps, with FLOPs and seconds of scoring the pool once (0 where stored or found).

    The choice is written to kept.npz, so that a continued run trains on the same examples and pays nothing twice.
    """
    train, file = it.data.train, workdir / "kept.npz"

    def choose() -> None:
        paid, began = 0.0, time.monotonic()
        if stored.COLUMN in train.columns:
            losses = train.columns[stored.COLUMN]
        else:
            losses, _ = stored.score_all(it.recipe.scorer, params, train.small_view())
            paid = len(train) * it.scorer.cost(it.scorer_task.image_shape).forward
        np.savez(file, id=kept_ids(it, losses), flops=paid, seconds=time.monotonic() - began)

    distributed.on_first(lambda: None if file.exists() else choose())
    with np.load(file) as found:
        ids, paid, seconds = found["id"], float(found["flops"]), float(found["seconds"])
    rows = np.flatnonzero(np.isin(train.source.ids[train.indices], ids))
    truth = None if train.truth is None else train.truth[rows]
    part = dataclasses.replace(
        train, indices=train.indices[rows], labels=train.labels[rows], truth=truth, columns={}
    )
    return dataclasses.replace(it, data=dataclasses.replace(it.data, train=part)), paid, seconds
