"""A command on the workers of a Ray cluster: a function for each `--task=I/N`, then the last step.

All nodes must see the same files and have this version of the package. Ray is imported here only.
"""

import importlib
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from active_learning.config import ConfigError
from active_learning.data.errors import DataError
from active_learning.distributed.exchange import code_version
from active_learning.distributed.processes import ERRORS, kind_of_error
from active_learning.metrics import StorageError
from active_learning.storage.workers import FINISH

LOG = logging.getLogger("active_learning")
COMMANDS = tuple(f"active_learning.{name}" for name in ("prepare", "store_scores", "curate"))
TRIES = 4  # of a task whose worker dies, or that a disk or network fails
_ADDRESS = re.compile(r"(local|auto|(?:ray://)?[^/\s]+:\d{1,5})(?:/([1-9]\d{0,8}))?")


def run(address: str, module: str, argv: Sequence[str]) -> str:
    """Runs all tasks of a command, and then its last step.

    Args:
      address: `local` starts Ray here; `auto`, HOST:PORT or ray://HOST:PORT is a cluster. /N after
        it: by N workers; without it by one for each node.
      module: The command's module, one of `COMMANDS`, whose `run(argv)` returns a text.
      argv: Its arguments, without --task.

    Returns:
      What the last step says.

    Raises:
      ConfigError: Ray is not installed, the address is none, or the error of a task.
      DataError: That of a task.
      StorageError: The cluster cannot be reached, or a task failed `TRIES` times.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ConfigError(
            f"--ray={address}: expected local, auto, HOST:PORT or ray://HOST:PORT, and /N for N "
            "workers, e.g. --ray=local/4"
        )
    ray = _ray(address)
    try:
        _connect(ray, match[1])
        count, resources = share_of(ray.nodes(), int(match[2] or 0), address)
        about = (module, list(argv), os.getcwd(), code_version())
        work = ray.remote(max_calls=1, max_retries=0, scheduling_strategy="SPREAD", **resources)(
            work_on
        )
        tasks = [f"{index}/{count}" for index in range(count)] if count > 1 else []
        _all(ray, work, about, tasks)
        # One worker needs no last step: without a task a command does everything.
        return _all(ray, work, about, [FINISH if tasks else ""])[0]
    finally:
        ray.shutdown()


def _ray(address: str) -> Any:
    # Ray would report its use to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"--ray={address}: Ray is not installed; pip install 'active_learning[ray]'"
        ) from error
    return ray


def _connect(ray: Any, address: str) -> None:
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == "local":
        options["include_dashboard"] = False
    try:
        ray.init(address=address, **options)
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StorageError(f"--ray={address}: no Ray cluster there ({reason})") from error


def share_of(nodes: Sequence[dict], count: int, address: str) -> tuple[int, dict[str, int]]:
    """How many workers there are, and what each of them asks of its node.

    Args:
      nodes: As Ray describes them.
      count: Number of workers; 0: one for each node.
      address: For messages.

    Raises:
      ConfigError: No node of the cluster has processors.
    """
    able = [n["Resources"] for n in nodes if n["Alive"] and n["Resources"].get("CPU", 0) >= 1]
    if not able:
        raise ConfigError(f"--ray={address}: no node of this cluster has CPUs; add one")
    count = count or len(able)
    on_each = -(-count // len(able))
    asked = {"num_cpus": max(1, int(min(n["CPU"] for n in able)) // on_each)}
    if gpus := int(min(n.get("GPU", 0) for n in able)) // on_each:
        asked["num_gpus"] = gpus
    return count, asked


def work_on(module: str, argv: list[str], folder: str, version: str, task: str) -> dict[str, str]:
    """One task, in a process that Ray has started on a node.

    Returns:
      `text`, what the command says; or `error` and `kind`.
    """
    if module not in COMMANDS:
        raise ValueError(f"{module}: not one of {COMMANDS}")
    try:
        if (ours := code_version()) != version:
            raise ConfigError(
                f"another version of active_learning ({ours}, {version} at the caller); install "
                "the same one on all nodes"
            )
        if not Path(folder).is_dir():
            raise ConfigError(f"{folder}: not there; all nodes need the same file system")
        os.chdir(folder)
        given = [*argv, f"--task={task}"] if task else argv
        return {"text": importlib.import_module(module).run(given)}
    except (ConfigError, DataError, StorageError, OSError) as error:
        kind = "StorageError" if isinstance(error, OSError) else kind_of_error(error)
        return {"error": " ".join(str(error).split()), "kind": kind}


def _all(ray: Any, work: Any, about: tuple, tasks: Sequence[str]) -> list[str]:
    """What the tasks say, in their order; those that die are started again."""
    from tqdm import tqdm

    done: dict[str, str] = {}
    tries = dict.fromkeys(tasks, 1)
    pending = {work.remote(*about, task): task for task in tasks}
    with tqdm(total=len(tasks), unit=" tasks", disable=None, desc="Ray") as bar:
        while pending:
            (reference, *_), _ = ray.wait(list(pending), num_returns=1)
            task = pending.pop(reference)
            failure = _outcome(ray, reference, task, done)
            if failure is None:
                bar.update()
                continue
            if tries[task] == TRIES:
                raise StorageError(f"--task={task}: {failure} ({TRIES} times)")
            tries[task] += 1
            LOG.warning("--task=%s: %s; it is started again", task, failure)
            pending[work.remote(*about, task)] = task
    return [done[task] for task in tasks]


def _outcome(ray: Any, reference: Any, task: str, done: dict[str, str]) -> str | None:
    """Notes what a task says; returns why it must be started again. Raises its lasting error."""
    try:
        outcome = ray.get(reference)
    except ray.exceptions.RayTaskError:
        raise  # a fault of the program, with its traceback
    except ray.exceptions.RayError as error:
        return f"its worker died ({(str(error).strip() or type(error).__name__).splitlines()[0]})"
    if "error" in outcome:
        if outcome["kind"] == "StorageError":
            return outcome["error"]
        raise ERRORS.get(outcome["kind"], RuntimeError)(f"--task={task}: {outcome['error']}")
    done[task] = outcome["text"]
    return None
