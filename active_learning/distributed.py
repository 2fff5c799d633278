"""Several processes that run one program: how they find each other and what the primary one does.

All call the same functions in the same order. Files, on a file system that all see, are written by
the primary process (rank 0) alone. What could make them wait for each other for ever is exchanged
before the first collective: `check_same` compares what they are about to run, and `agreement` lets
an error of one process end all.
"""

import contextlib
import glob
import hashlib
import importlib.util
import json
import os
import re
import socket
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import distributed as jax_distributed  # the key-value store has no public name
from jax.experimental import multihost_utils

from active_learning.config import ConfigError
from active_learning.data.sources.source import DataError
from active_learning.metrics import LOG, StorageError, checked_folder, write_failure

ENVIRONMENT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
REPORT_SECONDS = 45.0  # in which every process must report what it is about to run
# The coordinator lives in the primary process. When it goes, JAX aborts the others at once, so that
# it leaves last.
LAST_SECONDS = 3.0
_COUNTS = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
_RANKS = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "JOB_COMPLETION_INDEX")
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_ERRORS = {kind.__name__: kind for kind in (ConfigError, DataError, StorageError, RuntimeError)}


def start(
    coordinator: str | None = None,
    count: int | None = None,
    number: int | None = None,
    mode: str = "auto",
) -> None:
    """Joins the processes of a run; must come before anything is computed.

    Args:
      coordinator: HOST:PORT of the first process; else $JAX_COORDINATOR_ADDRESS.
      count: How many processes there are; else $JAX_NUM_PROCESSES or the launcher's count.
      number: Which of them this is; else $JAX_PROCESS_ID or the launcher's number.
      mode: "auto" joins what the arguments, the environment or a launcher (SLURM, Open MPI, a TPU
        pod, Kubernetes) describe, and is a single process without any; "off" is always a single
        process; HOST:PORT is the coordinator's address.

    Raises:
      ConfigError: Something is missing, or is not a number.
      StorageError: The others cannot be reached.
    """
    given = coordinator is not None or count is not None or number is not None
    if mode == "off":
        if given:
            raise ConfigError(
                "--distributed=off and --coordinator, --num_processes or --process_id"
            )
        return
    if mode != "auto":
        if not re.fullmatch(r"\S+:\d{1,5}", mode):
            raise ConfigError(f"--distributed={mode}: expected off, auto or HOST:PORT")
        if coordinator not in (None, mode):
            raise ConfigError(
                f"--distributed={mode}: --coordinator={coordinator} is another address"
            )
        coordinator = mode
    coordinator = coordinator or _variable(ENVIRONMENT[0])
    if (
        coordinator is None
        and count is None
        and number is None
        and _variable(ENVIRONMENT[1]) is None
    ):
        if (method := _launcher()) is not None:
            _join(f"of {method}", cluster_detection_method=method)
        return
    count = _first_number(ENVIRONMENT[1], *_COUNTS) if count is None else count
    number = _first_number(ENVIRONMENT[2], *_RANKS) if number is None else number
    values = (coordinator, count, number)
    names = ("--coordinator=HOST:PORT", "--num_processes", "--process_id")
    if missing := [name for name, value in zip(names, values, strict=True) if value is None]:
        raise ConfigError(
            f"several processes need {', '.join(names)}; missing: {', '.join(missing)}"
        )
    if not 0 <= number < count:
        raise ConfigError(
            f"--process_id={number}: expected 0 .. {count - 1}, one less than --num_processes"
        )
    # Cluster detection is off: each process takes all devices that it sees.
    _join(f"at {coordinator}", *values, cluster_detection_method="deactivate")


def _join(where: str, *values, **options) -> None:
    try:
        jax.distributed.initialize(*values, **options)
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise StorageError(f"cannot join the other processes {where}: {reason}") from error


def _variable(name: str) -> str | None:
    """An environment variable; None where it is unset or empty, as left over by some launchers."""
    return os.environ.get(name, "").strip() or None


def _number(name: str) -> int | None:
    if (text := _variable(name)) is None:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"{name}={text!r}: expected a number") from error


def _first_number(*names: str) -> int | None:
    return next((value for name in names if (value := _number(name)) is not None), None)


