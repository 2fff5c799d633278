"""Files of a folder in a bucket, and the marker that says which of them belong together.

A bucket replaces single objects, never several at once. `commit.json` is therefore written last: it
lists every file of a state with size and SHA-256. Objects that it does not list, or whose content
is not the listed one, are not part of the state; an upload that was cut off leaves such objects.
"""

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from active_learning.config import ConfigError
from active_learning.storage.addresses import retried, store_of
from active_learning.storage.errors import MissingError

LOG = logging.getLogger("active_learning")
MARKER = "commit.json"
FORMAT = 1
CONNECTIONS = 8
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
STEP = re.compile(r"(.*/)?checkpoints/(\d+)/")


class StaleError(Exception):
    """An object is not, or no longer, what the marker lists."""


@dataclass(frozen=True)
class Part:
    """An object that holds a file, or a piece of one."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Commit:
    """A state of a folder.

    Attributes:
      number: How many there were before, over all processes that wrote here.
      writer: A random word of the process that wrote it.
      files: The objects whose contents, one after another, are each file.
    """

    number: int = 0
    writer: str = ""
    files: dict[str, tuple[Part, ...]] = field(default_factory=dict)

    @property
    def objects(self) -> set[str]:
        """Names of all objects that are listed."""
        return {part.name for parts in self.files.values() for part in parts}

    def to_bytes(self) -> bytes:
        """As JSON."""
        files = {
            name: [[part.name, part.size, part.sha256] for part in parts]
            for name, parts in sorted(self.files.items())
        }
        content = {"format": FORMAT, "number": self.number, "writer": self.writer, "files": files}
        return json.dumps(content, indent=1).encode()

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> "Commit":
        """Reads a marker. Raises ConfigError where it is none, or names files elsewhere."""
        try:
            saved = json.loads(content)
            number = saved["format"]
            if number == FORMAT:
                files = {
                    _inside(name): tuple(
                        Part(_inside(one), int(size), str(digest)) for one, size, digest in parts
                    )
                    for name, parts in saved["files"].items()
                }
                return cls(int(saved["number"]), str(saved["writer"]), files)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(f"{where}: damaged ({type(error).__name__})") from error
        raise ConfigError(f"{where}: format {number!r}, this version reads {FORMAT}")


def _inside(name: str) -> str:
    """A relative name, without steps out of the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or {*"\\\0:"} & {*name}:
        raise ValueError(name)
    return name


