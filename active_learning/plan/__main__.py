"""Plan a run before it is started: costs, break-even, memory, and its step on a TPU slice.

    python -m active_learning.plan --config=FILE [--config.x=...] [--reference=RUN]
        [--topology=v5e:16x16]

Prints the FLOPs of a run by account, the fraction of uniform's updates at which selection breaks
even (by size of the scorers, ratio and what is already paid for) and the memory of the state;
with --reference it evaluates an existing reference on the config's data, with --topology it
compiles the step for TPU chips. Where the data cannot be opened, it plans from --image-size,
--classes and --examples.
"""

import argparse
import sys
from pathlib import Path

from active_learning import cli
from active_learning.config import ConfigError, from_flags
from active_learning.data.sources.source import DataError
from active_learning.plan.report import Assumptions, plan_lines
from active_learning.settings import Config


def parse(argv: list[str]) -> tuple[Config, argparse.Namespace]:
    """The config and the other flags. Raises ConfigError."""
    parser = argparse.ArgumentParser(
        prog="python -m active_learning.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--reference", type=Path, help="run folder of a reference to evaluate")
    add("--topology", default="", help="TPU slice to compile for: v5e:16x16, v5litepod-256, ...")
    known = Assumptions()
    add("--image-size", "--image_size", type=int, default=known.image_size, help="pixels")
    add("--classes", "--num_classes", type=int, default=known.classes)
    add("--examples", type=int, default=known.examples)
    add("--mfu", type=float, default=known.mfu, help="assumed fraction of the chips' peak FLOP/s")
    cli.add_import_flag(parser)
    # Names of one's own are registered before the config that uses them is read.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    cli.add_import_flag(first)
    own, argv = first.parse_known_args(argv)
    cli.import_modules(own.imports)
    config, rest = from_flags(argv)
    args = parser.parse_args(rest)
    if config is None:
        raise ConfigError("--config=FILE is missing: the config to plan")
    return config, args


def main(argv: list[str] | None = None) -> int:
    """Print the plan. Returns 2, with one line on stderr, for what cannot be planned."""
    try:
        config, args = parse(sys.argv[1:] if argv is None else argv)
        assumed = Assumptions(args.image_size, args.classes, args.examples, args.mfu)
        for line in plan_lines(config, assumed, args.topology, args.reference):
            print(line, flush=True)
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
