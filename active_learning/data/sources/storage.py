"""Where shards are: local files, or objects behind an address, read at any place in any thread."""

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from active_learning.config import ConfigError
from active_learning.data.errors import DataError
from active_learning.data.sources.files import open_regular
from active_learning.data.sources.paths import is_remote

OPEN = 128  # local files that are open at most, however many shards there are
Place = tuple[int, int]  # size and offset of bytes in a file


@runtime_checkable
class Stored(Protocol):
    """The bytes of one file."""

    name: str
    size: int
    stamp: str  # changes when the content does

    def pread(self, size: int, offset: int) -> bytes:
        """`size` bytes from `offset` on. Raises OSError when they are not all there."""
        ...

    def scan(self, size: int, offset: int) -> bytes:
        """The same for reads in ascending order: cheap where each read is a request."""
        ...

    def begin(self, places: Sequence[Place]) -> Mapping[Place, Future]:
        """Starts reads that take long, all at once; returns those that are to be waited for."""
        ...


def open_file(path: str) -> Stored:
    """A local path, or the address of an object whose server answers range requests.

    Raises OSError, DataError, or what `remote.open_object` does, naming it.
    """
    if is_remote(path):
        from active_learning.data.sources.remote import open_object

        return open_object(path)
    return Local(path)


def exists(path: str) -> bool:
    """Whether there is a file at a path, or an object at an address."""
    if not is_remote(path):
        return os.path.exists(path)
    from active_learning.data.sources.remote import open_object

    try:
        open_object(path)
    except (ConfigError, DataError):
        return False
    return True


class _Descriptors:
    """Descriptors of at most `most` files.

    The least recently used one is closed, never one that is being read.
    """

    def __init__(self, most: int):
        self.most, self._lock = most, threading.Lock()
        self._open: OrderedDict[str, list[int]] = OrderedDict()  # path: [descriptor, readers]

    @contextmanager
    def of(self, path: str) -> Iterator[int]:
        with self._lock:
            entry = self._open.get(path)
            if entry is None:
                self._close_idle()
                entry = self._open[path] = [open_regular(path), 0]
            self._open.move_to_end(path)
            entry[1] += 1
        try:
            yield entry[0]
        finally:
            with self._lock:
                entry[1] -= 1

    def _close_idle(self) -> None:
        for path in [path for path, (_, readers) in self._open.items() if readers == 0]:
            if len(self._open) < self.most:
                return
            os.close(self._open.pop(path)[0])

    def forget(self, path: str) -> None:
        """Closes a file, where nobody is reading it: its content may have been replaced."""
        with self._lock:
            if path in self._open and self._open[path][1] == 0:
                os.close(self._open.pop(path)[0])

    def __len__(self) -> int:
        return len(self._open)


descriptors = _Descriptors(OPEN)


class Local:
    """A file on this machine, opened when it is read."""

    def __init__(self, path: str):
        self.name = path
        descriptors.forget(path)
        with descriptors.of(path) as descriptor:
            state = os.fstat(descriptor)
        self.size, self.stamp = state.st_size, f"{state.st_size} {state.st_mtime_ns}"

    def pread(self, size: int, offset: int) -> bytes:
        """`size` bytes from `offset` on. Raises OSError unless all are there."""
        with descriptors.of(self.name) as descriptor:
            blob = os.pread(descriptor, size, offset)
        if len(blob) != size:
            raise OSError(f"{self.name}: ends before byte {offset + size}")
        return blob

    scan = pread

    def begin(self, places: Sequence[Place]) -> Mapping[Place, Future]:
        """Nothing: a disk answers when it is asked."""
        return {}


class Sequential(io.RawIOBase):
    """A stored file as a binary stream, for libraries that read streams."""

    def __init__(self, file: Stored):
        self.file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.file.size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer, /) -> int:
        """Fills the buffer as far as the file goes. Raises what `Stored.pread` does."""
        view = memoryview(buffer).cast("B")
        size = max(0, min(len(view), self.file.size - self._at))
        if size:
            view[:size] = self.file.pread(size, self._at)
            self._at += size
        return size
