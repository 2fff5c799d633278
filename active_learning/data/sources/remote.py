"""Objects behind an address: range requests, many at a time, and copies of them on the disk.

A request that fails for a while is repeated (see `storage.addresses`); one that goes on failing
raises what no reader of images takes for a bad example.
"""

import functools
import hashlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from active_learning.config import ConfigError
from active_learning.data import limits
from active_learning.data.errors import DataError
from active_learning.data.order import CHUNK
from active_learning.data.sources.cache import Cache
from active_learning.data.sources.storage import Place, Stored
from active_learning.storage import addresses

T = TypeVar("T")
CONNECTIONS = 64  # requests of this process at a time
BLOCK = 4 << 20  # bytes of a block in the cache: some dozens of images a request
_SCAN = 1 << 20  # bytes of a request while headers are read
_HEADERS = 1 << 15  # the same where the bodies between headers are larger than _SCAN
_AHEAD = 4  # blocks that are fetched before headers in them are read
_PART = 8 << 20  # bytes of a request while a whole file is copied


class _Fetcher:
    """A pool of CONNECTIONS threads that counts what it has to do."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(CONNECTIONS, "fetch")
        self._lock, self._pending = threading.Lock(), 0

    @property
    def is_busy(self) -> bool:
        """Whether what is not needed yet had better wait."""
        return self._pending >= CONNECTIONS

    def submit(self, task: Callable[..., Any], *arguments: Any) -> Future:
        """Runs a task in the pool, in the order of asking."""
        with self._lock:
            self._pending += 1
        future = self._pool.submit(task, *arguments)
        future.add_done_callback(self._done)
        return future

    def _done(self, _: Future) -> None:
        with self._lock:
            self._pending -= 1


@functools.cache
def fetcher() -> _Fetcher:
    """The pool of this process."""
    return _Fetcher()


def open_object(address: str) -> "Remote":
    """Asks for the first byte: whether it is there, its size and version.

    Raises:
      DataError: Its server does not answer range requests.
      ConfigError: It is not there, or may not be read.
      StorageError: The server cannot be reached for a long time.
    """
    store, path = _place_of(address)

    def ask() -> Any:
        import obstore

        try:
            found = obstore.get(store, path, options={"range": (0, 1)})
            found.bytes()
        except obstore.exceptions.NotSupportedError as error:
            raise DataError(
                f"{address}: the server does not answer range requests; download the file"
            ) from error
        return found.meta

    meta = _patiently(address, ask)
    version = meta["e_tag"] or f"{meta['last_modified']:%Y-%m-%dT%H:%M:%S}"
    return Remote(address, store, path, meta["size"], f"{meta['size']} {version}", meta["e_tag"])


def _place_of(address: str) -> tuple[Any, str]:
    """The store and path of an address; a query is part of a URL, never of a path."""
    if "?" not in address or addresses.is_bucket(address):
        return addresses.store_of(address)
    from obstore.store import HTTPStore

    like: Any = addresses.store_of(address)[0]
    options = {"client_options": like.client_options, "retry_config": like.retry_config}
    return HTTPStore(address, **options), ""


_trouble = threading.Event()  # set once a request has failed


@functools.cache
def _probe() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "probe")


def _patiently(address: str, ask: Callable[[], T]) -> T:
    """`addresses.retried`, but threads that still have to read when the program ends do not.

    An outage, which may be why it ends, would hold it up for minutes.
    """

    def once() -> T:
        if _trouble.is_set():
            _probe().submit(int)  # raises RuntimeError when the interpreter ends
        try:
            return ask()
        except Exception:
            _trouble.set()
            raise

    return addresses.retried(address, once)


def read_optional(address: str) -> bytes:
    """The content of a small object that need not be there; b"" where it is not.

    Servers that may not list a bucket answer 403 for what is not there.
    """
    try:
        file = open_object(address)
    except (ConfigError, DataError):
        return b""
    if file.size > limits.current().text_bytes:
        return b""
    return file.pread(file.size, 0)


class Remote:
    """An object; every read is one range request."""

    def __init__(
        self, name: str, store: Any, path: str, size: int, stamp: str, tag: str | None = None
    ):
        self.name, self.size, self.stamp = name, size, stamp
        self._store, self._path = store, path
        # A weak tag says nothing about bytes, so servers refuse to compare by it.
        self._tag = tag if tag and not tag.startswith("W/") else None
        self._ahead = (0, b"")  # a block that `scan` has fetched, and where it starts

    def pread(self, size: int, offset: int) -> bytes:
        """`size` bytes from `offset` on.

        Raises:
          OSError: The object ends before.
          ConfigError, StorageError: See `addresses.retried`.
        """
        if offset + size > self.size:
            raise OSError(f"{self.name}: ends before byte {offset + size}")
        if size == 0:
            return b""

        def ask() -> bytes:
            import obstore

            options: Any = {"range": (offset, offset + size)}
            if self._tag:
                options["if_match"] = self._tag
            return bytes(obstore.get(self._store, self._path, options=options).bytes())

        blob = _patiently(self.name, ask)
        if len(blob) != size:
            raise DataError(
                f"{self.name}: {len(blob)} bytes for {size} at byte {offset}; it has changed "
                f"while it was read"
            )
        return blob

    def scan(self, size: int, offset: int) -> bytes:
        """The same for reads in ascending order, by requests of a whole block.

        Where much is left out between reads, as bodies are between headers, requests are small.
        """
        start, block = self._ahead
        if not start <= offset <= offset + size <= start + len(block):
            skipped = offset - (start + len(block))
            least = _HEADERS if skipped > _SCAN else _SCAN
            start, block = offset, self.pread(min(max(size, least), self.size - offset), offset)
            self._ahead = start, block
        if offset - start + size > len(block):
            raise OSError(f"{self.name}: ends before byte {offset + size}")
        if offset + size >= self.size:
            self._ahead = (0, b"")  # read to the end: the block is not needed any more
        return block[offset - start : offset - start + size]

    def begin(self, places: Sequence[Place]) -> Mapping[Place, Future]:
        """Starts reading all places at once."""
        return {place: fetcher().submit(self.pread, *place) for place in dict.fromkeys(places)}


class Cached:
    """An object of which blocks are copied to the disk as they are needed.

    Args:
      of: The object.
      cache: Where copies go.
      whole: Whether all of it will stay in the cache. Else only what is asked for is fetched.
    """

    def __init__(self, of: Remote, cache: Cache, whole: bool):
        self.of, self.cache, self.whole = of, cache, whole
        self.name, self.size, self.stamp = of.name, of.size, of.stamp
        digest = hashlib.sha256(f"{of.name} {of.stamp}".encode("utf-8", "surrogatepass"))
        self._folder = digest.hexdigest()[:24]
        self._ahead = (0, b"")  # what `scan` has read, and where it starts

    def pread(self, size: int, offset: int) -> bytes:
        """`size` bytes from `offset` on, as `Remote.pread`."""
        if offset + size > self.size:
            raise OSError(f"{self.name}: ends before byte {offset + size}")
        if size == 0:
            return b""
        first, last = offset // BLOCK, (offset + size - 1) // BLOCK
        if last > first:
            self.begin([(size, offset)])
        parts = []
        for number in range(first, last + 1):
            start = max(offset, number * BLOCK)
            end = min(offset + size, (number + 1) * BLOCK)
            parts.append(self._read(number, end - start, start - number * BLOCK))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def scan(self, size: int, offset: int) -> bytes:
        """The same for reads in ascending order."""
        if not self.whole:
            return self.of.scan(size, offset)
        start, block = self._ahead
        if not start <= offset <= offset + size <= start + len(block):
            self.begin([(min(_AHEAD * BLOCK, self.size - offset), offset)])
            rest = min(BLOCK - offset % BLOCK, self.size - offset)
            start, block = offset, self.pread(max(size, rest), offset)
            self._ahead = start, block
        if offset + size >= self.size:
            self._ahead = (0, b"")  # read to the end: the block is not needed any more
        return block[offset - start : offset - start + size]

    def begin(self, places: Sequence[Place]) -> Mapping[Place, Future]:
        """Starts fetching the blocks that are not here; reading waits for them by itself."""
        for number in self._missing(places):
            fetcher().submit(self._fetch_block, number)
        return {}

    def expect(self, places: Sequence[Place]) -> None:
        """The same where there is time: nothing is begun while the connections are busy."""
        for number in self._missing(places):
            if fetcher().is_busy:
                return
            fetcher().submit(self._fetch_block, number)

    def copied(self) -> Path:
        """The path of a copy of the whole object, fetched where there is none.

        Raises:
          DataError: It is larger than the cache.
        """
        if self.size > self.cache.most:
            raise DataError(
                f"{self.name}: {self.size / 1e9:.1f} GB, more than the {self.cache.most / 1e9:g} "
                f"GB of config.data.cache_gb; raise it"
            )
        return self.cache.file(self._copy_key, self.size, self._copy)

    def begin_copy(self) -> None:
        """Starts copying the whole object, where no copy is known or on its way."""
        if not self.cache.has(self._copy_key):
            fetcher().submit(self.copied)

    def _missing(self, places: Sequence[Place]) -> list[int]:
        numbers = dict.fromkeys(
            number
            for size, offset in places
            if size
            for number in range(offset // BLOCK, (offset + size - 1) // BLOCK + 1)
        )
        return [number for number in numbers if not self.cache.has(self._key(number))]

    @property
    def _copy_key(self) -> str:
        return f"{self._folder}/{os.path.basename(self.name)}"

    def _key(self, number: int) -> str:
        return f"{self._folder}/{number:06d}"

    def _whole(self, number: int) -> int:
        return min(BLOCK, self.size - number * BLOCK)

    def _read(self, number: int, size: int, offset: int) -> bytes:
        whole = self._whole(number)
        return self.cache.read(
            self._key(number), whole, size, offset, lambda: self.of.pread(whole, number * BLOCK)
        )

    def _fetch_block(self, number: int) -> None:
        whole = self._whole(number)
        self.cache.block(self._key(number), whole, lambda: self.of.pread(whole, number * BLOCK))

    def _copy(self, path: Path) -> None:
        with path.open("wb") as file:
            for offset in range(0, self.size, _PART):
                file.write(self.of.pread(min(_PART, self.size - offset), offset))


def with_cache(
    files: Sequence[Stored], cache: Cache | None, in_chunks: bool
) -> tuple[Sequence[Stored], str]:
    """The files read through the cache where that saves requests.

    It does where all of them fit, or are read in chunks (`data.shuffle`); examples from all over a
    set that does not fit are cheaper read one by one.

    Args:
      files: Shards of one listing.
      cache: None: there is none.
      in_chunks: Whether examples are read chunk by chunk.

    Returns:
      The files, and a line on what that means; '' for local files.
    """
    remote = [file for file in files if isinstance(file, Remote)]
    if not remote:
        return files, ""
    size = sum(file.size for file in remote)
    whole = cache is not None and cache.admits(size)
    if cache is None or not (whole or in_chunks):
        most = 0 if cache is None else cache.most
        return files, (
            f"{size / 1e9:.1f} GB do not fit into config.data.cache_gb={most / 1e9:g}: every "
            f"example costs a request; raise it, or set config.data.shuffle"
        )
    return [Cached(f, cache, whole) if isinstance(f, Remote) else f for f in files], ""


def check_room(files: Sequence[Stored], examples: int, shuffle: int, unit: int = 0) -> None:
    """Checks that two groups of chunks fit into the cache: the one that is read, and the next.

    Args:
      files: Shards of one listing.
      examples: How many are in them.
      shuffle: Examples of a group; 0: all is shuffled.
      unit: Bytes that are fetched at a time; 0: a block.

    Raises:
      DataError: They do not, so that the same bytes would be fetched again and again.
    """
    cached = [file for file in files if isinstance(file, Cached) and not file.whole]
    if not cached or not shuffle:
        return
    mean = sum(file.size for file in files) / max(1, examples)
    need = 2 * -(-shuffle // CHUNK) * (CHUNK * mean + (unit or BLOCK))
    if need > cached[0].cache.most:
        raise DataError(
            f"config.data.shuffle={shuffle}: two groups of so many examples, in chunks of {CHUNK}, "
            f"take {need / 1e9:.2g} GB of copies, more than config.data.cache_gb="
            f"{cached[0].cache.most / 1e9:g}; raise it, or shuffle fewer at a time"
        )
