"""`python -m active_learning.main --config=configs/NAME.py --workdir=DIR [--config.x.y=...]`: flags -> frozen config -> `loop.run`."""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Path of a file with get_config().", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's folder; the same folder again continues the run."
)
_PROFILE = flags.DEFINE_string(
    "profile", None, "START:STOP, the updates of which a trace is written to WORKDIR/profile."
)
_CACHE = flags.DEFINE_string(
    "cache", None, "Folder of compiled programs, '' for none; default: the user's cache folder."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of the first of several processes."
)
_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.")
_PROCESS = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    from active_learning import distributed
    from active_learning.config import ConfigError, freeze
    from active_learning.data.sources.source import DataError
    from active_learning.metrics import show_log, span
    from active_learning.train import loop

    try:
        config, profile = freeze(_CONFIG.value), span(_PROFILE.value)
        distributed.enable_compilation_cache(_CACHE.value)
        distributed.start(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
        show_log(quiet=not distributed.is_primary())
        summary = loop.run(config, _WORKDIR.value, profile=profile)
    except (ConfigError, DataError, loop.NonFinite) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if distributed.is_primary():
        state = "complete" if summary["complete"] else "stopped, the same command continues it"
        print(
            f"{_WORKDIR.value}: {state} at update {summary['step']}  {_scalars(summary['final'])}"
        )


def _scalars(values: dict) -> str:
    return "  ".join(
        f"{name} {value:.4f}" for name, value in values.items() if isinstance(value, float)
    )


def _parse(argv: list[str]) -> list[str]:
    """Flags, or one line and exit code 2."""
    flags.mark_flags_as_required(["config", "workdir"])
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, TypeError, KeyError, OSError, ValueError) as error:
        from active_learning.config import one_line

        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)


def run() -> None:
    """Console entry point."""
    app.run(main, flags_parser=_parse)


if __name__ == "__main__":
    run()
