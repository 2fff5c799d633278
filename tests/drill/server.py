"""Runs commands of the package, each in a process of its own that has the libraries loaded.

Prints "ready" first. Reads one JSON object a line, {"module", "args", "out", "err", "env"}; answers
with the process id, and at its end with the exit code (negative: the signal), the largest resident
size in bytes and the CPU seconds.
"""

import atexit
import contextlib
import importlib
import json
import os
import runpy
import sys
import threading
import traceback

# Imported once, before the forks: each command then starts in a fraction of a second. None of
# these imports starts a thread or a device.
PRELOADED = (
    *("flax.linen", "optax", "orbax.checkpoint", "absl.app", "ml_collections.config_flags"),
    *("pyarrow.parquet", "array_record.python.array_record_module", "cv2", "simplejpeg"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg"),
    *("active_learning.train.loop", "active_learning.report.page", "active_learning.cli"),
    *("active_learning.data.sources.preparation", "active_learning.evaluators.image_text"),
)


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
    for name in PRELOADED:
        with contextlib.suppress(ImportError):  # optional decoders
            importlib.import_module(name)
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _child(json.loads(line))
        print(pid, flush=True)
        _, status, usage = os.wait4(pid, 0)
        cpu = usage.ru_utime + usage.ru_stime
        print(os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024, cpu, flush=True)


if __name__ == "__main__":
    main()
