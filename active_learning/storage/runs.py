"""Run folders by path or address: one to write, and those to read."""

import atexit
import contextlib
import functools
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from active_learning.config import ConfigError
from active_learning.storage.addresses import check_login, is_bucket
from active_learning.storage.caches import user_cache
from active_learning.storage.commits import (
    MARKER,
    Bucket,
    fetch,
    in_parallel,
    without_older_steps,
    without_steps,
)
from active_learning.storage.mirror import mirrored

SUMMARY = "summary.json"


def staging_folder(address: str) -> Path:
    """The local folder of a run that is written to a bucket."""
    address = address.rstrip("/")
    word = re.sub(r"[^A-Za-z0-9._-]+", "-", address)[-60:].strip("-.")
    return user_cache() / "runs" / f"{word}-{hashlib.sha256(address.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Place:
    """Where to write a run.

    Attributes:
      folder: A local folder.
      failed: Asked for whether its files no longer reach the bucket, so that the run should stop.
    """

    folder: Path
    failed: Callable[[], bool] = lambda: False


@contextlib.contextmanager
def writable(workdir: Path | str, shared: bool = False) -> Iterator[Place]:
    """A run folder to write in, at a path or an address, for the time of a block.

    For an address the newest state is downloaded before the block, and what the block writes is
    uploaded along with it; see `mirror.mirrored`.

    Args:
      workdir: The path or address.
      shared: A complete run in a bucket is only read, as others may do at the same time.

    Raises:
      ConfigError: The bucket is not there, refuses, or holds something else there.
      StorageError: It did not answer for ten minutes.
    """
    if not is_bucket(str(workdir)):
        yield Place(Path(workdir))
        return
    address = str(workdir)
    if shared and is_complete(address):
        yield Place(readable(address))
        return
    with mirrored(address, staging_folder(address)) as mirror:
        yield Place(mirror.local, lambda: mirror.failed)


def is_complete(address: str) -> bool:
    """Whether a complete run is at an address, on its own or inside of another run."""
    try:
        folder, inner = _run_of(address.rstrip("/"))
    except ConfigError:
        return False  # whoever goes on to write there says what is wrong
    bucket, name = Bucket(folder), f"{inner}/{SUMMARY}" if inner else SUMMARY
    commit = bucket.read_commit()
    content = bucket.get(name) if commit is not None and name in commit.files else None
    return content is not None and json.loads(content)["complete"] is True


def readable(path: Path | str) -> Path:
    """A run folder to read: a path as it is; of an address, a copy for the life of this process.

    The copy holds the newest committed state, of checkpoints only the newest.

    Raises:
      ConfigError: There is no run, the bucket is not there, or it refuses.
      StorageError: It did not answer for ten minutes.
    """
    return _copy(str(path).rstrip("/")) if is_bucket(str(path)) else Path(path)


@functools.lru_cache(maxsize=64)
def _copy(address: str) -> Path:
    folder, inner = _run_of(address)
    prefix = f"{inner}/" if inner else ""
    into = _temporary() / (address.rpartition("/")[2] or "run")
    wanted = lambda names: [n for n in without_older_steps(names) if n.startswith(prefix)]
    commit = fetch(Bucket(folder), into, wanted)
    if commit is None or not commit.files:
        raise ConfigError(f"{address}: no run there")
    return into / inner


def _run_of(address: str) -> tuple[str, str]:
    """The folder with a marker that an address is or lies in, and the rest of the address."""
    folder, inner = address, ""
    while folder.count("/") >= 2 and not folder.endswith("/"):
        if Bucket(folder).get(MARKER) is not None:
            return folder, inner
        folder, _, name = folder.rpartition("/")
        inner = f"{name}/{inner}" if inner else name
    raise ConfigError(f"{address}: no run there (no {MARKER})")


def readable_reports(path: str) -> Path:
    """What a report reads of the runs at or below a path or address: all but the checkpoints."""
    if not is_bucket(path):
        return Path(path)
    address = path.rstrip("/")
    names = Bucket(address).names()
    found = [name for name in names if name == MARKER or name.endswith(f"/{MARKER}")]
    if not found:
        raise ConfigError(f"{address}: no run there or below (no {MARKER})")
    into = _temporary() / (address.rpartition("/")[2] or "runs")

    def one(name: str) -> None:
        inner = name.removesuffix(MARKER).rstrip("/")
        fetch(Bucket(f"{address}/{inner}"), into / inner, without_steps)

    in_parallel(one, found)
    return into


@contextlib.contextmanager
def published(out: Path | str) -> Iterator[Path]:
    """A local folder for results; for an address, its files are uploaded after the block."""
    if not is_bucket(str(out)):
        yield Path(out)
        return
    check_login(str(out))
    with tempfile.TemporaryDirectory(prefix="active_learning-") as folder:
        yield Path(folder)
        bucket = Bucket(str(out))
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        in_parallel(lambda path: bucket.put(path.relative_to(folder).as_posix(), path), files)


def _temporary() -> Path:
    """A folder that is removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="active_learning-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
