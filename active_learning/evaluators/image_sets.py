"""Images to evaluate on beside a run's own data: a labelled set at a path, or a list of files."""

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8

from active_learning.data import images
from active_learning.data.sources.from_path import listings_of, section_of
from active_learning.data.sources.source import DataError


@runtime_checkable
class Reader(Protocol):
    """Encoded images by index."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes: ...

    def name(self, index: int) -> str: ...


@dataclasses.dataclass(frozen=True)
class Paths:
    """Image files in a folder."""

    folder: Path
    paths: Sequence[str]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> bytes:
        return (self.folder / self.paths[index]).read_bytes()

    def name(self, index: int) -> str:
        return str(self.folder / self.paths[index])


class ImageSet:
    """Decodes images when asked for: resized to cover size x size, the center cut out.

    Args:
      files: The encoded images.
      size: Side in pixels.
      threads: Decoding threads; 0: one a core.
    """

    def __init__(self, files: Reader, size: int, threads: int = 0):
        self.files, self.size = files, size
        self._pool = ThreadPoolExecutor(threads or len(os.sched_getaffinity(0)), "decode")

    def __len__(self) -> int:
        return len(self.files)

    def images(self, rows: Int64[np.ndarray, "k"]) -> UInt8[np.ndarray, "k s s 3"]:
        """Images by row number. Raises DataError naming one that cannot be read or decoded."""
        return np.stack(list(self._pool.map(self._one, rows.tolist())))

    def _one(self, row: int) -> np.ndarray:
        try:
            return images.decode_view(self.files.read(row), self.size)
        except (images.BadImage, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise DataError(f"{self.files.name(row)}: {why}") from error


@dataclasses.dataclass(frozen=True)
class LabelledSet:
    """Images with class numbers; `class_names` are those of the data, in order."""

    images: ImageSet
    labels: Int64[np.ndarray, "n"]
    class_names: tuple[str, ...]


def open_labelled(path: str, size: int) -> tuple[LabelledSet | None, LabelledSet]:
    """Training and test images with labels at a path, in any form that a run can read.

    Classes are numbered as everywhere: folders in sorted order, labels by number or sorted name.

    Args:
      path: Folder of class folders, table, shards, or a folder with train and test of those.
      size: Side in pixels that images are decoded to.

    Returns:
      The training images (None where the data have no split of their own) and the test images.

    Raises:
      DataError: Naming the path, where there are no labels.
    """
    section = section_of(path)
    train, test = listings_of(section)
    listings = [one for one in (train, test) if one is not None]
    for one in listings:
        if "label" not in one.columns:
            there = ", ".join(one.columns) or "none"
            raise DataError(f"{one.where}: no column 'label'; there are: {there}")
    values = [str(v).strip() for v in listings[0].columns["label"]]
    names = listings[0].class_names or _names(values)
    sets = [LabelledSet(ImageSet(one.files, size), _numbers(one, names), names) for one in listings]
    return (sets[0], sets[1]) if len(sets) == 2 else (None, sets[0])


def _names(values: list[str]) -> tuple[str, ...]:
    if all(value.isdigit() for value in values):
        return tuple(str(n) for n in range(1 + max(map(int, values))))
    return tuple(sorted(set(values)))


def _numbers(listing, names: tuple[str, ...]) -> Int64[np.ndarray, "n"]:
    known = {name: number for number, name in enumerate(names)}
    out = np.empty(len(listing.files), np.int64)
    for row, value in enumerate(listing.columns["label"]):
        text = str(value).strip()
        if text not in known and text.isdigit() and int(text) < len(names):
            out[row] = int(text)
        elif text in known:
            out[row] = known[text]
        else:
            raise DataError(f"{listing.files.name(row)}: label {value!r} is no class of the data")
    return out
