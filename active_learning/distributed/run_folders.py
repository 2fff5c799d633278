"""Run folders of several processes: one that all see or, of a run in a bucket, one for each.

In a bucket only the first process writes: a local folder that `storage.mirror` uploads. The others
need no disk that they share with it. What they read of the run's files they download to a folder of
their own, once the first process has uploaded it (`share`).
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax

from active_learning.config import ConfigError
from active_learning.distributed.exchange import agreement, check_same
from active_learning.distributed.processes import is_primary, run_on_primary
from active_learning.storage import runs
from active_learning.storage.addresses import is_bucket
from active_learning.storage.commits import Bucket, fetch, without_older_steps
from active_learning.storage.errors import StorageError
from active_learning.storage.mirror import Mirror, mirrored


@dataclass(frozen=True)
class _Own:
    """A process's own folder for a run in a bucket."""

    address: str
    folder: Path
    # Of the first process.
    mirror: Mirror | None = None
    # The folder is a copy of a finished run, and all of it is there.
    finished: bool = False


_open: list[_Own] = []  # The run, and inside of it that of a reference in a bucket.


def _own(path: Path) -> _Own | None:
    return next((own for own in reversed(_open) if path.is_relative_to(own.folder)), None)


def is_own(folder: Path) -> bool:
    """Whether each of several processes has a folder of its own in place of this one."""
    return _own(folder) is not None


def share(path: Path) -> None:
    """Lets all processes see what the first has written at a path of a run folder.

    Does nothing for a folder that all see. Of checkpoints the newest is shared.

    Raises:
      ConfigError or StorageError: On all processes, where the bucket refuses or does not answer.
    """
    own = _own(path)
    if own is None or own.finished:
        return
    with agreement("upload of files that all read"):
        if own.mirror is not None:
            own.mirror.sync()
    below = path.relative_to(own.folder).as_posix()

    def wanted(names: Iterable[str]) -> list[str]:
        inside = lambda name: below == "." or name == below or name.startswith(f"{below}/")
        return [name for name in without_older_steps(names) if inside(name)]

    with agreement("download of files that all read"):
        if own.mirror is None:
            fetch(Bucket(own.address), own.folder, wanted)


@contextlib.contextmanager
def writable(workdir: Path | str, shared: bool = False) -> Iterator[runs.Place]:
    """`storage.runs.writable` for all processes.

    In a bucket, the folder of every process but the first is empty, and is removed after the block.

    Raises:
      ConfigError or StorageError: As there, on all processes.
    """
    address = str(workdir)
    if not is_bucket(address) or jax.process_count() == 1:
        with runs.writable(workdir, shared) as place:
            yield place
        return
    check_same({"run folder": address})
    if shared and run_on_primary(lambda: runs.is_complete(address)):
        with agreement("download of a run"):
            folder = runs.readable(address)
        with _opened(_Own(address, folder, finished=True)):
            yield runs.Place(folder)
        return
    with contextlib.ExitStack() as stack:
        with agreement("run folder"):
            own = stack.enter_context(_first(address) if is_primary() else _other(address))
        mirror = own.mirror
        with _opened(own):
            yield runs.Place(own.folder, lambda: mirror is not None and mirror.failed)
        with agreement("upload of the run folder"):
            stack.close()


@contextlib.contextmanager
def _opened(own: _Own) -> Iterator[None]:
    _open.append(own)
    try:
        yield
    finally:
        _open.remove(own)


@contextlib.contextmanager
def _first(address: str) -> Iterator[_Own]:
    with mirrored(address, runs.staging_folder(address)) as mirror:
        yield _Own(address, mirror.local, mirror)


@contextlib.contextmanager
def _other(address: str) -> Iterator[_Own]:
    folder = Path(tempfile.mkdtemp(prefix="active_learning-"))
    try:
        yield _Own(address, folder)
    except (ConfigError, StorageError) as error:
        # What the first process says of its folder; it has replaced the name in its own message.
        text = str(error).replace(str(runs.staging_folder(address)), address)
        raise type(error)(text) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
