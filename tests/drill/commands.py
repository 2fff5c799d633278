"""The public commands, run as a user runs them, and what is right about their end."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HANG = 240.0  # seconds after which a command counts as hanging
_local = threading.local()


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int  # negative: the signal
    out: str
    err: str
    seconds: float
    peak: int  # bytes of resident memory, 0 for a process of its own
    hung: bool = False
    cpu: float = 0.0  # seconds of all its threads

    @property
    def error_line(self) -> str:
        """What the user is told; empty unless there is exactly one such line."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return lines[0] if len(lines) == 1 else ""

    def fault(self) -> str:
        """What is wrong with any end: a traceback, a hang, a refusal that is not one line."""
        if self.hung:
            return f"hangs ({self.seconds:.0f} s)"
        if "Traceback (most recent call last)" in self.err:
            return f"traceback: {self.err.strip().splitlines()[-1][:200]}"
        if self.code in (0, 2, 3):
            usage = "usage: " in self.err and self.code == 2  # argparse's own refusal
            return "" if self.code == 0 or self.error_line or usage else "refused without a line"
        return f"exit code {self.code}: {self.err.strip()[-200:]}"


def environment() -> dict[str, str]:
    """Devices, compiler and cache of every command: one CPU device, compiled once."""
    cache = ROOT / ".pytest_cache" / "jax"
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    return {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        "TQDM_DISABLE": "1",
    }


class _Server:
    """One process that forks; one command at a time."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.drill.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env=os.environ | environment(),
        )
        self._process.stdout.readline()  # It has loaded the libraries.

    def start(self, job: dict) -> int:
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def wait(self) -> tuple[int, int, float]:
        code, peak, cpu = self._process.stdout.readline().split()
        return int(code), int(peak), float(cpu)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def close() -> None:
    """Ends this thread's server."""
    if getattr(_local, "server", None) is not None:
        _local.server.close()
        _local.server = None


def run(
    module: str,
    *args: str | Path,
    kill_after: float | None = None,
    number: int = signal.SIGKILL,
    limit: float = HANG,
    env: dict[str, str] | None = None,
) -> Done:
    """Runs `python -m active_learning.MODULE ARGS`.

    Args:
      module: e.g. "main".
      args: Its arguments.
      kill_after: Seconds after which signal `number` is sent.
      number: The signal.
      limit: Seconds after which it is killed and counts as hanging.
      env: Further variables.
    """
    if getattr(_local, "server", None) is None:
        _local.server = _Server()
    server, began, hung = _local.server, time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        module = f"active_learning.{module}"
        job = {"module": module, "args": [str(a) for a in args], "out": str(out), "err": str(err)}
        pid = server.start(job | {"env": env or {}})

        def send(which: int) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, which)

        def give_up() -> None:
            hung.append(True)
            send(signal.SIGKILL)

        timers = [threading.Timer(limit, give_up)]
        if kill_after is not None:
            timers.append(threading.Timer(kill_after, send, (number,)))
        for timer in timers:
            timer.start()
        code, peak, cpu = server.wait()
        for timer in timers:
            timer.cancel()
        read = lambda path: path.read_text(errors="replace") if path.exists() else ""
        return Done(code, read(out), read(err), time.monotonic() - began, peak, bool(hung), cpu)