def _launcher() -> str | None:
    """JAX's name of the launcher that has started several processes, if there is one."""
    # Without srun (in a batch script or salloc's shell) a step's variables are missing or empty.
    if all(_variable(name) for name in _SLURM) and (_first_number(*_COUNTS[:2]) or 1) > 1:
        return "slurm"
    if (_number("OMPI_COMM_WORLD_SIZE") or 1) > 1:
        if _variable("OMPI_MCA_orte_hnp_uri") is None:
            raise ConfigError(
                "Open MPI 5 does not tell the address of the first process: "
                "give --distributed=HOST:PORT, or off for separate runs"
            )
        return "ompi"
    if any("," in (_variable(n) or "") for n in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")):
        return "gketpu"
    if _in_tpu_pod():
        return "gcetpu"
    if _variable("KUBERNETES_SERVICE_HOST") and _variable("JOB_COMPLETION_INDEX"):
        # The number of pods is known to the cluster only; JAX asks it by this package. Without it,
        # indexed pods are separate runs unless JAX_COORDINATOR_ADDRESS says otherwise.
        return "k8s" if importlib.util.find_spec("kubernetes") else None
    return None


def _in_tpu_pod() -> bool:
    """Whether this is one of several hosts of a TPU slice that Compute Engine has started.

    Such hosts carry no variables; the metadata server names all of them.
    """
    if not importlib.util.find_spec("libtpu") or not (
        glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    ):
        return False
    if _variable("TPU_SKIP_MDS_QUERY"):
        return False
    server = _variable("GCE_METADATA_IP") or "metadata.google.internal"
    request = urllib.request.Request(
        f"http://{server}/computeMetadata/v1/instance/attributes/worker-network-endpoints",
        headers={"Metadata-Flavor": "Google"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return b"," in response.read(1 << 20)
    except (OSError, urllib.error.URLError):
        return False


def default_cache() -> Path:
    """Returns the folder of this user's compiled programs."""
    base = Path(_variable("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return base / "active_learning" / "compiled"


def enable_compilation_cache(folder: str | None = None) -> None:
    """Keeps compiled programs on disk, so that the same run, or the next seed, starts at once.

    Args:
      folder: Where; "" disables the cache. None: where $JAX_COMPILATION_CACHE_DIR says, else the
        user's cache folder, and no cache where that cannot be written.

    Raises:
      ConfigError: The folder that was asked for cannot be written.
    """
    if folder is None and jax.config.jax_compilation_cache_dir:
        return
    if folder is not None:
        path = checked_folder(folder, "--cache") if folder else None
    else:
        try:
            path = checked_folder(default_cache(), "cache of compiled programs")
        except (ConfigError, RuntimeError) as error:  # a read-only home, or none
            LOG.warning("%s; programs are compiled anew in every run", error)
            path = None
    jax.config.update("jax_compilation_cache_dir", None if path is None else str(path))


def is_primary() -> bool:
    """Returns whether this process writes files and logs (rank 0)."""
    return jax.process_index() == 0


def run_on_primary(function: Callable[[], Any]) -> Any:
    """Calls `function` on the primary process and returns its value, which must be JSON, on all.

    Its error is raised everywhere, so that no process waits for one that has gone.
    """
    if jax.process_count() == 1:
        return function()
    payload, error = b"", None
    if is_primary():
        try:
            payload = json.dumps({"value": function()}).encode()
        except Exception as caught:  # all must hear of it before it is raised
            error = caught
            payload = json.dumps({"error": str(caught), "kind": _kind(caught)}).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(payload))))
    blob = multihost_utils.broadcast_one_to_all(np.frombuffer(payload.ljust(size)[:size], np.uint8))
    if error is not None:
        raise error
    received = json.loads(bytes(np.asarray(blob, np.uint8)))
    if "error" in received:
        raise _ERRORS.get(received["kind"], RuntimeError)(received["error"])
    return received["value"]


def _kind(error: BaseException) -> str:
    """The name under which the other processes raise an error: that of its nearest known class."""
    return next((k.__name__ for k in type(error).__mro__ if k.__name__ in _ERRORS), "RuntimeError")


def barrier(name: str) -> None:
    """Waits until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def preemption_reached(look: int) -> bool:
    """Returns whether SIGTERM has reached one of several processes.

    Args:
      look: 1, 2, ... at every update; all processes get the same answer at the same look.
    """
    return multihost_utils.reached_preemption_sync_point(look)


def leave(code: int) -> None:
    """Ends this process with an exit code; of several, without waiting for the others at exit."""
    if jax.process_count() == 1:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    if is_primary():
        time.sleep(LAST_SECONDS)
    os._exit(code)


_counts: Counter[str] = Counter()


def _verdict(name: str, report: dict, judge: Callable[[list[dict]], str | None], seconds: float):
    """Lets rank 0 judge the reports of all processes; returns its verdict on all, None for good.

    Goes through the key-value store of the coordinator and not through the devices, so that a
    process that never comes is named after `seconds` instead of waited for.
    """
    client, rank = jax_distributed.global_state.client, jax.process_index()
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
    place, client = folder.absolute(), jax_distributed.global_state.client
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
        report = {"error": str(error), "kind": _kind(error), "host": socket.gethostname()}
        _verdict(name, report, _failure, seconds)
        raise
    if (verdict := _verdict(name, report, _failure, seconds)) is not None:
        kind, _, message = verdict.partition(" ")
        if kind not in _ERRORS:
            raise StorageError(verdict)
        raise _ERRORS[kind](message)


def _failure(reports: list[dict]) -> str | None:
    for rank, report in enumerate(reports):
        if "error" in report:
            return f"{report['kind']} process {rank} on {report['host']}: {report['error']}"
    return None


def code_version() -> str:
    """Returns a hash over the package's source files and the version of JAX."""
    root, digest = Path(__file__).parent, hashlib.sha256(jax.__version__.encode())
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
