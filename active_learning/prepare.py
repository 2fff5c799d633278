"""Command `python -m active_learning.prepare SOURCE OUT [--small=64] [--size=256] ...`.

Any source (a folder of images, a table, tars, Parquet files, arrays, original files of
Fashion-MNIST or CIFAR-10) to shards with stable ids. Every image is decoded once; what cannot be is
left out and listed. --size shrinks images to that shorter side, --small stores a small view beside
each, --holdout writes that fraction of the pictures as the test set. manifest.json says what was
made, SHA256SUMS is for `sha256sum -c`. The same command again continues where it stopped. `prepare
OUT --config=FILE [--config.data.x=...]` reads the source of a config instead. --keep=FILE leaves
out what was decided on the page of `curate` (or FILE:CONDITION over its scores), --labels=FILE
takes its new labels. --as=folder writes links to the images by class instead of shards, --as=csv
tables of their paths, --as=webdataset and --as=parquet shards. --task=I/N is one of N workers on
one folder, --task=finish ends their work; --ray=ADDRESS runs both on a Ray cluster. --tfds=NAME
writes a TensorFlow Datasets set NAME under OUT (without TensorFlow), e.g. fashion_mnist from its
original files.
"""

import argparse
import dataclasses
import os
import sys
from typing import Any

from active_learning import cli
from active_learning.arguments import Parser, number
from active_learning.config import ConfigError, changed, fields_of, from_flags
from active_learning.data.sources import next_command, taking, tfds
from active_learning.data.sources.from_path import listings_of, section_of
from active_learning.data.sources.preparation import Options, prepare
from active_learning.storage.workers import task_of

KINDS = ("webdataset", "parquet", *taking.KINDS)


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
    for name, help_text in (
        ("keep", "decisions of `curate`, a table of keys, or FILE:CONDITION: what stays"),
        ("labels", "the same, for new labels"),
    ):
        parser.add_argument(f"--{name}", default="", metavar="FILE", help=help_text)
    parser.add_argument("--as", dest="kind", default="", choices=("", *KINDS), help="what to write")
    parser.add_argument(
        "--threads", type=number(int, 0, 4096), default=0, metavar="INT", help="0: one a core"
    )
    parser.add_argument(
        "--limits",
        type=number(float, 1e-6, 1e6),
        metavar="FACTOR",
        help="on the limits of data/limits.py (1.0)",
    )
    cli.add_task_flags(parser)
    args = parser.parse_args(rest)
    args.out = parser.folder(args.paths[-1], "OUT")
    return args


def run(argv: list[str]) -> str:
    """The command. Returns what to print at its end. Raises ConfigError or DataError."""
    config, rest = from_flags(argv)
    args = _arguments(rest)
    if len(args.paths) != (2 if config is None else 1):
        expected = "SOURCE OUT" if config is None else "OUT"
        raise ConfigError(f"expected {expected}, got {' '.join(args.paths)}")
    given = vars(args)
    options = Options(**{f.name: given[f.name] for f in dataclasses.fields(Options)})
    options = _as_format(options, args.kind)
    options.check()
    if (args.task or args.ray) and (args.tfds or args.kind in taking.KINDS):
        flag = f"--task={args.task}" if args.task else f"--ray={args.ray}"
        raise ConfigError(f"{flag}: only shards are written by several workers")
    if args.ray:
        return cli.run_on_ray("active_learning.prepare", argv, args)
    task = task_of(args.task, os.environ)
    section = _section(section_of(args.paths[0]) if config is None else config.data, given)
    out = args.out
    if args.tfds:
        if options != Options() or args.kind:
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
    if args.kind in taking.KINDS:
        label = next_command.label_column(train)
        manifest = taking.take(train, test, out, options, args.kind, label or "label")
        then = next_command.for_folder(out, label)
    else:
        manifest = prepare(train, test, out, options, args.threads, task)
        if not manifest:
            return task.done(out)
        then = next_command.for_shards(out, options)
    for name, reason in list(manifest["unusable"].items())[:10]:
        print(f"left out: {name}: {reason}", file=sys.stderr)
    counts = ", ".join(f"{name} {count:,}" for name, count in manifest["examples"].items())
    left_out = len(manifest["unusable"]) + sum(manifest["left_out"].values())
    return f"{out}: {counts} examples, {left_out} left out\n  {then}"


def _as_format(options: Options, kind: str) -> Options:
    """The options with the format that --as asks for. Raises ConfigError for two answers."""
    if not kind:
        return options
    if options.format != Options.format:
        raise ConfigError(f"--as={kind} and --format={options.format}: give only one of them")
    formats = {"webdataset": "tar", "parquet": "parquet"}
    return dataclasses.replace(options, format=formats.get(kind, Options.format))


def _section(section: Any, given: dict[str, Any]) -> Any:
    """The source with the flags that are keys of it. Raises ConfigError where it has no such."""
    known = fields_of(type(section))
    changes = {}
    for name in ("image", "keep", "labels", "limits"):
        if not given[name]:
            continue
        if name not in known:
            raise ConfigError(f"--{name}={given[name]}: {type(section).__name__} has no such key")
        changes[name] = given[name]
    return changed(section, changes)


def main(argv: list[str] | None = None) -> int:
    """Runs the command. Returns its exit code (`cli.guarded`)."""
    return cli.guarded(lambda: print(run(sys.argv[1:] if argv is None else argv)))


if __name__ == "__main__":
    sys.exit(main())
