"""Ends a run that makes no more progress, with the stacks of all threads."""

import contextlib
import faulthandler
import os
import socket
import sys
import threading
import time
from pathlib import Path

import jax

from active_learning.distributed import LAST_SECONDS, is_primary

EXIT_CODE = 3  # What happened outside: schedulers start such a job again.
# Most seconds for writing the stacks: the folder may be what hangs.
_WRITING = 60.0
_MOST_TICK = 5.0
# Least seconds for what is not an update: the first batch of an evaluation compiles it.
LEAST_BETWEEN = 600.0


class Watchdog:
    """Counts the time since the last progress, inside its `with` block.

    Progress is an update, and within `during` a call of `progress`. Compilation is left out by
    `paused`. Time in which the process is stopped (Ctrl-Z, a suspended machine) does not count,
    because the watching thread does not run either.

    Args:
      minutes: Without progress, after which the process ends with exit code 3; 0: never. Within
        `during` at least ten minutes.
      workdir: The run's folder; stacks go to hosts/RANK.log in it.
    """

    def __init__(self, minutes: float, workdir: Path):
        self._limit = 60.0 * minutes
        self._tick = min(_MOST_TICK, self._limit / 20)
        self.path = workdir / "hosts" / f"{jax.process_index()}.log"
        self._step, self._idle, self._watching = 0, 0.0, True
        self._between = ""  # What is done instead of updates.
        self._over = threading.Event()

    def __enter__(self) -> "Watchdog":
        if self._limit:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()

    def beat(self, step: int) -> None:
        """Says that update `step` is done."""
        self._step, self._idle = step, 0.0

    def progress(self) -> None:
        """Says that a part of what is done within `during` is finished."""
        self._idle = 0.0

    @contextlib.contextmanager
    def during(self, what: str):
        """Watches something other than updates: `what`, for the message, makes no progress."""
        self._between, self._idle = what, 0.0
        try:
            yield
        finally:
            self._between, self._idle = "", 0.0

    @contextlib.contextmanager
    def paused(self):
        """Leaves out the block."""
        self._watching = False
        try:
            yield
        finally:
            self._idle, self._watching = 0.0, True

    def _watch(self) -> None:
        while not self._over.wait(self._tick):
            self.tick()

    def tick(self) -> None:
        """Counts one interval of the watching thread; ends the process where it was the last."""
        if self._watching:
            self._idle += self._tick
        limit = max(self._limit, LEAST_BETWEEN) if self._between else self._limit
        if self._idle >= limit:
            self._end(limit / 60)

    def _end(self, minutes: float) -> None:
        """Writes the stacks and one line, then leaves."""
        faulthandler.dump_traceback_later(_WRITING, exit=True)
        line = f"no update for {minutes:g} minutes; the last was update {self._step}"
        if self._between:
            line = f"{self._between} after update {self._step}: no progress for {minutes:g} minutes"
        where = ""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                now = time.strftime("%Y-%m-%d %H:%M:%S")
                file.write(f"{now} {socket.gethostname()}, process {os.getpid()}: {line}\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
                file.write("\n")
            where = f"; stacks of all threads: {self.path}"
        except OSError as error:
            where = f"; {self.path}: {error.strerror or error}"
        os.write(2, f"error: {line}{where}\n".encode())
        faulthandler.cancel_dump_traceback_later()
        _leave()


def _leave() -> None:
    """Ends the process from any thread; the primary one last, so that all write their stacks."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    if jax.process_count() > 1 and is_primary():
        time.sleep(LAST_SECONDS)
    os._exit(EXIT_CODE)
