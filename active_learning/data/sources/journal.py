"""What a preparation has done so far, and who is at work: a plan, and a journal for each worker.

`prepare.jsonl` holds the plan, then a line for each finished shard. Of several workers each keeps
its own shards in `prepare.I-of-N.jsonl`. A worker holds a lock as long as it lives; the file names
the holder. All of them are gone when the folder is complete.
"""

import errno
import fcntl
import json
import logging
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from active_learning.config import differences
from active_learning.data.errors import DataError
from active_learning.data.sources.files import read_file

LOG = logging.getLogger("active_learning")
JOURNAL = "prepare.jsonl"
FINISH = "finish"
# Names of locks, and of a plan that is being written.
_LOCK = re.compile(r"\.?prepare\..*lock")
_BYTES = 1 << 30  # of a journal at most
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
# Where launchers say which of several tasks this is, from which number on, and of how many.
_LAUNCHERS = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT"),
    ("JOB_COMPLETION_INDEX", "", ""),
)


@dataclass(frozen=True)
class Task:
    """The part of the shards that one worker writes.

    Attributes:
      index: Number of the worker, from 0.
      count: Number of workers; 1: it writes all shards and finishes.
      finish: Whether it writes no shard, but checks that all are there and finishes.
    """

    index: int = 0
    count: int = 1
    finish: bool = False

    @property
    def name(self) -> str:
        """Part of the names of its files; '' for the only one."""
        return "" if self.count == 1 else f".{self.index}-of-{self.count}"

    def has(self, number: int) -> bool:
        """Whether it writes the shard of this number."""
        return not self.finish and number % self.count == self.index


def task_of(text: str, environment: Mapping[str, str]) -> Task:
    """The task that `--task` asks for.

    Args:
      text: '': all of it; 'I/N': worker I of N, from 0; 'auto/N' or 'auto': I (and N) from the
        environment of a SLURM or Kubernetes job; 'finish'.
      environment: Of the process.

    Raises:
      DataError: It is none of these.
    """
    if text in ("", FINISH):
        return Task(finish=text == FINISH)
    match = re.fullmatch(r"(auto|\d{1,9})(?:/(\d{1,9}))?", text)
    if match is None or (match[1] != "auto" and match[2] is None):
        raise DataError(f"--task={text}: expected I/N, auto, auto/N or finish, e.g. --task=0/8")
    index, count = match[1], match[2]
    if index == "auto":
        index, given = _from_launcher(text, environment)
        count = count or given
    if not count:
        raise DataError(f"--task={text}: of how many? give --task=auto/N")
    if not int(index) < int(count):
        raise DataError(f"--task={text}: worker {index} of {count}; they are numbered from 0")
    return Task(int(index), int(count))


def _from_launcher(text: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """Index and count as a launcher gives them; '' for a count that it does not give."""
    for index, first, count in _LAUNCHERS:
        if (value := environment.get(index, "")).isdigit():
            start = environment.get(first, "0")
            number = int(value) - int(start if start.isdigit() else 0)
            return str(number), environment.get(count, "")
    known = " or ".join(name for name, *_ in _LAUNCHERS)
    raise DataError(f"--task={text}: {known} is not set; give --task=I/N")


@contextmanager
def held(out: Path, task: Task) -> Iterator[None]:
    """Holds the lock of a task in a folder, which is made.

    Workers of the same number of tasks work beside each other, all others exclude each other.

    Raises:
      DataError: Another process is at work there; names it.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = _locked(out / f"prepare{task.name}.lock")
    if file is None:
        raise _busy(out, out / f"prepare{task.name}.lock")
    with file:
        for other in sorted(out.glob("prepare*.lock")):
            beside = task.count > 1 and other.name.endswith(f"-of-{task.count}.lock")
            if beside or other.name == f"prepare{task.name}.lock":
                continue
            if (theirs := _locked(other)) is None:
                raise _busy(out, other)
            theirs.close()
        file.seek(0)
        file.truncate()
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {started}\n")
        file.flush()
        yield


def _locked(path: Path) -> TextIO | None:
    """The opened file with its lock, which ends with it; None where another process has it."""
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            file.close()
            raise
        LOG.warning("%s: this file system has no locks; start no other preparation there", path)
    return file


def _busy(out: Path, lock: Path) -> DataError:
    holder = " ".join(lock.read_text(errors="replace").split())[:200]
    return DataError(
        f"{out}: {holder or 'another process'} is preparing it; wait, or choose another folder"
    )


def check_free(out: Path) -> None:
    """Raises DataError for a folder that holds anything but a preparation that was begun."""
    if not out.is_dir() or (out / JOURNAL).exists():
        return
    if any(not _LOCK.fullmatch(name) for name in os.listdir(out)):
        raise DataError(
            f"{out}: not empty, and no unfinished preparation (no {JOURNAL}); choose another folder"
        )


def begin(out: Path, plan: dict) -> None:
    """Writes the plan where there is none.

    Raises DataError when the folder holds another preparation.
    """
    journal = out / JOURNAL
    if not journal.exists():
        part = out / f".{JOURNAL}.{socket.gethostname()}.{os.getpid()}.lock"
        part.write_text(json.dumps(plan) + "\n")
        try:
            os.link(part, journal)  # of several workers that begin one writes it
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            os.replace(part, journal)
        part.unlink(missing_ok=True)
    lines = _lines(journal)
    if lines and lines[0] != plan:
        before = lines[0] if isinstance(lines[0], dict) else {}
        what = "; ".join(differences(plan, before, "plan")[:3])
        raise DataError(
            f"{out}: another preparation was begun there ({what}); choose another folder"
        )


def finished(out: Path) -> dict[str, dict]:
    """The lines of all journals by shard, of the shards whose files are there."""
    lines = {}
    for journal in sorted(out.glob("prepare*.jsonl")):
        for line in _lines(journal):
            if "shard" in line and all((out / name).exists() for name in line["sha256"]):
                lines[line["shard"]] = line
    return lines


def opened(out: Path, task: Task, plan: dict) -> TextIO:
    """The journal of a task for further lines; what was written by half is gone from it."""
    journal = out / f"prepare{task.name}.jsonl"
    lines = _lines(journal) if journal.exists() else []
    if not task.name and not lines:  # stopped before the plan was written
        lines = [plan]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return journal.open("a")


def remove(out: Path) -> None:
    """Removes journals and locks of a complete folder."""
    for pattern in ("prepare.*-of-*.jsonl", "prepare*.lock", JOURNAL):
        for file in out.glob(pattern):
            file.unlink(missing_ok=True)


def _lines(journal: Path) -> list:
    lines = []
    for line in read_file(str(journal), _BYTES).decode("utf-8", "replace").splitlines():
        try:
            lines.append(json.loads(line))
        except (ValueError, RecursionError):
            break  # the line that was being written when the machine stopped
    return lines
