"""Runs that are killed at random moments, or asked to stop, end with the same bits."""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.drill import commands, runs
from tests.drill.table import Case


class Straight:
    """The runs that nobody disturbed, each made when it is first needed."""

    def __init__(self, folder: Path):
        self.folder, self.data = folder, folder / "data"
        if not self.data.exists():
            runs.write_data(self.data)
        self._lock, self._cached = threading.Lock(), {}

    def of(self, kind: str) -> tuple[Path, dict[str, str], float]:
        """The folder of the run, its content, and the seconds that it takes."""
        with self._lock:
            if kind not in self._cached:
                self._cached[kind] = self._made(kind)
            return self._cached[kind]

    def _made(self, kind: str) -> tuple[Path, dict[str, str], float]:
        workdir = self.folder / "straight" / kind.replace(" ", "_")
        done = runs.train(kind, self.data, workdir)
        if done.code != 0:
            raise RuntimeError(f"{kind}: the undisturbed run fails\n{done.err[-2000:]}")
        again = self.folder / "timed" / kind.replace(" ", "_")
        seconds = runs.train(kind, self.data, again).seconds  # with everything compiled
        return workdir, runs.content(workdir), seconds


def _kinds(count: int, draw: random.Random) -> list[str]:
    kinds = list(runs.KINDS)
    draw.shuffle(kinds)
    return [kinds[n % len(kinds)] for n in range(count)]


def kills(count: int, seed: int, straight: Straight) -> Iterator[Case]:
    """A SIGKILL at a random moment of each run."""
    draw = random.Random(seed)
    for n, kind in enumerate(_kinds(count, draw)):
        share = draw.random()
        yield Case(f"{kind} #{n}", partial(_kill, kind, n, share, straight))


def _kill(kind: str, n: int, share: float, straight: Straight) -> str:
    _, expected, seconds = straight.of(kind)
    workdir = straight.folder / "killed" / str(n)
    done = runs.train(kind, straight.data, workdir, kill_after=0.2 + share * seconds)
    if done.code not in (0, -signal.SIGKILL):
        return done.fault()
    return _continued(kind, workdir, expected, straight)


def _continued(kind: str, workdir: Path, expected: dict, straight: Straight) -> str:
    done = runs.train(kind, straight.data, workdir)
    if done.code != 0:
        return done.fault() or f"not continued: {done.error_line}"
    return runs.difference(workdir, expected)


def stops(count: int, seed: int, straight: Straight) -> Iterator[Case]:
    """SIGTERM and Ctrl-C: saved, exit code 0, continued to the same bits; a pair of processes."""
    draw = random.Random(seed + 1)
    pairs = max(1, count // 6)
    for n, kind in enumerate(_kinds(count - pairs, draw)):
        number = signal.SIGINT if n % 3 == 2 else signal.SIGTERM
        share = draw.random()
        name = f"{signal.Signals(number).name}, {kind} #{n}"
        yield Case(name, partial(_stop, kind, n, share, number, straight))
    for n in range(pairs):
        share = draw.random()
        yield Case(f"two processes #{n}", partial(_stop_two, n, share, straight))


def _stop(kind: str, n: int, share: float, number: int, straight: Straight) -> str:
    _, expected, seconds = straight.of(kind)
    workdir = straight.folder / "stopped" / str(n)
    after = 0.3 + share * seconds
    done = runs.train(kind, straight.data, workdir, kill_after=after, number=number)
    # Before its first update there is nothing to save: the signal's own end is right.
    if done.code not in (0, -number, 130):
        return done.fault()
    if "Traceback" in done.err:
        return done.fault()
    return _continued(kind, workdir, expected, straight)


def _stop_two(n: int, share: float, straight: Straight) -> str:
    kind = "trained reference"
    seconds = straight.of(kind)[2]
    workdir = straight.folder / "two" / str(n)
    first = _pair(kind, straight.data, workdir, 8 + share * 2 * seconds)
    for code, err in first:
        if code not in (0, -signal.SIGTERM) or "Traceback" in err:
            return f"exit code {code}: {err.strip()[-300:]}"
    for code, err in _pair(kind, straight.data, workdir, None):
        if code != 0:
            return f"not continued, exit code {code}: {err.strip()[-300:]}"
    # Sums are rounded in another order, and rows lie on other devices: the same choices as sets.
    same = runs.chosen_sets(workdir) == runs.chosen_sets(straight.of(kind)[0])
    return "" if same else "other chosen"


def _pair(kind: str, data: Path, workdir: Path, stop_after: float | None) -> list[tuple[int, str]]:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "active_learning.main", *runs.arguments(kind, data, workdir)]
    command += [f"--distributed={address}", "--num_processes=2"]
    pair = [
        subprocess.Popen(
            [*command, f"--process_id={rank}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=commands.ROOT,
            env=os.environ | commands.environment(),
        )
        for rank in range(2)
    ]
    try:
        if stop_after is not None:
            try:
                pair[1].wait(timeout=stop_after)
            except subprocess.TimeoutExpired:
                pair[1].send_signal(signal.SIGTERM)
        ends = [process.communicate(timeout=commands.HANG)[1] for process in pair]
        return [(process.returncode, err) for process, err in zip(pair, ends, strict=True)]
    except subprocess.TimeoutExpired:
        return [(-1, "hangs")]
    finally:
        for process in pair:
            process.kill()
            process.communicate()
