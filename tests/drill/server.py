"""Runs commands of the package, each in a process of its own that has the libraries loaded.

Reads one JSON object a line, {"module", "args", "out", "err", "env"}; answers with the process id,
and at its end with the exit code (negative: the signal) and the largest resident size in bytes.
"""

import atexit
import json
import os
import runpy
import sys
import threading
import traceback

import flax.linen
import ml_collections
import optax
import orbax.checkpoint
from absl import app

from active_learning import checkpoint, metrics

__all__ = ["app", "checkpoint", "flax", "metrics", "ml_collections", "optax", "orbax"]


def _child(job: dict) -> None:
    for number, name in ((0, os.devnull), (1, job["out"]), (2, job["err"])):
        mode = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(name, mode), number)
    os.environ.update(job["env"])
    sys.argv = [job["module"], *job["args"]]
    code = 0
    try:
        runpy.run_module(job["module"], run_name="__main__", alter_sys=True)
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Serves until its input is closed."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _child(json.loads(line))
        print(pid, flush=True)
        _, status, usage = os.wait4(pid, 0)
        print(os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024, flush=True)


if __name__ == "__main__":
    main()
