"""Several processes that run one program: how they find each other, and what only the first of them does.

All call the same functions in the same order; files (of one file system that all see) are written by the first alone.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from active_learning.config import ConfigError
from active_learning.data.sources.source import DataError

ENVIRONMENT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_ERRORS = {kind.__name__: kind for kind in (ConfigError, DataError, RuntimeError)}


def start(
    coordinator: str | None = None, count: int | None = None, number: int | None = None
) -> None:
    """Joins the processes of a run; must come before anything is computed.

    By the three values (HOST:PORT of the first process, how many there are, which this one is) or the variables in ENVIRONMENT, else by what
    SLURM, Open MPI or a TPU pod say. Without any of them the run is a single process. Raises ConfigError.
    """
    given = [coordinator or os.environ.get(ENVIRONMENT[0]), count, number]
    for at, name in ((1, ENVIRONMENT[1]), (2, ENVIRONMENT[2])):
        if given[at] is None and name in os.environ:
            given[at] = _integer(name)
    if all(value is None for value in given):
        if _launched():
            jax.distributed.initialize()
        return
    if any(value is None for value in given):
        names = ("--coordinator=HOST:PORT", "--num_processes", "--process_id")
        missing = [name for name, value in zip(names, given, strict=True) if value is None]
        raise ConfigError(
            f"several processes need {', '.join(names)}; missing: {', '.join(missing)}"
        )
    if not 0 <= given[2] < given[1]:
        raise ConfigError(
            f"--process_id={given[2]}: expected 0 .. {given[1] - 1}, one less than --num_processes"
        )
    # What is said is all there is to know: each process takes all devices that it sees.
    jax.distributed.initialize(*given, cluster_detection_method="deactivate")


def _integer(name: str) -> int:
    try:
        return int(os.environ[name])
    except ValueError as error:
        raise ConfigError(f"{name}={os.environ[name]!r}: expected a number") from error


def _launched() -> bool:
    """Whether a launcher that JAX knows has started several processes."""
    slurm = (
        "SLURM_STEP_NODELIST" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1
    )  # within srun
    mpi = int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
    return slurm or mpi or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def default_cache() -> Path:
    """Folder of this user's compiled programs."""
    return (
        Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
        / "active_learning"
        / "compiled"
    )


def enable_compilation_cache(folder: str | None = None) -> None:
    """Keeps compiled programs on disk, so that the same run, or the next seed, starts at once.

    In `folder`, by default where $JAX_COMPILATION_CACHE_DIR says, else in the user's cache folder; '' disables the cache.
    """
    if folder is None and jax.config.jax_compilation_cache_dir:
        return
    jax.config.update(
        "jax_compilation_cache_dir", str(default_cache() if folder is None else folder) or None
    )


def first() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return jax.process_index() == 0


def on_first(function: Callable[[], Any]) -> Any:
    """What `function` (its value must be JSON) returns on the first process, on all of them; no other calls it.

    Its error is raised everywhere, so that no process waits for one that has gone.
    """
    if jax.process_count() == 1:
        return function()
    said, error = b"", None
    if first():
        try:
            said = json.dumps({"value": function()}).encode()
        except Exception as caught:  # all must hear of it before it is raised
            error = caught
            said = json.dumps({"error": str(caught), "kind": type(caught).__name__}).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(said))))
    blob = multihost_utils.broadcast_one_to_all(np.frombuffer(said.ljust(size)[:size], np.uint8))
    if error is not None:
        raise error
    heard = json.loads(bytes(np.asarray(blob, np.uint8)))
    if "error" in heard:
        raise _ERRORS.get(heard["kind"], RuntimeError)(heard["error"])
    return heard["value"]


def meet(where: str) -> None:
    """Waits until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def told_to_stop(look: int) -> bool:
    """Whether SIGTERM has reached one of several processes: true on all of them at the same `look` (1, 2, ... at every update)."""
    return multihost_utils.reached_preemption_sync_point(look)
