"""What a preparation has done so far, and who is at work: a plan, and a journal for each worker.

`prepare.jsonl` holds the plan, then a line for each finished shard. Of several workers each keeps
its own shards in `prepare.I-of-N.jsonl`, and a lock (`storage.workers`). All of them are gone when
the folder is complete.
"""

import json
import os
import re
import socket
from pathlib import Path
from typing import TextIO

from active_learning.config import differences
from active_learning.data.errors import DataError
from active_learning.data.sources.files import read_file
from active_learning.storage import workers
from active_learning.storage.workers import Task

KIND = "prepare"  # of locks
JOURNAL = "prepare.jsonl"
# Names of locks, and of a plan that is being written.
_LOCK = re.compile(r"\.?prepare\..*lock")
_BYTES = 1 << 30  # of a journal at most


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
    workers.remove_locks(out, KIND)
    for pattern in ("prepare.*-of-*.jsonl", JOURNAL):
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
