"""Several processes that run one program: how they find each other and what the primary one does.

All call the same functions in the same order. Files, on a file system that all see or in a bucket
(`run_folders`), are written by the primary process (rank 0) alone. What could make them wait for
each other for ever is exchanged before the first collective: `check_same` compares what they are
about to run, and `agreement` lets an error of one process end all.
"""

from active_learning.distributed.exchange import (
    agreement,
    arrays_from_primary,
    check_same,
    code_version,
)
from active_learning.distributed.launchers import ENVIRONMENT, start
from active_learning.distributed.processes import (
    LAST_SECONDS,
    barrier,
    default_cache,
    enable_compilation_cache,
    gather_floats,
    is_primary,
    leave,
    preemption_reached,
    run_on_primary,
)
from active_learning.distributed.run_folders import is_own, share, writable

__all__ = [
    "ENVIRONMENT",
    "LAST_SECONDS",
    "agreement",
    "arrays_from_primary",
    "barrier",
    "check_same",
    "code_version",
    "default_cache",
    "enable_compilation_cache",
    "gather_floats",
    "is_own",
    "is_primary",
    "leave",
    "preemption_reached",
    "run_on_primary",
    "share",
    "start",
    "writable",
]
