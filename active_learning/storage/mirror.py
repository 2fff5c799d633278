"""A local folder that is kept in a bucket while a run writes it.

Whatever writes a run folder writes the local one. A thread uploads what has changed whenever a
checkpoint is complete, and every few minutes, and then commits (`commits.py`). The local folder
belongs to the bucket's: the next process takes the bucket's newest state, unless its local folder
is of just that state and holds later work.
"""

import contextlib
import io
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from active_learning.config import ConfigError
from active_learning.storage.addresses import check_login
from active_learning.storage.commits import (
    MARKER,
    STEP,
    Bucket,
    Commit,
    Part,
    digest_of,
    fetch,
    in_parallel,
    leading,
)
from active_learning.storage.errors import StorageError

LOG = logging.getLogger("active_learning")
LOOK_SECONDS = 1.0  # between two looks for a new checkpoint
SYNC_SECONDS = 300.0  # after which changes are uploaded without one
LOCK = ".lock"
RECORD = f".{MARKER}"  # of the local folder: the state of the bucket that it is of
_APPENDED = ".jsonl"  # files of this kind grow, and are kept in numbered segments
_UNFINISHED = ".orbax-checkpoint-tmp"
FEATURES = "features"  # folder of what a run computes once, before its first update


class Mirror:
    """Keeps a local folder in a bucket, from `open` to `close`.

    Args:
      address: The folder in the bucket.
      local: The local folder.
    """

    def __init__(self, address: str, local: Path):
        self.bucket, self.local = Bucket(address), local
        self.error: Exception | None = None
        self._writer, self._commit = secrets.token_hex(8), Commit()
        self._stats: dict[str, tuple[int, int]] = {}
        self._looked: frozenset[str] = frozenset()
        self._synced_at = time.monotonic()
        self._closing, self._syncing = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="mirror", daemon=True)

    def open(self) -> None:
        """Makes the local folder the bucket's newest state, or keeps later work on that state.

        Raises:
          ConfigError: The bucket is not there or refuses, or the folder holds something else.
          StorageError: It does not answer.
        """
        self.local.mkdir(parents=True, exist_ok=True)
        newest = self.bucket.read_commit()
        names = self.bucket.names()
        if newest is None:
            if names:
                raise ConfigError(
                    f"{self.bucket.address}: holds other objects (such as {names[0]}) but no run "
                    f"(no {MARKER}); give another folder"
                )
            self._begin()
        else:
            self._continue(newest)
            self.bucket.delete(name for name in names if self._is_left_over(name))
        self._looked = self._look() if newest is not None else frozenset()
        self._thread.start()

    def _begin(self) -> None:
        """Claims the empty folder, which also shows that it can be written."""
        if self._recorded() is not None:
            LOG.warning(
                "%s: the run that was there is gone; starts again from update 0",
                self.bucket.address,
            )
        _clear(self.local)
        self._publish(Commit(0, self._writer))

    def _continue(self, newest: Commit) -> None:
        recorded = self._recorded()
        if recorded is None or (recorded.number, recorded.writer) != (newest.number, newest.writer):
            _clear(self.local, keep=newest.files)
            newest = fetch(self.bucket, self.local) or newest
            LOG.info(
                "%s: %d files of commit %d downloaded to %s",
                self.bucket.address,
                len(newest.files),
                newest.number,
                self.local,
            )
        self._remember(newest)

    def _recorded(self) -> Commit | None:
        with contextlib.suppress(OSError, ConfigError):
            return Commit.from_bytes((self.local / RECORD).read_bytes(), RECORD)
        return None

    def _remember(self, commit: Commit) -> None:
        self._commit = commit
        partial = self.local / f"{RECORD}.part"
        partial.write_bytes(commit.to_bytes())
        partial.replace(self.local / RECORD)

    def _is_left_over(self, name: str) -> bool:
        """Whether an object was uploaded for a commit that never came, or one that is gone."""
        ours = STEP.match(name) is not None or f"{_APPENDED}." in name
        return ours and name not in self._commit.objects

    def _watch(self) -> None:
        """Uploads when it is time to, until `close`; an error ends it."""
        while not self._closing.wait(LOOK_SECONDS):
            try:
                looked = self._look()
                waited = time.monotonic() - self._synced_at
                if looked != self._looked or waited >= SYNC_SECONDS:
                    self.sync()
                    self._looked = looked
            except Exception as error:  # raised again by `close`, in the thread that trains
                self.error = error
                return

    @property
    def failed(self) -> bool:
        """Whether uploading has failed for good, so that the run should stop."""
        return self.error is not None

    def stop(self) -> None:
        """Ends the uploads as they are."""
        self._closing.set()
        self._thread.join()

    def close(self) -> None:
        """Uploads the rest. Raises the error that ended the uploads."""
        self.stop()
        if self.error is not None:
            raise self.error
        self.sync()

    def _look(self) -> frozenset[str]:
        """What a commit should follow soon: the config, the summary and complete checkpoints."""
        steps = {match[0] for name in self._scan() if (match := STEP.match(name)) is not None}
        there = {name for name in ("config.json", "summary.json") if (self.local / name).exists()}
        return frozenset(steps | there)

    def _scan(self) -> dict[str, tuple[int, int]]:
        """Size and time of every finished file by its name.

        Not of hidden and temporary ones, and not of stored features: those are written in place,
        so that no copy of them would be whole, and are computed again where they are missing.
        """
        files = {}
        for folder, below, names in os.walk(self.local):
            below[:] = [name for name in below if name[0] != "." and _UNFINISHED not in name]
            if Path(folder) == self.local and FEATURES in below:
                below.remove(FEATURES)
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    stat = path.stat()
                    if name[0] != ".":
                        key = path.relative_to(self.local).as_posix()
                        files[key] = stat.st_size, stat.st_mtime_ns
        return files

    def sync(self) -> None:
        """Uploads what has changed since the last commit, commits, and removes what is gone."""
        with self._syncing:
            self._sync()

    def _sync(self) -> None:
        files, before = self._scan(), self._commit
        self._synced_at = time.monotonic()
        changed = [name for name, stat in files.items() if self._stats.get(name) != stat]
        uploaded = dict(zip(changed, in_parallel(self._upload, changed), strict=True))
        parts = {name: uploaded.get(name, before.files.get(name)) for name in files}
        kept = {name: value for name, value in parts.items() if value is not None}
        stats = {name: files[name] for name in kept}
        if kept == before.files:
            self._stats = stats
            return
        theirs = self.bucket.read_commit()
        if theirs is None or (theirs.number, theirs.writer) != (before.number, before.writer):
            raise ConfigError(
                f"{self.bucket.address}: another process has also written this run (since "
                f"commit {before.number}); stop one of the two"
            )
        self._publish(Commit(before.number + 1, self._writer, kept))
        self._stats = stats
        self.bucket.delete(before.objects - self._commit.objects)

    def _publish(self, commit: Commit) -> None:
        self.bucket.write_commit(commit)
        self._remember(commit)

    def _upload(self, name: str) -> tuple[Part, ...] | None:
        """Uploads what the bucket lacks of a file; None where the file has gone meanwhile."""
        path, before = self.local / name, self._commit.files.get(name, ())
        try:
            if name.endswith(_APPENDED):
                return self._append(name, path.read_bytes(), before)
            with path.open("rb") as file:
                size, digest = digest_of(file)
            part = Part(name, size, digest)
            if before != (part,):
                self.bucket.put(name, path)
            return (part,)
        except FileNotFoundError:
            return None

    def _append(self, name: str, content: bytes, before: tuple[Part, ...]) -> tuple[Part, ...]:
        """Uploads the end of a file that grows, or that was cut and grew, as a new segment."""
        same = leading(io.BytesIO(content), before)
        rest = content[sum(part.size for part in same) :]
        if not rest:
            return tuple(same)
        number = 1 + max((int(part.name.rpartition(".")[2]) for part in before), default=-1)
        size, digest = digest_of(io.BytesIO(rest))
        part = Part(f"{name}.{number:06d}", size, digest)
        self.bucket.put(part.name, rest)
        return (*same, part)


