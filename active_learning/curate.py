"""Find wrong labels, copies, leaks and unreadable examples of a data set, and look at them.

    python -m active_learning.curate SOURCE OUT [--minutes=20] [--folds=5] [--weights=FILE]
    python -m active_learning.curate OUT --config=FILE [--config.data.x=...]

SOURCE is anything `prepare` and `main` read; with --config it is the config's. Small models are
trained here so that every example is judged only by models that did not train on it; with --weights
they are heads on the features of a published model. OUT gets
scores.parquet, scores.csv, summary.json and index.html, a page to look at and to decide on. The
source is never changed. The same command again continues where it stopped. --task=I/N is one of N
workers that share the work, --task=finish writes the results; --ray=ADDRESS runs both on a Ray
cluster. See docs/curate.md.
"""

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

from active_learning import cli
from active_learning.arguments import Parser, number, path, run_path
from active_learning.config import ConfigError, from_flags
from active_learning.curation.crossfit import CrossFit
from active_learning.curation.pipeline import Options, curate
from active_learning.curation.progress import Bar
from active_learning.curation.records import Summary
from active_learning.curation.trunk import Trunk
from active_learning.data.sources.from_path import section_of
from active_learning.storage.runs import readable
from active_learning.storage.workers import task_of


def parse(argv: list[str]) -> tuple[Any, argparse.Namespace]:
    """The config, if one is given, and the other flags. Raises ConfigError."""
    parser = Parser("active_learning.curate", __doc__)
    parser.add_argument("paths", nargs="+", metavar="SOURCE OUT")
    add = parser.add_argument
    add("--minutes", type=number(float, 0, 1e6), default=20.0, help="repeats begin only within it")
    add("--folds", type=number(int, 2, 50), default=5, help="parts; one is judged at a time")
    add("--repeats", type=number(int, 1, 100), default=2, help="draws of the folds, at most")
    parser.add_argument("--label", default="", help="column of the labels")
    parser.add_argument("--text", default="", help="column of the captions of image-text pairs")
    parser.add_argument(
        "--weights", type=path, help="published model (file or folder) whose features are used"
    )
    parser.add_argument("--run", type=run_path, help="training run whose choices are shown beside")
    cli.add_task_flags(parser)
    config, rest = from_flags(argv)
    args = parser.parse_args(rest)
    if len(args.paths) != (2 if config is None else 1):
        raise ConfigError("give SOURCE and OUT, or OUT and --config=FILE")
    args.out = parser.folder(args.paths[-1], "OUT")
    if args.out.exists() and not args.out.is_dir():
        raise ConfigError(f"{args.out}: a file; give a folder for the results")
    return config, args


def run(argv: list[str]) -> str:
    """The command. Returns what to print at its end. Raises ConfigError or DataError."""
    config, args = parse(argv)
    if args.ray:
        return cli.run_on_ray("active_learning.curate", argv, args)
    task = task_of(args.task, os.environ)
    section = section_of(args.paths[0]) if config is None else config.data
    name = Path(args.paths[0]).name if config is None else config.name
    bar = Bar()
    try:
        summary = curate(section, args.out, options_of(args), name or "data", bar, task)
    finally:
        bar.close()
    return task.done(args.out) if summary is None else "\n".join(report(summary, args.out))


def options_of(args: argparse.Namespace) -> Options:
    """What the flags ask for. Raises ConfigError or DataError."""
    fitted = dataclasses.replace(CrossFit(), folds=args.folds, repeats=args.repeats)
    trunk = None if args.weights is None else Trunk.open(args.weights)
    of_run = None if args.run is None else readable(args.run)
    return Options(args.label, args.text, of_run, trunk, args.minutes, fitted)


def main(argv: list[str] | None = None) -> int:
    """Entry point. Returns 2, with one line on stderr, for what cannot be read."""
    return cli.guarded(lambda: print(run(sys.argv[1:] if argv is None else argv)))


def report(summary: Summary, out: Path) -> list[str]:
    """What to print at the end."""
    lines = [
        f"{summary.num_examples} examples: "
        + ", ".join(f"{n} {issue}" for issue, n in summary.counts.items())
    ]
    if summary.corrupted is not None:
        corrupted = summary.corrupted
        lines.append(
            f"wrong labels: {corrupted.value:.1%} (between {corrupted.low:.1%} and "
            f"{corrupted.high:.1%})"
        )
    return [*lines, *summary.notes, f"look at {out / 'index.html'}"]


if __name__ == "__main__":
    sys.exit(main())
