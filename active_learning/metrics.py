"""Writers and the clock of a run: metrics.jsonl, metrics.csv, TensorBoard by option; training seconds, rate and ETA."""

import contextlib
import csv
import json
import logging
import re
import time
from pathlib import Path

import jax

from active_learning.config import ConfigError

LOG = logging.getLogger("active_learning")


def show_log(quiet: bool = False) -> None:
    """This package's log on stderr, one plain line each; that of the libraries (`quiet`: this one as well) only from warnings on."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOG.handlers, LOG.propagate = [handler], False
    LOG.setLevel(logging.WARNING if quiet else logging.INFO)


class Writer:
    """Appends one line a call to metrics.jsonl; metrics.csv is written from it at the end. Lines after `resume_step` are cut on restart."""

    def __init__(self, workdir: Path, resume_step: int = 0, tensorboard: bool = False):
        self.path = workdir / "metrics.jsonl"
        kept = [line for line in self._lines() if json.loads(line)["step"] <= resume_step]
        self.path.write_text("".join(line + "\n" for line in kept))
        self._file = self.path.open("a")
        self._board = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(workdir / "tensorboard"))

    def _lines(self) -> list[str]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [line for line in lines if line.endswith("}")]  # a killed run may leave half a line

    def write(self, clocks: dict, values: dict) -> None:
        """One line: the ledger's clocks and the values (scalars; lists stay in the JSON)."""
        self._file.write(json.dumps(clocks | values) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(name, value, clocks["step"])

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()
        rows = [_flat(json.loads(line)) for line in self._lines()]
        names = list(dict.fromkeys(name for row in rows for name in row))
        with (self.path.parent / "metrics.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, names, restval="")
            table.writeheader()
            table.writerows(rows)


class NoWriter:
    """The writer of a process that writes nothing."""

    def write(self, clocks: dict, values: dict) -> None:
        pass

    def close(self) -> None:
        pass


def _flat(row: dict) -> dict:
    flops = {f"flops/{k}": v for k, v in row.get("flops", {}).items()}
    return {k: v for k, v in row.items() if not isinstance(v, list | dict)} | flops


class Stopwatch:
    """Seconds of training only: it runs from `start` to `stop` and stands still during evaluation, checkpoints and compilation."""

    def __init__(self, seconds: float = 0.0):
        self.seconds = seconds
        self._since: float | None = None

    def start(self) -> None:
        self._since = time.perf_counter()

    def stop(self) -> None:
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
            self._since = None

    @contextlib.contextmanager
    def running(self):
        """Runs inside the block, to be used where it stands still."""
        self.start()
        yield
        self.stop()

    @contextlib.contextmanager
    def paused(self):
        """Stands still inside the block."""
        self.stop()
        yield
        self.start()


def span(text: str | None) -> tuple[int, int]:
    """START:STOP as numbers, (0, 0) for nothing. Raises ConfigError naming --profile."""
    if not text:
        return 0, 0
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise ConfigError(
            f"--profile={text}: expected START:STOP, two numbers of updates, START before STOP"
        )
    return int(found[1]), int(found[2])


class Profile:
    """A profiler's trace of the updates start .. stop - 1, in `folder`; XProf and Perfetto open it."""

    def __init__(self, folder: Path, start: int, stop: int):
        self.folder, self.start, self.stop, self._on = folder, start, stop, False

    def at(self, update: int, state) -> None:
        """To be called before every update with the state that it starts from."""
        if self._on and update >= self.stop:
            self.close(state)
        elif not self._on and self.start <= update < self.stop:
            jax.block_until_ready(state)
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # every Python call would bury what the devices do
            jax.profiler.start_trace(str(self.folder), profiler_options=options)
            self._on = True

    def close(self, state) -> None:
        """Ends a trace that is being written."""
        if self._on:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._on = False
            LOG.info("trace of updates %d to %d: %s", self.start, self.stop - 1, self.folder)


def progress(name: str, step: int, total: int, rate: float, flops: float, values: dict) -> None:
    """One line: where the run stands, updates a second, time left, FLOPs so far, and a few values."""
    left = round(max(0, total - step) / rate) if rate > 0 else None
    eta = "?" if left is None else f"{left // 3600:02d}:{left // 60 % 60:02d}:{left % 60:02d}"
    shown = "  ".join(f"{k} {v:.4g}" for k, v in values.items() if isinstance(v, float))
    LOG.info(
        "%s  %d/%d  %.1f updates/s  ETA %s  %.3g FLOPs  %s",
        name,
        step,
        total,
        rate,
        eta,
        flops,
        shown,
    )