def _clear(local: Path, keep: Collection[str] = ()) -> None:
    """Removes the files of a local folder except those named, which may be of use."""
    for folder, _, names in os.walk(local):
        for name in names:
            path = Path(folder, name)
            if path.relative_to(local).as_posix() not in keep and name != LOCK:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(local: Path) -> Iterator[None]:
    """Holds a folder for this process. Raises ConfigError where another one has it."""
    import fcntl

    local.mkdir(parents=True, exist_ok=True)
    with (local / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"{local}: another process on this machine trains this run"
            ) from error
        yield


@contextlib.contextmanager
def mirrored(address: str, local: Path) -> Iterator[Mirror]:
    """Keeps a local folder in a bucket for the time of a block, and removes it after it.

    When the block or an upload fails, the local folder stays, and the same command continues from
    it. The messages of the block's errors name the address in place of the local folder.
    """
    check_login(address)  # Before anything is made.
    with locked(local):
        mirror = Mirror(address, local)
        try:
            mirror.open()
        except Exception:
            if os.listdir(local) == [LOCK]:
                shutil.rmtree(local, ignore_errors=True)
            raise
        try:
            yield mirror
        except Exception as error:
            with contextlib.suppress(ConfigError, StorageError):
                mirror.close()
            text = str(error).replace(str(local), mirror.bucket.address)
            if isinstance(error, ConfigError | StorageError) and text != str(error):
                raise type(error)(text) from error
            raise
        finally:
            mirror.stop()
        mirror.close()
        shutil.rmtree(local, ignore_errors=True)
