"""Images to evaluate on beside a run's own data: a labelled set at a path, or a list of files."""

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32, Int64, UInt8

from active_learning.data import classes, images
from active_learning.data.sources.from_path import listings_of, section_of
from active_learning.data.sources.listing import Listing
from active_learning.data.sources.source import DataError

LABEL = "label"  # column that holds the classes


@runtime_checkable
class Reader(Protocol):
    """Encoded images by index."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes:
        """The encoded image."""
        ...

    def name(self, index: int) -> str:
        """Its name, for error messages."""
        ...


@dataclasses.dataclass(frozen=True)
class Paths:
    """Image files in a folder."""

    folder: Path
    paths: Sequence[str]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> bytes:
        """The bytes of a file."""
        return (self.folder / self.paths[index]).read_bytes()

    def name(self, index: int) -> str:
        """The path of a file."""
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
    labels: Int32[np.ndarray, "n"]
    class_names: tuple[str, ...]


def open_labelled(path: str, size: int) -> tuple[LabelledSet | None, LabelledSet]:
    """Training and test images with labels at a path, in any form that a run can read.

    Classes are numbered as in a run (data/classes.py): folders in sorted order, labels by number
    or sorted name.

    Args:
      path: Folder of class folders, table, shards, or a folder with train and test of those.
      size: Side in pixels that images are decoded to.

    Returns:
      The training images (None where the data have no split of their own) and the test images.

    Raises:
      DataError: Naming the path, where there are no labels.
    """
    train, test = listings_of(section_of(path))
    listings = [one for one in (train, test) if one is not None]
    for one in listings:
        if LABEL not in one.columns:
            raise one.missing(LABEL)
    if names := listings[0].names_of([LABEL]):
        known = classes.Classes(names, given=True)
    else:
        known = classes.of_labels(listings[0].columns[LABEL], 0, f"{path}: column {LABEL!r}")
    sets = [
        LabelledSet(ImageSet(one.files, size), _numbers(one, known), known.names)
        for one in listings
    ]
    return (sets[0], sets[1]) if len(sets) == 2 else (None, sets[0])


def _numbers(listing: Listing, known: classes.Classes) -> Int32[np.ndarray, "n"]:
    labels = known.numbers(listing.columns[LABEL], f"{listing.where}: column {LABEL!r}")
    none = np.flatnonzero(labels == classes.MISSING)
    if len(none):
        row = int(none[0])
        raise DataError(
            f"{listing.files.name(row)}: label {listing.columns[LABEL][row]!r} is not a class of "
            f"the data ({len(none)} of {len(labels)} images)"
        )
    return labels
