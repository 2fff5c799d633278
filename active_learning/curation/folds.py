"""Which fold holds an example out, and the finished pieces of cross-fitting on disk."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Integer

from active_learning.data.order import hash64


def assign_folds(
    labels: Integer[np.ndarray, "n"],
    groups: Integer[np.ndarray, "n"],
    folds: int,
    repeat: int,
    seed: int = 0,
) -> Int64[np.ndarray, "n"]:
    """The fold of every example: stratified by label, copies together, another draw each repeat.

    Args:
      labels: Given labels.
      groups: Equal numbers for copies of one picture, which a model must not see while one of
        them is judged.
      folds: Number of folds, at least 2.
      repeat: Which draw.
      seed: Of all draws.

    Raises:
      ValueError: fewer groups than folds, or fewer than 2 folds.
    """
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    if folds < 2 or len(first) < folds:
        raise ValueError(
            f"{folds} folds of {len(first)} different examples: give 2 .. {len(first)}"
        )
    drawn = hash64(seed, repeat, np.arange(len(first)))
    order = np.lexsort((drawn, labels[first]))  # by label, within it at random
    of_group = np.empty(len(first), np.int64)
    of_group[order] = np.arange(len(first)) % folds
    return of_group[group]


@dataclass(frozen=True)
class Pieces:
    """A folder of finished pieces: one .npz file each, written under another name and then renamed.

    Attributes:
      folder: Created when the first piece is saved.
      signature: Of everything the numbers depend on; pieces of another one are not found.
    """

    folder: Path
    signature: str

    def path(self, name: str) -> Path:
        """The file of a piece."""
        return self.folder / f"{name}-{self.signature}.npz"

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """The piece, or None where there is none."""
        path = self.path(name)
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    def save(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes a piece; a reader sees all of it or nothing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(name)
        partial = path.with_suffix(f".{os.getpid()}.tmp")
        named: dict[str, Any] = dict(arrays)  # `savez` declares other keyword arguments too
        with partial.open("wb") as file:
            np.savez(file, **named)
        partial.replace(path)


def signature(*parts: object) -> str:
    """Ten hex digits over arrays (bytes, type, shape) and other values (their representation)."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(repr(part).encode() + b"\0")
    return digest.hexdigest()[:10]
