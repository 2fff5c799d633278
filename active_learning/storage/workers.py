"""Several workers on one folder: which part each does, and a lock that names who is at work.

A command cuts its work into numbered pieces, each a file that is written whole or not at all.
Worker I of N takes every Nth piece; a last step checks that all are there. A worker holds a lock as
long as it lives, so that no two do the same work and a worker that was killed can be started again.
"""

import contextlib
import errno
import fcntl
import logging
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from active_learning.storage.errors import ConfigError

LOG = logging.getLogger("active_learning")
FINISH = "finish"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_TRIES, _PAUSE = 10, 0.05  # another worker that looks whether this one lives has the lock briefly
_SLURM = "SLURM_ARRAY_TASK_{}"
_SLURM_NAMES = ("ID", "MIN", "STEP", "COUNT")
_KUBERNETES = "JOB_COMPLETION_INDEX"
HELP = (
    "do the part of worker I of N, from 0; auto (/N): I from SLURM or Kubernetes; finish: check "
    "that all parts are there, and finish"
)


@dataclass(frozen=True)
class Task:
    """The part of the pieces that one worker does.

    Attributes:
      index: Number of the worker, from 0.
      count: Number of workers; 1: it does all pieces and finishes.
      finish: Whether it does no piece, but checks that all are there and finishes.
    """

    index: int = 0
    count: int = 1
    finish: bool = False

    @property
    def name(self) -> str:
        """Part of the names of its files; '' for the only one."""
        return "" if self.count == 1 else f".{self.index}-of-{self.count}"

    @property
    def is_all(self) -> bool:
        """Whether it does everything and finishes."""
        return self.count == 1 and not self.finish

    def has(self, number: int) -> bool:
        """Whether it does the piece of this number."""
        return not self.finish and number % self.count == self.index

    def done(self, out: Path | str) -> str:
        """What a worker says at its end."""
        return (
            f"{out}: worker {self.index} of {self.count} is done; when all are, run the same "
            f"command with --task={FINISH}"
        )


ALL = Task()


def task_of(text: str, environment: Mapping[str, str]) -> Task:
    """The task that `--task` asks for.

    Args:
      text: '': all of it; 'I/N': worker I of N, from 0; 'auto/N' or 'auto': I (and N) from the
        environment of a SLURM or Kubernetes job; 'finish'.
      environment: Of the process.

    Raises:
      ConfigError: It is none of these.
    """
    if text in ("", FINISH):
        return Task(finish=text == FINISH)
    match = re.fullmatch(r"(auto|\d{1,9})(?:/(\d{1,9}))?", text)
    if match is None or (match[1] != "auto" and match[2] is None):
        raise ConfigError(f"--task={text}: expected I/N, auto, auto/N or finish, e.g. --task=0/8")
    count = int(match[2] or 0)
    if match[1] == "auto":
        index, count = _from_launcher(text, environment, count)
    else:
        index = int(match[1])
    if match[2] is None and not count:
        raise ConfigError(f"--task={text}: of how many? give --task=auto/N")
    if not 0 <= index < count:
        raise ConfigError(f"--task={text}: worker {index} of {count}; they are numbered from 0")
    return Task(index, count)


def _from_launcher(text: str, environment: Mapping[str, str], count: int) -> tuple[int, int]:
    """Index and count as a launcher gives them; 0 for a count that it does not give."""
    slurm = {name: _number(environment, _SLURM.format(name)) for name in _SLURM_NAMES}
    if (index := slurm["ID"]) is not None:
        given = slurm["COUNT"] or 0
        if count and given != count:
            return index, count  # some tasks of an array from 0, started again
        return (index - (slurm["MIN"] or 0)) // (slurm["STEP"] or 1), given
    if (index := _number(environment, _KUBERNETES)) is not None:
        return index, count
    known = f"{_SLURM.format('ID')} or {_KUBERNETES}"
    raise ConfigError(f"--task={text}: {known} is not set; give --task=I/N")


def _number(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name, "")
    return int(value) if value.isdecimal() else None


@contextlib.contextmanager
def held(folder: Path, task: Task, kind: str, out: Path | None = None) -> Iterator[None]:
    """Holds the lock of a task in a folder, which is made.

    Workers of the same number of tasks work beside each other, all others exclude each other.

    Args:
      folder: Where the locks are.
      task: Of this process.
      kind: What is done, as the locks are named: two kinds in one folder know nothing of each
        other.
      out: What is written, for messages; None: the folder.

    Raises:
      ConfigError: Another process is at work there; names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = _lock(folder, task, kind)
    file = _locked(path, _TRIES)
    if file is None:
        raise _busy(out or folder, path)
    with file:
        for other in sorted(folder.glob(f"{kind}*.lock")):
            beside = task.count > 1 and other.name.endswith(f"-of-{task.count}.lock")
            if beside or other == path:
                continue
            if (theirs := _locked(other, _TRIES)) is None:
                raise _busy(out or folder, other)
            theirs.close()
        file.seek(0)
        file.truncate()
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {started}\n")
        file.flush()
        yield


def at_work(folder: Path, task: Task, kind: str) -> bool:
    """Whether a process holds the lock of a task; False also where a file system has no locks."""
    path = _lock(folder, task, kind)
    if not path.exists():
        return False
    file = _locked(path, 1)
    if file is None:
        return True
    file.close()
    return False


def again(folder: Path, kind: str, missing: Iterable[int], what: str) -> str:
    """Which tasks to run again for the pieces of these numbers, as a part of a message.

    How many tasks there are is read from the locks that they left; where none or several numbers
    of tasks did, the rule is said.

    Args:
      folder: Where the locks are.
      kind: Their kind.
      missing: Numbers of the pieces that are not there.
      what: What a piece is, e.g. "shard".
    """
    pattern = re.compile(rf"{kind}\.\d+-of-(\d+)\.lock")
    counts = {int(match[1]) for path in folder.iterdir() if (match := pattern.fullmatch(path.name))}
    if len(counts) != 1:
        return f"run the tasks that write them again: {what} K (from 0) is one of task K modulo N"
    (count,) = counts
    tasks = [f"--task={index}/{count}" for index in sorted({number % count for number in missing})]
    named = ", ".join(tasks[:8]) + (f" and {len(tasks) - 8} more" if len(tasks) > 8 else "")
    return f"run {named} again"


def remove_locks(folder: Path, kind: str) -> None:
    """Removes the locks of a kind, and the folder where nothing else is in it."""
    for path in folder.glob(f"{kind}*.lock"):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _lock(folder: Path, task: Task, kind: str) -> Path:
    return folder / f"{kind}{task.name}.lock"


def _locked(path: Path, tries: int) -> TextIO | None:
    """The opened file with its lock, which ends with it; None where another process has it."""
    file = path.open("a+")
    for attempt in range(tries):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if attempt + 1 < tries:
                time.sleep(_PAUSE)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                file.close()
                raise
            LOG.warning("%s: this file system has no locks; start no worker twice", path)
            return file
    file.close()
    return None


def _busy(out: Path, lock: Path) -> ConfigError:
    holder = " ".join(lock.read_text(errors="replace").split())[:200]
    return ConfigError(
        f"{out}: {holder or 'another process'} is at work on it; wait, or choose another folder"
    )
