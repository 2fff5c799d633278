"""Runs commands of the package, each in a process of its own that has the libraries loaded.

Reads one JSON object a line, {"module", "args", "out", "err", "env"}; answers with the process id,
and at its end with the exit code (negative: the signal), the largest resident size in bytes and
the seconds of CPU time.
"""

import atexit
import importlib
import json
import os
import runpy
import sys
import threading
import traceback

# Everything that the commands import, so that a fork of this process need not.
MODULES = (
    "absl.app",
    "ml_collections.config_flags",
    "active_learning.train.loop",
    "active_learning.data.sources.preparation",
    "active_learning.data.sources.next_command",
    "active_learning.evaluators.image_text",
    "active_learning.report.page",
    "active_learning.report.charts",
    "pyarrow.parquet",
    "PIL.Image",
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
    for name in MODULES:
        importlib.import_module(name)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _child(json.loads(line))
        print(pid, flush=True)
        _, status, usage = os.wait4(pid, 0)
        work = usage.ru_utime + usage.ru_stime
        print(os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024, work, flush=True)


if __name__ == "__main__":
    main()
