"""What one process of several does alone, waits for, or keeps to itself."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from active_learning.config import ConfigError
from active_learning.data.sources.source import DataError
from active_learning.metrics import LOG, StorageError, checked_folder
from active_learning.storage.caches import user_cache

# The coordinator lives in the primary process. When it goes, JAX aborts the others at once, so that
# it leaves last.
LAST_SECONDS = 3.0
ERRORS = {kind.__name__: kind for kind in (ConfigError, DataError, StorageError, RuntimeError)}


def default_cache() -> Path:
    """Returns the folder of this user's compiled programs."""
    return user_cache() / "compiled"


def enable_compilation_cache(folder: str | None = None) -> None:
    """Keeps compiled programs on disk, so that the same run, or the next seed, starts at once.

    Args:
      folder: Where; "" disables the cache. None: where $JAX_COMPILATION_CACHE_DIR says, else the
        user's cache folder, and no cache where that cannot be written.

    Raises:
      ConfigError: The folder that was asked for cannot be written.
    """
    # JAX adds its options to the config at run time.
    if folder is None and cast("Any", jax.config).jax_compilation_cache_dir:
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
            payload = json.dumps({"error": str(caught), "kind": kind_of_error(caught)}).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(payload))))
    blob = multihost_utils.broadcast_one_to_all(np.frombuffer(payload.ljust(size)[:size], np.uint8))
    if error is not None:
        raise error
    received = json.loads(bytes(np.asarray(blob, np.uint8)))
    if "error" in received:
        raise ERRORS.get(received["kind"], RuntimeError)(received["error"])
    return received["value"]


def kind_of_error(error: BaseException) -> str:
    """The name under which the other processes raise an error: that of its nearest known class."""
    return next((k.__name__ for k in type(error).__mro__ if k.__name__ in ERRORS), "RuntimeError")


def gather_floats(value: float) -> list[float]:
    """Returns the value of every process, by rank; all must call it at the same point."""
    if jax.process_count() == 1:
        return [value]
    gathered = multihost_utils.process_allgather(np.float32(value))
    return [float(one) for one in np.ravel(np.asarray(gathered))]


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
