"""Train a run to its end; the same command again continues it.

python -m active_learning.main --config=configs/NAME.py --workdir=DIR [--config.x.y=...]
"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Path of a file with get_config().", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's folder or gs://, s3:// or az:// address; again, it is continued."
)
_IMPORTS = flags.DEFINE_multi_string(
    "import", [], "Module or FILE.py of your own whose classes and functions the config names."
)
_PROFILE = flags.DEFINE_string(
    "profile", None, "START:STOP, the updates of which a trace is written to WORKDIR/profile."
)
_CACHE = flags.DEFINE_string(
    "cache", None, "Folder of compiled programs, '' for none; default: the user's cache folder."
)
_DISTRIBUTED = flags.DEFINE_string(
    "distributed", "auto", "'off', 'auto' (what the launcher says) or HOST:PORT of process 0."
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of the first process.")
_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.")
_PROCESS = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")


def main(argv: list[str]) -> None:
    """Runs one config; exits with 2 or 3 and one line for what cannot be done."""
    logging.set_verbosity(logging.WARNING)
    from active_learning import cli, distributed
    from active_learning.config import ConfigError, frozen
    from active_learning.metrics import checked_folder, show_log, span
    from active_learning.storage.addresses import is_bucket
    from active_learning.train import loop

    def command() -> None:
        if argv[1:]:
            raise ConfigError(_stray_word(argv[1]))
        cli.import_modules(_IMPORTS.value)
        workdir = _WORKDIR.value or ""
        if not is_bucket(workdir):
            workdir = checked_folder(workdir, "--workdir", checkpoints=True)
        config, profile = frozen(flags.FLAGS["config"]), span(_PROFILE.value)
        distributed.enable_compilation_cache(_CACHE.value)
        distributed.start(
            _COORDINATOR.value, _PROCESSES.value, _PROCESS.value, mode=_DISTRIBUTED.value
        )
        show_log(quiet=not distributed.is_primary())
        summary = loop.run(config, workdir, profile=profile)
        if distributed.is_primary():
            print(f"{workdir}: {_state(summary)}  {_scalars(summary['final'])}")
            if line := _better_reference(summary):
                print(line)
            if summary["complete"]:
                print(f"as a page: python -m active_learning.report {workdir}")

    if code := cli.guarded(command):
        distributed.leave(code)


def _state(summary: dict) -> str:
    """How far a run has come."""
    if summary["complete"]:
        return f"complete at update {summary['step']}"
    if summary["step"]:
        return f"stopped; rerun the same command to resume at update {summary['step']}"
    return "stopped before its first update; rerun the same command to go on from there"


def _better_reference(summary: dict) -> str:
    """What to do where a reference alone is better than the learner; '' elsewhere."""
    own = (summary.get("reference") or {}).get("accuracy")
    learner = summary["final"].get("test_full/accuracy")
    if own is None or learner is None or own <= learner:
        return ""
    return (
        f"the reference alone reaches {own:.4f} on the test set, more than the learner: train "
        "longer, or train a larger learner"
    )


def _stray_word(word: str) -> str:
    """A word that is not a flag: `config.total=4` instead of `--config.total=4`."""
    name = word.partition("=")[0]
    known = name.startswith("config") or name in flags.FLAGS
    meant = f"--{word}" if known else f"--config.{word}"
    return f"{word!r} is not a flag; did you mean {meant}?"


def _scalars(values: dict) -> str:
    return "  ".join(
        f"{name} {value:.4f}" for name, value in values.items() if isinstance(value, float)
    )


def _parse(argv: list[str]) -> list[str]:
    """Parses flags, or exits with 2 and one line."""
    from active_learning.config import ConfigError, check_file, unreadable

    logging.set_verbosity(logging.ERROR)  # What ml_collections warns of is an error here.
    try:
        check_file(argv)
        rest = flags.FLAGS(argv)
        if _CONFIG.value is None:
            check_file(argv, parsed=True)
            raise ConfigError("--config=FILE is missing: the config to train")
        return rest
    except (Exception, SystemExit) as error:  # A config file may raise anything.
        if isinstance(error, SystemExit) and {"--help", "--helpfull", "-h"} & set(argv):
            raise
        print(
            f"error: {error if isinstance(error, ConfigError) else unreadable(argv, error)}",
            file=sys.stderr,
        )
        sys.exit(2)


def run() -> None:
    """Console entry point."""
    app.run(main, flags_parser=_parse)


if __name__ == "__main__":
    run()
