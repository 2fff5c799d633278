"""Replay: trains on what another run chose, in its order (the paper's fully amortized policy).

A run with `log.chosen=True` leaves chosen/FROM.npy (ids, uint64 (steps, b), in training order) and
beside it chosen/FROM.npz (epoch int32 and weight float32 of each). `select.replay` names its
folder; no scorer runs.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt64

from active_learning.config import ConfigError
from active_learning.data.parts import Part

KEY = "config.select.replay"


@dataclass(frozen=True)
class Choices:
    """What a run trained on, update by update."""

    ids: UInt64[np.ndarray, "steps b"]
    epochs: Int32[np.ndarray, "steps b"]
    weights: Float32[np.ndarray, "steps b"]


def write(folder: Path, first: int, choices: Choices) -> None:
    """Writes the choices of the updates from `first` on, replacing a file of that name."""
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{first:08d}.npy", choices.ids)
    np.savez(folder / f"{first:08d}.npz", epoch=choices.epochs, weight=choices.weights)


def read(run: Path, batch_size: int, total: int, data_hash: str, ids_by: str = "place") -> Choices:
    """Reads the recorded choices of a run.

    Args:
      run: Its folder.
      batch_size: Examples of an update; the recorded run must have the same.
      total: Updates that are needed.
      data_hash: Hash of the data, which must be the recorded run's.
      ids_by: What the ids of the data are made of.

    Raises:
      ConfigError: Names what does not fit.
    """
    files = sorted((run / "chosen").glob("*.npy"))
    if not files or not (run / "config.json").exists():
        raise ConfigError(
            f"{KEY}={str(run)!r}: no recorded choices there; its run needs log.chosen=True"
        )
    recorded = json.loads((run / "config.json").read_text())["data"]
    theirs, made_of = recorded.get("hash"), recorded.get("ids", "place")
    if theirs != data_hash and made_of != ids_by:
        raise ConfigError(
            f"{KEY}={str(run)!r}: recorded with ids of kind {made_of!r}, but those of these data "
            f"are of kind {ids_by!r}; record it again"
        )
    if theirs != data_hash:
        raise ConfigError(
            f"{KEY}={str(run)!r}: recorded on other data (hash {theirs} there, {data_hash} here)"
        )
    rows: dict[str, list] = {"ids": [], "epochs": [], "weights": []}
    for file in files:
        at, beside = len(rows["ids"]), file.with_suffix(".npz")
        if int(file.stem) > at or not beside.exists():
            what = (
                f"updates {at} to {file.stem} are missing"
                if beside.exists()
                else f"{beside.name} is missing"
            )
            raise ConfigError(f"{KEY}={str(run)!r}: {what}")
        with np.load(beside) as more:
            for name, values in (
                ("ids", np.load(file)),
                ("epochs", more["epoch"]),
                ("weights", more["weight"]),
            ):
                # A run that was killed has written some updates twice.
                rows[name][int(file.stem) :] = list(values)
    choices = Choices(**{name: np.stack(values) for name, values in rows.items()})
    if choices.ids.shape[1] != batch_size:
        raise ConfigError(
            f"{KEY}={str(run)!r}: {choices.ids.shape[1]} ids an update, but "
            f"config.batch_size={batch_size}"
        )
    if len(choices.ids) < total:
        raise ConfigError(
            f"{KEY}={str(run)!r}: {len(choices.ids)} updates are recorded, config.total needs "
            f"{total}"
        )
    return choices


class Replay:
    """The stream (`data.loader.Stream`) of recorded choices, with their epochs and weights."""

    end = math.inf

    def __init__(self, part: Part, choices: Choices):
        self.part, self.choices = part, choices
        self.rows = part.rows_of(choices.ids, KEY)

    def at(
        self, position: int, count: int
    ) -> tuple[Int64[np.ndarray, "b"], Int32[np.ndarray, "b"]]:
        """`position` is update * b, `count` is b."""
        return self.rows[position // count], self.choices.epochs[position // count]

    def read(self, position: int, count: int, mine, small: bool) -> dict[str, np.ndarray]:
        """The batch also carries `weight`, (b,) float32."""
        rows, epochs = self.at(position, count)
        return self.part.batch(rows[mine], epochs[mine], small) | {
            "weight": self.choices.weights[position // count][mine]
        }
