"""Encoded images wherever they are, safe reads of files, and rows of the same picture."""

import errno
import hashlib
import os
import stat
from collections.abc import Hashable
from typing import Any

import numpy as np
from jaxtyping import Int64, Integer

from active_learning.data import limits
from active_learning.data.rows import Rows

COMPARED = 50_000  # examples up to which pictures under different names are compared by content
_TAIL = 4096  # bytes at the end of an image that are compared first


class Files:
    """Encoded images by index, from any thread; OSError or BadImage cost one example.

    A server that fails raises ConfigError or StorageError, which cost the run: an example is never
    replaced because a network was slow.
    """

    is_remote: bool = False  # whether images come from another machine

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, index: int) -> bytes:
        """The encoded image."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        """What a person would look for, e.g. a path."""
        raise NotImplementedError

    def read_small(self, index: int) -> bytes | None:
        """The prepared small view, None where there is none."""
        return None

    def begin(self, indices: Integer[np.ndarray, "k"], small: bool = False) -> "Files":
        """Starts reading images (or small views), where reading takes long.

        Returns:
          What they are read from: `read` and `read_small` wait for what was begun.
        """
        return self

    def expect(self, indices: Integer[np.ndarray, "k"], small: bool = False) -> None:
        """Says what will be read later, for files that are copied to this machine block by block.

        Nothing is begun while there is more urgent work.
        """

    def place(self, index: int) -> Hashable:
        """Where the image is: equal for rows of the same picture."""
        return index

    def places_of(self, rows: Rows) -> Int64[np.ndarray, "k"] | None:
        """A number for the `place` of each of many rows; None where `place` has to be asked."""
        return None

    def size(self, index: int) -> int:
        """Returns the bytes of the image; -1 where finding out would be expensive.

        Pictures of unknown size are told apart by place alone.
        """
        return -1

    def tail(self, index: int, size: int) -> bytes:
        """The last `size` bytes of the image."""
        return self.read(index)[-size:]

    def file(self, index: int) -> str | None:
        """The absolute path of the image's own file; None where it has none."""
        return None

    def stamp(self, index: int) -> str:
        """A short text that changes when the image's file does; '' where that is unknown."""
        return ""


def open_regular(path: str) -> int:
    """A descriptor of a regular file.

    Raises OSError for a pipe, device or folder instead of waiting for it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return descriptor


def read_file(path: str, most: int | None = None) -> bytes:
    """A whole regular file of at most `most` bytes (default: the limit of an image).

    Raises OSError.
    """
    most = limits.current().image_bytes if most is None else most
    with open(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"{size:,} bytes, more than {most:,}; {limits.RAISE}", path)
        return file.read(size + 1)


def read_tail(path: str, size: int) -> bytes:
    """The last `size` bytes of a regular file."""
    with open(open_regular(path), "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - size))
        return file.read(size)


def picture_ids(files: Files, rows: Rows, ids: Int64[np.ndarray, "k"]) -> Int64[np.ndarray, "k"]:
    """Returns the lowest id among the rows of the same picture.

    Rows are of one picture where they share a place or, up to COMPARED rows, their content.

    Only images of equal size are compared, and only those of equal last bytes are read in full.
    What cannot be read is a picture of its own, and so is each row of a picture that more than half
    of the rows show (a placeholder).
    """
    numbers = files.places_of(rows)
    if numbers is not None:
        _, first, group = np.unique(numbers, return_index=True, return_inverse=True)
        group = first[group]
    else:
        places: dict[Hashable, int] = {}
        group = np.array(
            [places.setdefault(files.place(int(row)), n) for n, row in enumerate(rows)], np.int64
        )
    if len(rows) <= COMPARED:
        group = _same_content(files, np.asarray(rows), group)
    count = np.bincount(group, minlength=len(rows))[group]
    group = np.where(2 * count > len(rows), np.arange(len(rows)), group)
    lowest = np.full(len(rows), np.iinfo(np.int64).max)
    np.minimum.at(lowest, group, ids)
    return lowest[group]


def _same_content(files: Files, rows: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Joins groups of equal content; a group is the number of its first row."""
    alike: list[list[int]] = [np.unique(group).tolist()]
    for key in (
        files.size,
        lambda row: files.tail(row, _TAIL),
        lambda row: _digest(files.read(row)),
    ):
        alike = [part for members in alike for part in _parted(members, rows, key)]
    joined = np.arange(len(rows))
    for members in alike:
        joined[members] = members[0]
    return joined[group]


def _parted(members: list[int], rows: np.ndarray, key) -> list[list[int]]:
    """Members with the same key, two or more of each."""
    by_key: dict[Any, list[int]] = {}
    for member in members:
        try:
            value = key(int(rows[member]))
        except OSError:
            continue
        if value != -1:
            by_key.setdefault(value, []).append(member)
    return [part for part in by_key.values() if len(part) > 1]


def _digest(blob: bytes) -> bytes:
    return hashlib.blake2b(blob, digest_size=16).digest()
