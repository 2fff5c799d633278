"""Where shards are: local files, or files behind a URL, read at any place and from any thread."""

import functools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from active_learning.data.errors import DataError
from active_learning.data.sources.files import open_regular
from active_learning.data.sources.paths import is_url

OPEN = 128  # local files that are open at most, however many shards there are
_BLOCK = 1 << 20  # bytes of one request while headers are read


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


def open_file(path: str) -> Stored:
    """A local path, or a URL whose server answers range requests.

    Raises OSError or DataError naming it.
    """
    return open_url(path) if is_url(path) else Local(path)


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


@functools.cache
def _connections():
    import urllib3

    retries = urllib3.Retry(
        4, connect=1, backoff_factor=0.2, status_forcelist=(429, 500, 502, 503, 504)
    )
    return urllib3.PoolManager(
        maxsize=64, retries=retries, timeout=urllib3.Timeout(connect=5, read=30)
    )


@dataclass(eq=False)
class Remote:
    """A file behind the URL `name`; every read is one range request on a kept connection."""

    name: str
    size: int
    stamp: str
    _ahead: tuple[int, bytes] = (0, b"")  # a block that `scan` has fetched, and where it starts

    def pread(self, size: int, offset: int) -> bytes:
        """`size` bytes from `offset` on. Raises OSError when they are not all there."""
        if size == 0:
            return b""
        status, blob, _ = _get(self.name, offset, size)
        if status != 206 or len(blob) != size:
            raise OSError(
                f"{self.name}: status {status} and {len(blob)} bytes for {size} at byte {offset}"
            )
        return blob

    def scan(self, size: int, offset: int) -> bytes:
        """The same for reads in ascending order, by requests of a whole block."""
        start, block = self._ahead
        if not start <= offset <= offset + size <= start + len(block):
            start, block = offset, self.pread(min(max(size, _BLOCK), self.size - offset), offset)
            self._ahead = start, block
        if offset - start + size > len(block):
            raise OSError(f"{self.name}: ends before byte {offset + size}")
        return block[offset - start : offset - start + size]


def open_url(url: str) -> Remote:
    """Asks for the first byte: whether it is there, its size and version.

    DataError when ranges are not answered, OSError when nothing is.
    """
    status, _, headers = _get(url, 0, 1)
    total = headers.get("Content-Range", "").rpartition("/")[2]
    if status == 200:
        raise DataError(f"{url}: the server does not answer range requests; download the file")
    if status != 206 or not total.isdigit():
        raise DataError(f"{url}: the server answers with status {status}")
    version = headers.get("ETag") or headers.get("Last-Modified") or ""
    return Remote(url, int(total), f"{total} {version}")


def _get(url: str, offset: int, size: int) -> tuple[int, bytes, Mapping[str, str]]:
    import urllib3

    try:
        asked = {"Range": f"bytes={offset}-{offset + size - 1}", "Accept-Encoding": "identity"}
        answer = _connections().request("GET", url, headers=asked, preload_content=False)
        blob = answer.read(size) if answer.status == 206 else b""
        if answer.status == 206:
            answer.release_conn()
        else:
            answer.close()  # what follows may be the whole file
    except urllib3.exceptions.HTTPError as error:
        reason = error.reason if isinstance(error, urllib3.exceptions.MaxRetryError) else error
        raise OSError(None, f"cannot be reached ({type(reason).__name__})", url) from error
    return answer.status, blob, answer.headers
