"""Features of the examples of a source, kept in a memory-mapped file and read by row.

A folder holds features.npy (n, D) float32, stored.npy (n,) bool, which says which rows have been
written, and about.json: what the features are of, and what computing them took. Rows are written
in pieces, each before it is marked, so that a stopped pass goes on where it was.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64, Integer

from active_learning.data.errors import DataError

COLUMN = "features"  # of a batch
# Columns of a batch with stored embeddings of a reference, in the order of `core.Embeddings`.
REFERENCE_COLUMNS = ("reference_image", "reference_text", "reference_scale", "reference_bias")
# Entries of about.json that must be the same for the features to be of use.
IDENTITY = ("data", "ids", "model", "view", "dtype", "pixels")


class FeatureTable:
    """Stored features of one source.

    Attributes:
      folder: Where they are.
      ids: Ids of the source's examples, in its order.
      width: Features of an example, D.
    """

    def __init__(self, folder: Path, ids: Int64[np.ndarray, "n"], width: int):
        self.folder, self.ids, self.width = folder, ids, width
        self._values = self._map("features.npy", np.float32, (len(ids), width))
        self._stored = self._map("stored.npy", np.bool_, (len(ids),))

    @classmethod
    def open(
        cls,
        folder: Path,
        about: Mapping[str, str],
        ids: Int64[np.ndarray, "n"],
        width: int,
        key: str = "config.scorer.store",
    ) -> "FeatureTable":
        """Opens the features in a folder; makes an empty table where there is none.

        Args:
          folder: Of the features of all sources; the table is in a subfolder named by `about`.
          about: What they are of, by the names in `IDENTITY` without "ids".
          ids: Ids of the source's examples.
          width: Features of an example.
          key: Of `folder` in the config, for error messages.

        Raises:
          DataError: The table is damaged, of other examples or of another model, or cannot be
            written.
        """
        about = {**about, "ids": hashlib.sha256(ids.tobytes()).hexdigest()[:16]}
        there = folder / f"{about['data']}-{about['model']}-{_digest(about)}"
        if not there.exists():
            try:
                _create(there, about, len(ids), width)
            except OSError as error:
                raise DataError(
                    f"{key}={str(folder)!r}: cannot be written ({error.strerror})"
                ) from error
        theirs = _about(there)
        for name in IDENTITY:
            if theirs.get(name) != about[name]:
                raise DataError(
                    f"{there}: features of another {name} ({theirs.get(name)} there, "
                    f"{about[name]} in this config); delete the folder"
                )
        return cls(there, ids, width)

    def _map(self, name: str, dtype: type, shape: tuple[int, ...]) -> np.memmap:
        path = self.folder / name
        try:
            values = np.lib.format.open_memmap(path, mode="r+")
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"{path}: cannot be read ({error}); delete the folder to compute it again"
            ) from error
        if values.dtype != dtype or values.shape != shape:
            raise DataError(
                f"{path}: {values.dtype} of shape {values.shape}, expected {np.dtype(dtype)} of "
                f"shape {shape}; delete the folder to compute it again"
            )
        return values

    def is_stored(self, rows: Integer[np.ndarray, "k"]) -> Bool[np.ndarray, "k"]:
        """Whether the features of these rows of the source have been written."""
        return np.asarray(self._stored[rows])

    def read(self, rows: Integer[np.ndarray, "k"]) -> Float32[np.ndarray, "k D"]:
        """Features of rows of the source. Raises DataError naming an example without any."""
        stored = self._stored[rows]
        if not stored.all():
            missing = self.ids[rows][~stored]
            raise DataError(
                f"{self.folder}: no features of id {missing[0]} and {len(missing) - 1} more; "
                "the run's command computes them"
            )
        return np.asarray(self._values[rows])

    def write(
        self,
        rows: Integer[np.ndarray, "k"],
        values: Float32[np.ndarray, "k D"],
        seconds: float = 0.0,
    ) -> None:
        """Writes features of rows of the source, and adds what they took.

        Raises:
          DataError: Names an example whose features are not finite; nothing is written.
        """
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            raise DataError(
                f"{self.folder}: features of id {self.ids[rows][~finite][0]} are not finite"
            )
        self._values[rows] = values
        self._values.flush()
        self._stored[rows] = True
        self._stored.flush()
        about = _about(self.folder)
        about["rows"] = about.get("rows", 0) + len(rows)
        about["seconds"] = about.get("seconds", 0.0) + seconds
        write_json(self.folder / "about.json", about)

    @property
    def seconds_per_row(self) -> float:
        """Wall-clock time that computing the features of one example took, on average."""
        about = _about(self.folder)
        return about.get("seconds", 0.0) / max(about.get("rows", 0), 1)


@dataclass(frozen=True)
class PairTables:
    """Stored embeddings of a reference: of each image of a source, and of each of its captions."""

    image: FeatureTable
    # The embeddings of all captions of a row, one after the other.
    text: FeatureTable
    # Logit scale and bias of the reference.
    scale: float
    bias: float

    def images(self, rows: Integer[np.ndarray, "k"]) -> Float32[np.ndarray, "k D"]:
        """Embeddings of the images of rows of the source."""
        return self.image.read(rows)

    def texts(
        self, rows: Integer[np.ndarray, "k"], places: Integer[np.ndarray, "k"]
    ) -> Float32[np.ndarray, "k D"]:
        """Embeddings of one caption of each row of the source, counted from 0."""
        every = self.text.read(rows).reshape(len(rows), -1, self.image.width)
        return every[np.arange(len(rows)), places]

    def columns(
        self,
        rows: Integer[np.ndarray, "k"],
        caption_rows: Integer[np.ndarray, "k"],
        places: Integer[np.ndarray, "k"],
    ) -> dict[str, np.ndarray]:
        """What a batch carries of the reference: `REFERENCE_COLUMNS`."""
        scalars = (np.full(len(rows), value, np.float32) for value in (self.scale, self.bias))
        values = self.images(rows), self.texts(caption_rows, places), *scalars
        return dict(zip(REFERENCE_COLUMNS, values, strict=True))


def _create(folder: Path, about: Mapping[str, Any], count: int, width: int) -> None:
    """Makes an empty table; of several processes that do, one wins."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        opened = np.lib.format.open_memmap
        opened(partial / "features.npy", mode="w+", dtype=np.float32, shape=(count, width)).flush()
        opened(partial / "stored.npy", mode="w+", dtype=np.bool_, shape=(count,)).flush()
        write_json(partial / "about.json", about)
        partial.rename(folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file, whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    partial.write_text(json.dumps(dict(content), indent=1))
    partial.replace(path)


def _about(folder: Path) -> dict[str, Any]:
    path = folder / "about.json"
    try:
        about = json.loads(path.read_bytes())
        [about[name] for name in IDENTITY]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path}: cannot be read ({type(error).__name__}); delete the folder to compute "
            "it again"
        ) from error
    return about


def _digest(about: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]
