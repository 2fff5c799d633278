"""Image and caption embeddings of a source, kept in memory-mapped files and read by row.

A folder holds ids.npy (n,), starts.npy (n + 1,), which says where the captions of each example
begin, image.npy (n, D) and text.npy (captions, D), stored.npy (n,) bool, which says which examples
have been written, and about.json. Values are float32, or bfloat16 as its upper 16 bits in uint16.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, Integer

from active_learning.data.errors import DataError
from active_learning.data.features import REFERENCE_COLUMNS, write_json

DTYPES = {"float32": np.float32, "bfloat16": np.uint16}
ABOUT = "about.json"


class EmbeddingTable:
    """Embeddings of every example and caption of one source.

    Attributes:
      folder: Where they are.
      about: What they are of.
      ids: Ids of the examples.
    """

    def __init__(self, folder: Path, write: bool = False):
        """Opens a folder. Raises DataError naming the file that is missing or damaged."""
        self.folder, self.about = folder, read_about(folder)
        mode = "r+" if write else "r"
        self.ids, self.starts = self._map("ids", "r"), self._map("starts", "r")
        self._image, self._text = self._map("image", mode), self._map("text", mode)
        self._stored = self._map("stored", mode)
        n, width = len(self.ids), self.about["width"]
        wanted = {
            "starts": (self.starts, (n + 1,)),
            "image": (self._image, (n, width)),
            "text": (self._text, (int(self.starts[-1]) if n else 0, width)),
            "stored": (self._stored, (n,)),
        }
        for name, (values, shape) in wanted.items():
            if values.shape != shape:
                raise DataError(
                    f"{folder / name}.npy: shape {values.shape}, expected {shape}; write the "
                    "folder again with store_scores"
                )

    def _map(self, name: str, mode: Any) -> Any:
        path = self.folder / f"{name}.npy"
        try:
            return np.load(path, mmap_mode=mode, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path}: cannot be read ({error})") from error

    @classmethod
    def create(
        cls,
        folder: Path,
        about: Mapping[str, Any],
        ids: Int64[np.ndarray, "n"],
        counts: Int64[np.ndarray, "n"],
    ) -> "EmbeddingTable":
        """An empty table, or the one with the same `about` that was begun in the folder.

        Args:
          folder: A new folder, or that of an earlier call.
          about: What the embeddings are of, with `width` and `dtype`.
          ids: Of the examples.
          counts: Captions of each example.

        Raises:
          DataError: The folder holds something else, or cannot be written.
        """
        if not folder.exists():
            try:
                _create(folder, about, ids, counts)
            except OSError as error:
                raise DataError(f"{folder}: cannot be written ({error.strerror})") from error
        table = cls(folder, write=True)
        for name, value in about.items():
            if table.about.get(name) != value:
                raise DataError(
                    f"{folder}: holds embeddings of another {name} ({table.about.get(name)} there, "
                    f"{value} here); choose another name"
                )
        return table

    @property
    def missing(self) -> Int64[np.ndarray, "k"]:
        """Rows that have not been written."""
        return np.flatnonzero(~self._stored).astype(np.int64)

    def write(
        self,
        rows: Integer[np.ndarray, "k"],
        image: Float32[np.ndarray, "k D"],
        text: Float32[np.ndarray, "c D"],
    ) -> None:
        """Writes examples, `text` holding their captions one after the other.

        Raises DataError naming an example whose embedding is not finite.
        """
        finite = np.isfinite(image).all(axis=1)
        if not finite.all() or not np.isfinite(text).all():
            first = rows[np.flatnonzero(~finite)[0]] if not finite.all() else rows[0]
            raise DataError(f"{self.folder}: embeddings of id {self.ids[first]} are not finite")
        places = np.concatenate(
            [np.arange(self.starts[row], self.starts[row + 1]) for row in rows.tolist()]
        )
        self._image[rows], self._text[places] = self._packed(image), self._packed(text)
        for values in (self._image, self._text):
            values.flush()
        self._stored[rows] = True
        self._stored.flush()

    def finish(self, **values: Any) -> dict[str, Any]:
        """Adds what is known at the end to about.json, and returns it."""
        self.about = {**self.about, **values, "complete": True}
        write_json(self.folder / ABOUT, self.about)
        return self.about

    def _packed(self, values: np.ndarray) -> np.ndarray:
        return values if self.about["dtype"] == "float32" else to_bfloat16(values)

    def _unpacked(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(values) if self.about["dtype"] == "float32" else from_bfloat16(values)

    def columns(
        self,
        rows: Integer[np.ndarray, "b"],
        caption_rows: Integer[np.ndarray, "b"],
        places: Integer[np.ndarray, "b"],
    ) -> dict[str, np.ndarray]:
        """The columns of a batch.

        Args:
          rows: Rows of the images.
          caption_rows: Rows of the examples whose captions the pairs have.
          places: Which of their captions.
        """
        text = self._text[self.starts[caption_rows] + places]
        size = len(rows)
        values = (
            self._unpacked(self._image[rows]),
            self._unpacked(text),
            np.full(size, self.about["scale"], np.float32),
            np.full(size, self.about["bias"], np.float32),
        )
        return dict(zip(REFERENCE_COLUMNS, values, strict=True))


def to_bfloat16(values: Float32[np.ndarray, "*n"]) -> np.ndarray:
    """Upper halves of float32 numbers, rounded to the nearest (ties to even)."""
    words = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = words + np.uint32(0x7FFF) + ((words >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype(np.uint16)


def from_bfloat16(values: np.ndarray) -> Float32[np.ndarray, "*n"]:
    """The float32 numbers whose upper halves these are."""
    return (np.asarray(values).astype(np.uint32) << np.uint32(16)).view(np.float32)


def read_about(folder: Path) -> dict[str, Any]:
    """about.json of a folder. Raises DataError naming it when it is missing or damaged."""
    path = folder / ABOUT
    try:
        about = json.loads(path.read_bytes())
        [about[name] for name in ("data", "ids", "model", "view", "captions", "width", "dtype")]
    except FileNotFoundError as error:
        raise DataError(
            f"{folder}: no {ABOUT} there; `python -m active_learning.store_scores` writes it"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: unreadable ({type(error).__name__}: {error})") from error
    return about


def _create(folder: Path, about: Mapping[str, Any], ids: np.ndarray, counts: np.ndarray) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    np.save(partial / "ids.npy", ids)
    np.save(partial / "starts.npy", starts)
    empty, kind = np.lib.format.open_memmap, DTYPES[about["dtype"]]
    for name, count in (("image", len(ids)), ("text", int(starts[-1]))):
        empty(partial / f"{name}.npy", mode="w+", dtype=kind, shape=(count, about["width"]))
    empty(partial / "stored.npy", mode="w+", dtype=np.bool_, shape=(len(ids),))
    write_json(partial / ABOUT, about)
    partial.rename(folder)
