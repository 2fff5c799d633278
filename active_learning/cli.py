"""What the commands share: flags for a user's own modules, and one line for every error."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from active_learning.arguments import without_flag
from active_learning.config import ConfigError, import_for_configs
from active_learning.data.sources.source import DataError
from active_learning.metrics import NonFiniteError, StorageError, exit_code, write_failure
from active_learning.storage import workers

# What a command answers with one line; anything else is a fault of the program.
EXPECTED = (ConfigError, DataError, StorageError, NonFiniteError)


def add_import_flag(parser: argparse.ArgumentParser) -> None:
    """Adds --import=MODULE, which registers a user's own classes for reading configs back."""
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="module or FILE.py of your own whose classes and functions the run's config names",
    )


def add_data_flag(parser: argparse.ArgumentParser) -> None:
    """Adds --data=PATH, where the data of a run lie now."""
    parser.add_argument(
        "--data",
        default="",
        metavar="PATH",
        help="where the run's data lie now, if they were moved; their content is compared",
    )


def add_task_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --task=I/N and --ray=ADDRESS, by which several workers share a command."""
    parser.add_argument("--task", default="", metavar="I/N", help=workers.HELP)
    parser.add_argument(
        "--ray",
        default="",
        metavar="ADDRESS[/N]",
        help="do all of it by N workers of a Ray cluster (one per node): local, auto, HOST:PORT or "
        "ray://HOST:PORT",
    )


def run_on_ray(module: str, argv: list[str], args: argparse.Namespace) -> str:
    """Runs a command by the workers of a Ray cluster, as --ray asks.

    Args:
      module: The command's module.
      argv: All its arguments.
      args: The same, parsed.

    Returns:
      What its last step says.

    Raises:
      ConfigError: Ray is not installed, or the command's own error.
      StorageError: The cluster cannot be reached, or a task died again and again.
    """
    if args.task:
        raise ConfigError(f"--ray={args.ray} and --task={args.task}: give only one of them")
    from active_learning.distributed import ray_tasks

    return ray_tasks.run(args.ray, module, without_flag(argv, "--ray"))


def import_modules(modules: list[str]) -> None:
    """Imports what --import names. Raises ConfigError for what cannot be imported."""
    for module in modules:
        import_for_configs(module)


def guarded(command: Callable[[], None]) -> int:
    """Runs a command.

    Returns:
      The exit code: 0 when it is done, 2 when what was asked cannot be done, 3 for what happened
      outside (disk, network); the last two with one line on stderr.
    """
    try:
        command()
        sys.stdout.flush()
    except EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return exit_code(error)
    except BrokenPipeError:  # The reader of our output has closed it, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        failure = write_failure(Path(error.filename or "."), error)
        print(f"error: {failure}", file=sys.stderr)
        return exit_code(failure)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