class Bucket:
    """A folder in a bucket; every operation is retried until PATIENCE is over.

    Args:
      address: gs://, s3:// or az://BUCKET/FOLDER.
    """

    def __init__(self, address: str):
        self.address = address.rstrip("/")
        self._store, self._prefix = store_of(self.address)

    def _place(self, name: str) -> tuple[str, str]:
        """Address and path of an object."""
        return f"{self.address}/{name}", f"{self._prefix}/{name}" if self._prefix else name

    def put(self, name: str, content: bytes | Path) -> None:
        """Writes an object, as a whole."""
        import obstore

        address, path = self._place(name)
        if isinstance(content, bytes):
            retried(address, obstore.put, self._store, path, content)
            return
        with content.open("rb") as file:  # stays readable where the file is removed meanwhile

            def attempt() -> None:
                file.seek(0)
                obstore.put(self._store, path, file)

            retried(address, attempt)

    def get(self, name: str) -> bytes | None:
        """Reads an object; None where there is none."""
        import obstore

        address, path = self._place(name)
        try:
            return retried(address, lambda: bytes(obstore.get(self._store, path).bytes()))
        except MissingError as error:
            if any(code in str(error) for code in _NO_BUCKET):
                raise
            return None

    def names(self) -> list[str]:
        """Names of all objects below the folder, relative to it."""
        import obstore

        prefix = f"{self._prefix}/" if self._prefix else ""
        listed = retried(self.address, lambda: obstore.list(self._store, prefix or None).collect())
        return sorted(one["path"].removeprefix(prefix) for one in listed)

    def delete(self, names: Iterable[str]) -> None:
        """Removes objects; one that is gone already is no error."""
        import obstore

        def remove(name: str) -> None:
            address, path = self._place(name)
            with contextlib.suppress(MissingError):
                retried(address, obstore.delete, self._store, path)

        in_parallel(remove, names)

    def read_commit(self) -> Commit | None:
        """The newest committed state; None where nothing was ever committed."""
        content = self.get(MARKER)
        return None if content is None else Commit.from_bytes(content, f"{self.address}/{MARKER}")

    def write_commit(self, commit: Commit) -> None:
        """Makes a state, whose objects are there already, the newest."""
        self.put(MARKER, commit.to_bytes())

    def download(self, parts: Iterable[Part], path: Path) -> None:
        """Writes a file from its parts; raises StaleError where one is not what is listed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.part")
        with partial.open("wb") as file:
            for part in parts:
                self._append(part, file)
        partial.replace(path)

    def _append(self, part: Part, file: Any) -> None:
        import obstore

        address, path = self._place(part.name)
        begin = file.tell()

        def attempt() -> str:
            file.seek(begin)
            file.truncate()
            digest = hashlib.sha256()
            for chunk in obstore.get(self._store, path):
                digest.update(chunk)
                file.write(chunk)
            return digest.hexdigest()

        try:
            digest = retried(address, attempt)
        except MissingError as error:
            raise StaleError(f"{address} is missing") from error
        if digest != part.sha256:
            raise StaleError(f"{address} is not the object that {MARKER} lists")


def in_parallel(function: Callable, items: Iterable) -> list:
    """Calls a function on all items, a few at a time; raises the first error."""
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return list(pool.map(function, items))


def without_older_steps(names: Iterable[str]) -> list[str]:
    """Leaves out all but the newest step of every checkpoints folder."""
    names, newest = list(names), {}
    for name in names:
        if (match := STEP.match(name)) is not None:
            newest[match[1]] = max(newest.get(match[1], 0), int(match[2]))

    def kept(name: str) -> bool:
        match = STEP.match(name)
        return match is None or int(match[2]) == newest[match[1]]

    return [name for name in names if kept(name)]


def without_steps(names: Iterable[str]) -> list[str]:
    """Leaves out all checkpoints."""
    return [name for name in names if STEP.match(name) is None]


def fetch(
    bucket: Bucket, into: Path, wanted: Callable[[Iterable[str]], list[str]] = list
) -> Commit | None:
    """Downloads the newest committed state.

    A file whose object is not what the marker lists is left out with a warning: it was being
    replaced when an upload was cut off. If another process commits meanwhile, its state is read.

    Args:
      bucket: The folder.
      into: The local folder; files that are there and right are kept, others are replaced.
      wanted: Of all names, those to download.

    Returns:
      The state, with the files that were downloaded; None where there is none.
    """
    commit = bucket.read_commit()
    while commit is not None:
        names = wanted(commit.files)

        def one(name: str, files: dict = commit.files) -> str | None:
            if _matches(into / name, files[name]):
                return None
            try:
                bucket.download(files[name], into / name)
            except StaleError as error:
                return str(error)
            return None

        faults = dict(zip(names, in_parallel(one, names), strict=True))
        stale = {name: fault for name, fault in faults.items() if fault is not None}
        newer = bucket.read_commit() if stale else commit
        if newer == commit:
            for name, fault in stale.items():
                LOG.warning("%s/%s: left out, %s", bucket.address, name, fault)
                (into / name).unlink(missing_ok=True)
            files = {name: commit.files[name] for name in names if name not in stale}
            return Commit(commit.number, commit.writer, files)
        commit = newer
    return None


def _matches(path: Path, parts: tuple[Part, ...]) -> bool:
    """Whether a local file is already what the parts hold."""
    try:
        if path.stat().st_size != sum(part.size for part in parts):
            return False
        with path.open("rb") as file:
            return len(leading(file, parts)) == len(parts)
    except OSError:
        return False


def leading(file: Any, parts: Iterable[Part]) -> list[Part]:
    """The parts with which an open file begins."""
    same = []
    for part in parts:
        if digest_of(file, part.size) != (part.size, part.sha256):
            break
        same.append(part)
    return same


def digest_of(file: Any, size: int | None = None) -> tuple[int, str]:
    """Size and SHA-256 of the next `size` bytes of an open file; None: of all that follow."""
    digest, count = hashlib.sha256(), 0
    for chunk in _chunks(file, size):
        digest.update(chunk)
        count += len(chunk)
    return count, digest.hexdigest()


def _chunks(file: Any, size: int | None) -> Iterator[bytes]:
    left = size
    while chunk := file.read(2**20 if left is None else min(2**20, left)):
        left = None if left is None else left - len(chunk)
        yield chunk
