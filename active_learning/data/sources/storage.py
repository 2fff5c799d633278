"""Where shards are: local files, or files behind a URL, read at any place and from any thread."""

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from active_learning.data.sources.source import DataError

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


def is_url(path: str) -> bool:
    return path.startswith(("http://", "https://"))


def open_file(path: str) -> Stored:
    """A local path, or a URL whose server answers range requests. Raises OSError or DataError naming it."""
    return open_url(path) if is_url(path) else Local(path)


class Local:
    """A file on this machine."""

    def __init__(self, path: str):
        self.name = path
        self._descriptor = os.open(path, os.O_RDONLY)
        state = os.fstat(self._descriptor)
        self.size, self.stamp = state.st_size, f"{state.st_size} {state.st_mtime_ns}"

    def pread(self, size: int, offset: int) -> bytes:
        blob = os.pread(self._descriptor, size, offset)
        if len(blob) != size:
            raise OSError(f"{self.name}: ends before byte {offset + size}")
        return blob

    scan = pread

    def __del__(
        self, close=os.close
    ) -> None:  # bound now: at the interpreter's exit the module may be gone
        if hasattr(self, "_descriptor"):
            close(self._descriptor)


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
    """A file behind `name`, a URL: every read is one range request over a connection that is kept open."""

    name: str
    size: int
    stamp: str
    _ahead: tuple[int, bytes] = (0, b"")  # a block that `scan` has fetched, and where it starts

    def pread(self, size: int, offset: int) -> bytes:
        if size == 0:
            return b""
        status, blob, _ = _get(self.name, offset, size)
        if status != 206 or len(blob) != size:
            raise OSError(
                f"{self.name}: status {status} and {len(blob)} bytes for {size} at byte {offset}"
            )
        return blob

    def scan(self, size: int, offset: int) -> bytes:
        start, block = self._ahead
        if not start <= offset <= offset + size <= start + len(block):
            start, block = offset, self.pread(min(max(size, _BLOCK), self.size - offset), offset)
            self._ahead = start, block
        if offset - start + size > len(block):
            raise OSError(f"{self.name}: ends before byte {offset + size}")
        return block[offset - start : offset - start + size]


def open_url(url: str) -> Remote:
    """Asks for the first byte: whether it is there, its size and version. DataError when ranges are not answered, OSError when nothing is."""
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
        reason = getattr(error, "reason", None) or error
        raise OSError(None, f"cannot be reached ({type(reason).__name__})", url) from error
    return answer.status, blob, answer.headers


def expand(path: str) -> list[str]:
    """A URL with a range of numbers in braces, 'http://host/train-{000..015}.tar', written out."""
    head, opening, rest = path.partition("{")
    inside, closing, tail = rest.partition("}")
    first, dots, last = inside.partition("..")
    if not opening:
        return [path]
    if not (closing and dots and first.isdigit() and last.isdigit() and int(first) <= int(last)):
        raise DataError(
            f"config.data.path={path!r}: expected a range such as {{000..015}} in the braces"
        )
    return [
        url
        for n in np.arange(int(first), int(last) + 1)
        for url in expand(f"{head}{n:0{len(first)}d}{tail}")
    ]
