"""Copies of remote bytes on the local disk: by key, at most so many bytes, the oldest go first.

Several processes may share the folder. An entry appears whole or not at all, and one that another
process has removed is fetched again.
"""

import contextlib
import errno
import os
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from active_learning.data.errors import DataError
from active_learning.storage.errors import StorageError

_FAILING = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # of the disk, not of what was asked for
_PART = ".part"  # ends the name of an entry that is being written
_STALE = 86_400  # seconds after which the part of a process that died is removed
_TOUCH = 60  # seconds after which reading an entry again makes it recent
_KEPT = 0.9  # fraction of the limit that is left when entries are removed
_SUM = 4  # bytes of checksum after the content of a block


class Cache:
    """Entries in a folder, at most `most` bytes in all.

    Blocks are known by their checksum once in each process, so that what a crash of the machine
    left behind is found; whole files are flushed to the disk before they appear.

    Args:
      folder: Where the entries are; made when the first one is.
      most: Bytes. A process removes entries when its own writing reaches the limit.
    """

    def __init__(self, folder: Path, most: int):
        self.folder, self.most = folder, most
        self._lock, self._removing = threading.Lock(), threading.Lock()
        self._coming: dict[str, Future] = {}
        self._known: dict[str, float] = {}  # key: when it was last made recent
        self._total: int | None = None  # bytes there, and what this process added since
        self._promised = 0

    def admits(self, size: int) -> bool:
        """Whether `size` more bytes fit beside those admitted before, and counts them if so."""
        with self._lock:
            fits = self._promised + size <= self.most
            self._promised += size if fits else 0
        return fits

    def has(self, key: str) -> bool:
        """Whether an entry is there, or on its way, as far as this process knows."""
        return key in self._known or key in self._coming

    def read(
        self, key: str, whole: int, size: int, offset: int, fetch: Callable[[], bytes]
    ) -> bytes:
        """Reads from the block `key` of `whole` bytes, which `fetch` returns if it is not here."""
        if key in self._known:
            try:
                with (self.folder / key).open("rb", buffering=0) as file:
                    blob = os.pread(file.fileno(), size, offset)
                if len(blob) == size:
                    self._touch(key)
                    return blob
            except OSError:
                pass  # gone, or the disk fails: it is fetched again
            self._known.pop(key, None)
        return self.block(key, whole, fetch)[offset : offset + size]

    def block(self, key: str, whole: int, fetch: Callable[[], bytes]) -> bytes:
        """The content of a block; however many threads ask, it is fetched once."""

        def make() -> bytes:
            blob = self._stored(key, whole)
            if blob is None:
                blob = fetch()
                checksum = zlib.crc32(blob).to_bytes(_SUM, "big")
                self._write(key, lambda file: file.write_bytes(blob + checksum), flush=False)
            return blob

        return self._once(key, make)

    def file(self, key: str, size: int, fetch: Callable[[Path], object]) -> Path:
        """The path of a whole file of `size` bytes, which `fetch` writes if it is not here.

        It may be removed at any time; who has opened it keeps it.
        """
        path = self.folder / key

        def make() -> None:
            try:
                if path.stat().st_size == size:
                    os.utime(path)
                    return
            except FileNotFoundError:
                pass
            self._write(key, fetch, flush=True)

        self._once(key, make)
        return path

    def _once(self, key: str, make: Callable):
        """The result of `make`, called by one of the threads that ask for `key` at a time."""
        with self._lock:
            future = self._coming.get(key)
            mine = future is None
            if future is None:
                future = self._coming[key] = Future()
        if not mine:
            return future.result()
        try:
            made = make()
            self._known[key] = time.monotonic()
            future.set_result(made)
            return made
        except BaseException as error:
            future.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._coming[key]

    def _stored(self, key: str, whole: int) -> bytes | None:
        """The content of a block that is there and as it was written, else None."""
        try:
            blob = (self.folder / key).read_bytes()
        except OSError:
            return None
        content, checksum = blob[:whole], blob[whole:]
        if len(content) != whole or checksum != zlib.crc32(content).to_bytes(_SUM, "big"):
            return None
        return content

    def _touch(self, key: str) -> None:
        now = time.monotonic()
        if now - self._known.get(key, now) > _TOUCH:
            self._known[key] = now
            with contextlib.suppress(FileNotFoundError):
                os.utime(self.folder / key)

    def _write(self, key: str, fill: Callable[[Path], object], flush: bool) -> None:
        path = self.folder / key
        part = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}{_PART}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fill(part)
            if flush:
                with part.open("rb") as file:
                    os.fsync(file.fileno())
            size = part.stat().st_size
            os.replace(part, path)
        except OSError as error:
            kind = StorageError if error.errno in _FAILING else DataError
            raise kind(
                f"{path}: cannot be written ({error.strerror or error}); give another folder by "
                f"config.data.cache, or less room by config.data.cache_gb"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                part.unlink()
        self._count(size)

    def _count(self, size: int) -> None:
        with self._lock:
            if self._total is not None:
                self._total += size
                if self._total <= self.most:
                    return
        if self._removing.acquire(blocking=False):
            try:
                self._remove_oldest()
            finally:
                self._removing.release()

    def _remove_oldest(self) -> None:
        entries = []
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = os.path.join(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    state = os.stat(path)
                    entries.append((state.st_mtime, state.st_size, path))
        entries.sort()
        total = sum(size for _, size, _ in entries)
        least = self.most if total <= self.most else _KEPT * self.most
        for changed, size, path in entries:
            if path.endswith(_PART):
                if time.time() - changed < _STALE:
                    continue
            elif total <= least:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            self._known.pop(os.path.relpath(path, self.folder), None)
            total -= size
        with self._lock:
            self._total = total
