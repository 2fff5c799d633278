"""What processes tell each other before they depend on each other, so that none waits for ever."""

import contextlib
import hashlib
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import distributed as jax_distributed  # The key-value store has no public name.
from jax.experimental import multihost_utils

from active_learning.config import ConfigError
from active_learning.distributed.processes import ERRORS, is_primary, kind_of_error, run_on_primary
from active_learning.metrics import StorageError, write_failure

REPORT_SECONDS = 45.0  # in which every process must report what it is about to run
_counts: Counter[str] = Counter()


def _client() -> Any:
    """The key-value store of the coordinator, for processes that have joined."""
    client = jax_distributed.global_state.client
    assert client is not None, "jax.distributed was not initialized"
    return client


def _verdict(name: str, report: dict, judge: Callable[[list[dict]], str | None], seconds: float):
    """Lets rank 0 judge the reports of all processes; returns its verdict on all, None for good.

    Goes through the key-value store of the coordinator and not through the devices, so that a
    process that never comes is named after `seconds` instead of waited for.
    """
    client, rank = _client(), jax.process_index()
    _counts[name] += 1
    key = f"active_learning/{name}/{_counts[name]}"
    client.key_value_set(f"{key}/{rank}", json.dumps(report))
    if rank == 0:
        reports, verdict = [], None
        deadline = time.monotonic() + seconds
        for other in range(jax.process_count()):
            left = max(1, int(1000 * (deadline - time.monotonic())))
            try:
                reports.append(json.loads(client.blocking_key_value_get(f"{key}/{other}", left)))
            except RuntimeError:
                verdict = f"process {other} has not reported its {name} within {seconds:.0f} s"
                break
        verdict = judge(reports) if verdict is None else verdict
        client.key_value_set(f"{key}/verdict", json.dumps(verdict))
        return verdict
    try:
        wait = int(1000 * (seconds + 15))
        return json.loads(client.blocking_key_value_get(f"{key}/verdict", wait))
    except RuntimeError:
        return f"process 0 has not answered on the {name} within {seconds + 15:.0f} s"


def check_same(
    values: dict[str, str], folder: Path | None = None, seconds: float = REPORT_SECONDS
) -> None:
    """Compares what the processes are about to run; to be called before their first collective.

    Args:
      values: A short text per thing that must be the same, e.g. {"config": hash, "data": hash}.
      folder: The run folder, which may not exist yet; all must see the same one.
      seconds: How long to wait for the slowest process.

    Raises:
      ConfigError: On all processes; one line that names the rank that differs, what differs and
        both values, or the rank that did not report.
    """
    if jax.process_count() == 1:
        return
    with contextlib.nullcontext("") if folder is None else _token(folder, seconds / 2) as token:
        values = values if folder is None else values | {"run folder": token}
        report = {"values": values, "host": socket.gethostname()}
        verdict = _verdict("settings", report, _difference, seconds)
    if verdict is not None:
        raise ConfigError(verdict)


@contextlib.contextmanager
def _token(folder: Path, seconds: float) -> Iterator[str]:
    """A text that is the same on all processes exactly where all see the same folder.

    The primary process writes a file of that name into the folder, or its nearest parent that
    exists, and removes it at the end of the block.
    """
    place, client = folder.absolute(), _client()
    while not place.exists():
        place = place.parent
    _counts["token"] += 1
    key = f"active_learning/token/{_counts['token']}"
    if is_primary():
        path = place / f".shared-{os.urandom(8).hex()}"
        try:
            path.touch()
        except OSError as error:
            raise write_failure(place, error) from error
        finally:
            client.key_value_set(key, path.name)
        try:
            yield path.name
        finally:
            path.unlink(missing_ok=True)
        return
    try:
        path = place / client.blocking_key_value_get(key, int(1000 * seconds))
    except RuntimeError:
        yield "unknown"
        return
    deadline = time.monotonic() + seconds  # network file systems show new files late
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    yield path.name if path.exists() else f"another {folder}"


def _difference(reports: list[dict]) -> str | None:
    """One line on the first rank that differs from the majority, or from rank 0 without one."""
    names = list(dict.fromkeys(name for report in reports for name in report["values"]))
    for name in names:
        values = [report["values"].get(name) for report in reports]
        usual, often = Counter(values).most_common(1)[0]
        usual = usual if 2 * often > len(values) else values[0]
        differing = [rank for rank, value in enumerate(values) if value != usual]
        if differing:
            rank, more = differing[0], len(differing) - 1
            others = f" ({more} more differ)" if more else ""
            return (
                f"process {rank} on {reports[rank]['host']} has another {name}{others}: "
                f"{values[rank]} there, {usual} on process {values.index(usual)}; "
                "start all with the same command, code and files"
            )
    return None


@contextlib.contextmanager
def agreement(name: str, seconds: float = 24 * 3600.0) -> Iterator[None]:
    """Runs a block on all processes; when it raises on one of them, all raise that error.

    Args:
      name: What the block does, for the message.
      seconds: How long to wait for the slowest process. One that has died ends all after JAX's
        heartbeat, whatever is given here.

    Raises:
      ConfigError, DataError or StorageError: The block's own error, with the rank where it happened
        on the other processes.
    """
    if jax.process_count() == 1:
        yield
        return
    report: dict[str, str] = {}
    try:
        yield
    except Exception as error:
        report = {"error": str(error), "kind": kind_of_error(error), "host": socket.gethostname()}
        _verdict(name, report, _failure, seconds)
        raise
    if (verdict := _verdict(name, report, _failure, seconds)) is not None:
        kind, _, message = verdict.partition(" ")
        if kind not in ERRORS:
            raise StorageError(verdict)
        raise ERRORS[kind](message)


def _failure(reports: list[dict]) -> str | None:
    for rank, report in enumerate(reports):
        if "error" in report:
            return f"{report['kind']} process {rank} on {report['host']}: {report['error']}"
    return None


def arrays_from_primary(
    function: Callable[[], dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Calls `function` on the primary process and returns its arrays, bit for bit, on all.

    The others wait as long as it takes, outside of any collective. Its error is raised everywhere.
    """
    if jax.process_count() == 1:
        return function()
    made: dict[str, np.ndarray] = {}
    with agreement("work for all"):
        if is_primary():
            made = function()

    def describe() -> dict[str, tuple[str, tuple[int, ...]]]:
        return {name: (array.dtype.str, array.shape) for name, array in made.items()}

    received = {}
    for name, (dtype, shape) in run_on_primary(describe).items():
        array = np.ascontiguousarray(made[name]) if is_primary() else np.empty(shape, dtype)
        if array.size:  # Bytes, since JAX would round numbers of 64 bits.
            sent = multihost_utils.broadcast_one_to_all(array.reshape(-1).view(np.uint8))
            array = np.array(sent, np.uint8).view(dtype).reshape(shape)
        received[name] = array
    return received


def code_version() -> str:
    """Returns a hash over the package's source files and the version of JAX."""
    root, digest = Path(__file__).parents[1], hashlib.sha256(jax.__version__.encode())
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
