"""Finished pieces of a long pass on disk: what a resumed pass finds and several workers share.

A piece is one .npz file, written under another name and then renamed.
"""

import contextlib
import hashlib
import os
import socket
import zipfile
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from active_learning.storage import workers
from active_learning.storage.errors import ConfigError
from active_learning.storage.workers import Task


@dataclass(frozen=True)
class Pieces:
    """A folder of finished pieces.

    Attributes:
      folder: Created when the first piece is saved.
      signature: Of everything the numbers depend on; pieces of another one are not found.
    """

    folder: Path
    signature: str

    def path(self, name: str) -> Path:
        """The file of a piece."""
        return self.folder / f"{name}-{self.signature}.npz"

    def has(self, name: str) -> bool:
        """Whether the piece is there."""
        return self.path(name).exists()

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """The piece, or None where there is none. Raises ConfigError for a damaged one."""
        path = self.path(name)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ConfigError(
                f"{path}: damaged ({error}); delete it to compute it again"
            ) from error

    def get(self, name: str) -> dict[str, np.ndarray]:
        """A piece that is there. Raises ConfigError for one that is not, or is damaged."""
        piece = self.load(name)
        if piece is None:
            raise ConfigError(f"{self.path(name)}: gone; run the command again")
        return piece

    def save(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes a piece; a reader sees all of it or nothing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(name)
        partial = path.with_suffix(f".{socket.gethostname()}.{os.getpid()}.tmp")
        named: dict[str, Any] = dict(arrays)  # `savez` declares other keyword arguments too
        try:
            with partial.open("wb") as file:
                np.savez(file, **named)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:  # of a write it names no file
            with contextlib.suppress(OSError):
                partial.unlink()
            raise OSError(error.errno, error.strerror, str(path)) from error

    def remove(self, pattern: str = "*") -> None:
        """Removes the pieces of this signature whose names match."""
        for path in self.folder.glob(f"{pattern}-{self.signature}.npz"):
            path.unlink(missing_ok=True)


def make_all(
    pieces: Pieces,
    names: Sequence[str],
    task: Task,
    make: Callable[[int], Mapping[str, np.ndarray]],
    only: Container[int] | None = None,
) -> None:
    """Makes the pieces of a task that are not there.

    Args:
      pieces: Where they are kept.
      names: Of all pieces, in an order that is the same for all workers.
      task: Which of them are made here.
      make: Content of the piece of a number.
      only: Numbers of those that are needed; None: all.
    """
    for number, name in enumerate(names):
        needed = only is None or number in only
        if needed and task.has(number) and not pieces.has(name):
            pieces.save(name, make(number))


def check_all(missing: Sequence[int], count: int, locks: Path, kind: str, out: Path) -> None:
    """Raises ConfigError where pieces are missing; names the tasks to run again.

    Args:
      missing: Numbers of the pieces.
      count: How many pieces there are.
      locks: Folder of the workers' locks.
      kind: Of the locks.
      out: What becomes of the pieces.
    """
    if missing:
        raise ConfigError(
            f"{out}: {len(missing)} of {count} pieces are missing; "
            + workers.again(locks, kind, missing, "piece")
        )


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
