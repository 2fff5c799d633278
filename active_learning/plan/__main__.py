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

from active_learning import cli
from active_learning.arguments import Parser, number, path
from active_learning.config import ConfigError, from_flags
from active_learning.plan.report import Assumptions, plan_lines
from active_learning.settings import Config


def parse(argv: list[str]) -> tuple[Config, argparse.Namespace]:
    """The config and the other flags. Raises ConfigError."""
    parser = Parser("active_learning.plan", __doc__)
    add = parser.add_argument
    add("--reference", type=path, help="run folder of a reference to evaluate")
    add("--topology", default="", help="TPU slice to compile for: v5e:16x16, v5litepod-256, ...")
    known = Assumptions()
    size, count = number(int, 1, 2**16), number(int, 1, 2**40)
    add("--image-size", "--image_size", type=size, default=known.image_size, help="pixels")
    add("--classes", "--num_classes", type=number(int, 1, 2**24), default=known.classes)
    add("--examples", type=count, default=known.examples)
    fraction = number(float, 1e-6, 1)
    add("--mfu", type=fraction, default=known.mfu, help="assumed fraction of peak FLOP/s")
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

    def command() -> None:
        config, args = parse(sys.argv[1:] if argv is None else argv)
        assumed = Assumptions(args.image_size, args.classes, args.examples, args.mfu)
        for line in plan_lines(config, assumed, args.topology, args.reference):
            print(line, flush=True)

    return cli.guarded(command)


if __name__ == "__main__":
    sys.exit(main())
