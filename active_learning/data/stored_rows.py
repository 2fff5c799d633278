"""Rows of numbers about the examples of a source, kept in a folder and read by example.

A folder holds values.npy, the rows of all examples one after the other; starts.npy (n + 1,), where
those of each example begin; ids.npy (n,), the ids of the examples; stored.npy (n,) bool, which
examples have been written; and about.json: what the rows are of, and what computing them took. The
files are memory-mapped. Values are float32, or bfloat16 as its upper 16 bits in uint16. Examples
are written in pieces, each before it is marked, so that a stopped pass goes on where it was.
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
DTYPES = {"float32": np.float32, "bfloat16": np.uint16}
ABOUT = "about.json"
# Entries of about.json that every table has.
ENTRIES = ("content", "data", "ids", "model", "width", "dtype")
AGAIN = "delete the folder to compute it again"


class RowTable:
    """One or several rows for each example of a source.

    Attributes:
      folder: Where they are.
      about: What they are of.
      ids: Ids of the examples, in the source's order.
    """

    def __init__(self, folder: Path, write: bool = False):
        """Opens a folder. Raises DataError naming the file that is missing or damaged."""
        self.folder, self.about = folder, _read_about(folder)
        mode, width = "r+" if write else "r", self.about["width"]
        kind = DTYPES[self.about["dtype"]]
        self.ids = self._map("ids", "r", np.int64, None)
        count = len(self.ids)
        self._starts = self._map("starts", "r", np.int64, (count + 1,))
        self._values = self._map("values", mode, kind, (int(self._starts[-1]), width))
        self._stored = self._map("stored", mode, np.bool_, (count,))

    def _map(self, name: str, mode: Any, dtype: type, shape: tuple[int, ...] | None) -> np.memmap:
        path = self.folder / f"{name}.npy"
        try:
            values = np.load(path, mmap_mode=mode, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path}: cannot be read ({error}); {AGAIN}") from error
        shape = (values.size,) if shape is None else shape
        if values.dtype != dtype or values.shape != shape:
            raise DataError(
                f"{path}: {values.dtype} of shape {values.shape}, expected {np.dtype(dtype)} of "
                f"shape {shape}; {AGAIN}"
            )
        return values

    @classmethod
    def begin(
        cls,
        folder: Path,
        about: Mapping[str, Any],
        ids: Int64[np.ndarray, "n"],
        width: int,
        counts: Int64[np.ndarray, "n"] | None = None,
        dtype: str = "float32",
        key: str = "",
    ) -> "RowTable":
        """An empty table, or the one of the same that was begun in the folder.

        Args:
          folder: A new folder, or that of an earlier call.
          about: What the rows are of: `ENTRIES` without those that follow from the other arguments,
            and more.
          ids: Of the examples.
          width: Numbers in a row.
          counts: Rows of each example; None: one.
          dtype: A key of `DTYPES`.
          key: Of the folder in the config, for error messages.

        Raises:
          DataError: The folder holds something else, is damaged, or cannot be written.
        """
        about = {**about, "ids": ids_hash(ids), "width": width, "dtype": dtype}
        if not folder.exists():
            counts = np.ones(len(ids), np.int64) if counts is None else counts
            try:
                _create(folder, about, ids, counts)
            except OSError as error:
                where = f"{key}={str(folder)!r}" if key else str(folder)
                raise DataError(f"{where}: cannot be written ({error.strerror})") from error
        table = cls(folder, write=True)
        for name, value in about.items():
            if (theirs := table.about.get(name)) != value:
                raise DataError(
                    f"{folder}: {table.about['content']} of another {name} ({theirs} there, "
                    f"{value} in this config); delete the folder or name another one"
                )
        return table

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return self.about["width"]

    def is_stored(self, rows: Integer[np.ndarray, "k"]) -> Bool[np.ndarray, "k"]:
        """Whether these examples (rows of the source) have been written."""
        return np.asarray(self._stored[rows])

    def read(
        self, rows: Integer[np.ndarray, "k"], places: Integer[np.ndarray, "k"] | None = None
    ) -> Float32[np.ndarray, "k D"]:
        """One row of each of these examples.

        Args:
          rows: Rows of the source.
          places: Which of the example's rows, counted from 0; None: the first.

        Raises:
          DataError: Names an example that has not been written.
        """
        stored = self._stored[rows]
        if not stored.all():
            missing = self.ids[rows][~stored]
            raise DataError(
                f"{self.folder}: no {self.about['content']} of id {missing[0]} and "
                f"{len(missing) - 1} more; the command that began the folder computes them"
            )
        at = self._starts[rows] + (0 if places is None else places)
        values = np.asarray(self._values[at])
        return values if self.about["dtype"] == "float32" else from_bfloat16(values)

    def write(
        self,
        rows: Integer[np.ndarray, "k"],
        values: Float32[np.ndarray, "m D"],
        seconds: float = 0.0,
    ) -> None:
        """Writes examples, and adds what they took.

        Args:
          rows: Rows of the source.
          values: All rows of these examples, one example after the other.
          seconds: What computing them took.

        Raises:
          DataError: Names an example with a value that is not finite; nothing is written.
        """
        first, counts = self._starts[rows], self._starts[rows + 1] - self._starts[rows]
        owners = np.repeat(rows, counts)
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            raise DataError(
                f"{self.folder}: {self.about['content']} of id {self.ids[owners[~finite][0]]} "
                "are not finite"
            )
        within = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
        packed = values if self.about["dtype"] == "float32" else to_bfloat16(values)
        self._values[np.repeat(first, counts) + within] = packed
        self._values.flush()
        self._stored[rows] = True
        self._stored.flush()
        about = _read_about(self.folder)
        about["examples"] = about.get("examples", 0) + len(rows)
        about["seconds"] = about.get("seconds", 0.0) + seconds
        write_json(self.folder / ABOUT, about)
        self.about = about

    @property
    def seconds_per_example(self) -> float:
        """Wall-clock time that computing the rows of one example took, on average."""
        about = _read_about(self.folder)
        return about.get("seconds", 0.0) / max(about.get("examples", 0), 1)


@dataclass(frozen=True)
class PairTables:
    """Stored embeddings of a two-tower model: of each image, and of each of its captions."""

    image: RowTable
    text: RowTable
    # Logit scale and bias of the model.
    scale: float
    bias: float

    def reopened(self) -> "PairTables":
        """The tables as they are now, for a process that has not written them."""
        image, text = RowTable(self.image.folder), RowTable(self.text.folder)
        return PairTables(image, text, self.scale, self.bias)

    def columns(
        self,
        rows: Integer[np.ndarray, "k"],
        caption_rows: Integer[np.ndarray, "k"],
        places: Integer[np.ndarray, "k"],
    ) -> dict[str, np.ndarray]:
        """What a batch carries of the reference: `REFERENCE_COLUMNS`.

        Args:
          rows: Rows of the images in the source.
          caption_rows: Rows of the examples whose captions the pairs have.
          places: Which of their captions, counted from 0.
        """
        scalars = (np.full(len(rows), value, np.float32) for value in (self.scale, self.bias))
        values = self.image.read(rows), self.text.read(caption_rows, places), *scalars
        return dict(zip(REFERENCE_COLUMNS, values, strict=True))


def to_bfloat16(values: Float32[np.ndarray, "*n"]) -> np.ndarray:
    """Upper halves of float32 numbers, rounded to the nearest (ties to even)."""
    words = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = words + np.uint32(0x7FFF) + ((words >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype(np.uint16)


def from_bfloat16(values: np.ndarray) -> Float32[np.ndarray, "*n"]:
    """The float32 numbers whose upper halves these are."""
    return (np.asarray(values).astype(np.uint32) << np.uint32(16)).view(np.float32)


def folder_for(store: Path, about: Mapping[str, Any], ids: Int64[np.ndarray, "n"]) -> Path:
    """The folder of a table among those that share a store, named by what it is of."""
    text = json.dumps({**about, "ids": ids_hash(ids)}, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return store / f"{about['data']}-{about['model']}-{digest}"


def ids_hash(ids: Int64[np.ndarray, "n"]) -> str:
    """Hash of the ids of a source, in their order."""
    return hashlib.sha256(np.ascontiguousarray(ids).tobytes()).hexdigest()[:16]


def _create(folder: Path, about: Mapping[str, Any], ids: np.ndarray, counts: np.ndarray) -> None:
    """Makes an empty table; of several processes that do, one wins."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    opened, kind = np.lib.format.open_memmap, DTYPES[about["dtype"]]
    try:
        np.save(partial / "ids.npy", ids.astype(np.int64))
        np.save(partial / "starts.npy", starts)
        shape = (int(starts[-1]), about["width"])
        opened(partial / "values.npy", mode="w+", dtype=kind, shape=shape).flush()
        opened(partial / "stored.npy", mode="w+", dtype=np.bool_, shape=(len(ids),)).flush()
        write_json(partial / ABOUT, about)
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


def _read_about(folder: Path) -> dict[str, Any]:
    path = folder / ABOUT
    try:
        about = json.loads(path.read_bytes())
        [about[name] for name in ENTRIES]
        DTYPES[about["dtype"]]
    except FileNotFoundError as error:
        raise DataError(f"{folder}: no {ABOUT} there, so nothing is stored") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__}); {AGAIN}") from error
    return about
