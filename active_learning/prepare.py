"""Command `python -m active_learning.prepare SOURCE OUT [--small=64] [--size=256] ...`.

Any source (a folder of images, a table, tars, Parquet files, arrays, original files of
Fashion-MNIST or CIFAR-10) to shards with stable ids. Every image is decoded once; what cannot be is
left out and listed. --size shrinks images to that shorter side, --small stores a small view beside
each, --holdout writes that fraction of the pictures as the test set. manifest.json says what was
made, SHA256SUMS is for `sha256sum -c`. The same command again continues where it stopped. `prepare
OUT --config=FILE [--config.data.x=...]` reads the source of a config instead. --tfds=NAME writes a
TensorFlow Datasets set NAME under OUT (without TensorFlow), e.g. fashion_mnist from its original
files.
"""

import argparse
import dataclasses
import sys

from active_learning import cli
from active_learning.arguments import Parser, number
from active_learning.config import ConfigError, changed, fields_of, from_flags
from active_learning.data import limits
from active_learning.data.sources import next_command, paths, tfds
from active_learning.data.sources.from_path import listings_of, section_of
from active_learning.data.sources.preparation import Options, prepare


def _arguments(rest: list[str]) -> argparse.Namespace:
    usage = "%(prog)s SOURCE OUT [--small=64] [...]"
    parser = Parser("active_learning.prepare", __doc__, usage=usage)
    parser.add_argument(
        "paths", nargs="+", metavar="SOURCE OUT", help="where the data are, and a new folder"
    )
    for f in dataclasses.fields(Options):
        kind, meaning = type(f.default), f"{f.metadata['help']} ({f.default})"
        parser.add_argument(
            f"--{f.name}", type=kind, default=f.default, metavar=kind.__name__.upper(), help=meaning
        )
    parser.add_argument(
        "--image",
        default="",
        metavar="COLUMN",
        help="of a table or Parquet: the images, or their paths",
    )
    parser.add_argument(
        "--tfds", default="", metavar="NAME", help="write a set of TensorFlow Datasets instead"
    )
    parser.add_argument(
        "--threads", type=number(int, 0, 4096), default=0, metavar="INT", help="0: one a core"
    )
    parser.add_argument(
        "--limits",
        type=number(float, 1e-6, 1e6),
        default=1.0,
        metavar="FACTOR",
        help="on the limits of data/limits.py",
    )
    return parser.parse_args(rest)


def run(argv: list[str]) -> str:
    """The command. Returns what to print at its end. Raises ConfigError or DataError."""
    config, rest = from_flags(argv)
    args = _arguments(rest)
    if len(args.paths) != (2 if config is None else 1):
        expected = "SOURCE OUT" if config is None else "OUT"
        raise ConfigError(f"expected {expected}, got {' '.join(args.paths)}")
    paths.check_kind(args.paths[-1], "OUT", write=True)
    given = vars(args)
    options = Options(**{f.name: given[f.name] for f in dataclasses.fields(Options)})
    options.check()
    section = section_of(args.paths[0]) if config is None else config.data
    changes = {"limits": args.limits} | ({"image": args.image} if args.image else {})
    known = fields_of(type(section))
    if args.image and "image" not in known:
        raise ConfigError(
            f"--image={args.image}: {type(section).__name__} has no such column to name"
        )
    section = changed(section, {name: value for name, value in changes.items() if name in known})
    out = paths.local(args.paths[-1])
    if args.tfds:
        if options != Options():
            raise ConfigError(f"--tfds={args.tfds}: takes the images as they are, no other options")
        folder = tfds.write(args.tfds, *listings_of(section), out)
        return f"{folder}\n  {next_command.for_tfds(out, args.tfds)}"
    train, test = listings_of(section)
    for listing in (train, test):
        for line in (
            []
            if listing is None
            else [f"{n}: {note}" for n, note in listing.notes.items()] + listing.left_out.lines()
        ):
            print(line, file=sys.stderr)
    manifest = prepare(train, test, out, options, args.threads)
    limits.scaled(args.limits)
    for name, reason in list(manifest["unusable"].items())[:10]:
        print(f"left out: {name}: {reason}", file=sys.stderr)
    counts = ", ".join(f"{name} {count:,}" for name, count in manifest["examples"].items())
    left_out = len(manifest["unusable"]) + sum(manifest["left_out"].values())
    return (
        f"{out}: {counts} examples, {left_out} left out\n  {next_command.for_shards(out, options)}"
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command. Returns its exit code (`cli.guarded`)."""
    return cli.guarded(lambda: print(run(sys.argv[1:] if argv is None else argv)))


if __name__ == "__main__":
    sys.exit(main())
