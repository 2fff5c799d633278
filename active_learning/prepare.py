"""`python -m active_learning.prepare SOURCE OUT [--small=64] [--size=256] [--holdout=0.1] [--format=array_record|tar]`

Any source (a folder of images, a table, tars, Parquet files, arrays, original files of Fashion-MNIST or CIFAR-10) to shards with stable ids.
Every image is decoded once: what cannot be is left out and listed. --size shrinks images to that shorter side, --small stores a small view
beside each, --holdout writes that share of the ids as the test set. manifest.json says what was made, SHA256SUMS is for `sha256sum -c`.
The same command again continues where it stopped. `prepare OUT --config=FILE [--config.data.x=...]` reads the source of a config instead.
--tfds=NAME writes a TensorFlow Datasets set NAME under OUT (without TensorFlow), e.g. fashion_mnist from its original files.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from active_learning.config import ConfigError, differences, from_flags
from active_learning.data import images, splits
from active_learning.data.sources import shards, tfds
from active_learning.data.sources.from_path import listings_of, section_of
from active_learning.data.sources.on_disk import (
    LARGEST,
    LIMIT,
    Listing,
    Problems,
    found_size,
    unique_ids,
)
from active_learning.data.sources.source import DataError
from active_learning.data.sources.writers import RecordShard, TarShard, publish

JOURNAL = "prepare.jsonl"  # the plan, then a line for each finished shard; gone when all are
SUMS = "SHA256SUMS"
SHARDS = {"array_record": RecordShard, "tar": TarShard}
_BLOCK = 256  # examples decoded at a time
_USUAL = 224  # px that a learner is told to see of images as large or larger


def _option(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class Options:
    """What is made of each example."""

    format: str = _option("array_record", "array_record, or tar in the WebDataset layout")
    size: int = _option(0, "px of the shorter side of images that are larger; 0: all as they are")
    small: int = _option(0, "px of the small view that is stored beside each image; 0: none")
    quality: int = _option(90, "of JPEGs that shrink")
    shard: int = _option(1000, "examples a file")
    holdout: float = _option(0.0, "share of the ids that becomes the test set")
    unusable: float = _option(LIMIT, "share that may be left out")

    def check(self) -> None:
        """Raises DataError naming the first option that cannot be."""
        for name, least, most in (
            ("size", 8, 4096),
            ("small", 4, 4096),
            ("quality", 1, 100),
            ("shard", 1, 10**7),
        ):
            value = getattr(self, name)
            if not (least <= value <= most or (value == 0 and name in ("size", "small"))):
                raise DataError(f"--{name}={value}: expected {least} .. {most}")
        if self.format not in SHARDS:
            raise DataError(f"--format={self.format}: expected {' or '.join(SHARDS)}")
        for name in ("holdout", "unusable"):
            if not 0 <= getattr(self, name) < 1:
                raise DataError(f"--{name}={getattr(self, name)}: expected a share in [0, 1)")


@dataclass(frozen=True)
class Part:
    """The rows of a listing that become train or test."""

    name: str
    listing: Listing
    ids: np.ndarray  # of the whole listing
    rows: np.ndarray
    problems: Problems


def parts_of(train: Listing, test: Listing | None, options: Options) -> list[Part]:
    """What is written. Raises DataError for no examples, or too many ids that occur twice."""
    if test is not None and options.holdout:
        raise DataError(f"--holdout={options.holdout}: {train.where} brings a test set of its own")
    out = []
    for name, listing in (("train", train), ("test", test)):
        if listing is None:
            continue
        n = len(listing.files)
        if n == 0:
            raise DataError(f"{listing.where}: no examples")
        problems, keep = (
            Problems(listing.where, n, notes=listing.notes, limit=options.unusable),
            np.ones(n, bool),
        )
        ids = unique_ids(listing, keep, problems)
        held = splits.held_out(ids, options.holdout)
        out.append(Part(name, listing, ids, np.flatnonzero(keep & ~held), problems))
        if (keep & held).any():
            out.append(Part("test", listing, ids, np.flatnonzero(keep & held), problems))
    return out


def identity(parts: Sequence[Part]) -> str:
    """A hash of names, ids and columns of what is prepared."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part.name} {len(part.rows)}".encode() + part.ids[part.rows].tobytes())
        for row in part.rows.tolist():
            digest.update(part.listing.files.name(row).encode() + b"\n")
        digest.update(
            json.dumps(
                {name: list(v) for name, v in sorted(part.listing.columns.items())}, default=str
            ).encode()
        )
    return digest.hexdigest()[:16]


def convert(blob: bytes, options: Options) -> tuple[bytes, bytes | None]:
    """The image to store (its own bytes unless it shrinks) and its small view. Raises BadImage."""
    image = images.decode(blob)
    small = images.encode(images.cover(image, options.small), 85) if options.small else None
    if not options.size or min(image.shape[:2]) <= options.size:
        return blob, small
    image = images.shrink(image, options.size)
    return images.encode_png(image) if images.suffix(blob) == ".png" else images.encode(
        image, options.quality
    ), small


def write_shard(
    path: Path, part: Part, rows: np.ndarray, options: Options, pool: ThreadPoolExecutor, bar
) -> dict:
    """One shard, in the order of `rows`; returns its line of the journal. Raises DataError when too many cannot be used."""
    files, columns, bad, written = part.listing.files, part.listing.columns, {}, 0

    def one(row: int):
        try:
            return convert(files.read(row), options)
        except (images.BadImage, OSError) as error:
            return " ".join(f"{error}".split()) or type(error).__name__

    with closing(SHARDS[options.format](path, bool(options.small))) as shard:
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK].tolist()
            for row, made in zip(block, pool.map(one, block), strict=True):
                if isinstance(made, str):
                    bad[files.name(row)] = made
                    part.problems.add(files.name(row), made)
                    continue
                fields = {"id": int(part.ids[row])} | {
                    n: v[row] for n, v in columns.items() if v[row] is not None
                }
                shard.add(fields, *made)
                written += 1
            bar.update(len(block))
        publish(shard)
    sums = {file.name: sha256(file) for file in shard.files}
    return {
        "shard": path.name,
        "part": part.name,
        "examples": written,
        "unusable": bad,
        "sha256": sums,
    }


def sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def shards_of(parts: Sequence[Part], options: Options) -> Iterator[tuple[str, Part, np.ndarray]]:
    """Name, part and rows of each shard."""
    for part in parts:
        count = -(-len(part.rows) // options.shard)
        for number in range(count):
            name = f"{part.name}-{number:05d}-of-{count:05d}{SHARDS[options.format].suffix}"
            yield name, part, part.rows[number * options.shard : (number + 1) * options.shard]


def _resume(out: Path, plan: dict) -> list[dict]:
    """Lines of the shards that are finished. Raises DataError when the folder holds something else."""
    journal = out / JOURNAL
    if not journal.exists():
        if out.is_dir() and any(out.iterdir()):
            raise DataError(f"{out}: not empty, and no preparation that was begun (no {JOURNAL})")
        out.mkdir(parents=True, exist_ok=True)
        journal.write_text(json.dumps(plan) + "\n")
        return []
    lines = []
    for line in journal.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break  # the line that was being written when the machine stopped
    if lines[:1] != [plan]:
        what = "; ".join(differences(plan, lines[0] if lines else {}, "plan")[:3])
        raise DataError(f"{out}: another preparation was begun there ({what})")
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [line for line in lines[1:] if all((out / name).exists() for name in line["sha256"])]


def prepare(
    train: Listing, test: Listing | None, out: Path, options: Options, threads: int = 0
) -> dict:
    """Writes the shards and returns the manifest; called again it continues. Raises DataError naming option, file or folder."""
    from tqdm import tqdm

    options.check()
    parts = parts_of(train, test, options)
    source = {
        "kind": train.kind,
        "where": os.path.basename(train.where.rstrip("/")),
        "hash": identity(parts),
    }
    plan = {"prepare": 1, "source": source, "options": dataclasses.asdict(options)}
    if (out / shards.MANIFEST).exists():
        done = json.loads((out / shards.MANIFEST).read_text())
        if {name: done.get(name) for name in plan} != plan:
            what = "; ".join(differences(plan, {name: done.get(name) for name in plan}, "plan")[:3])
            raise DataError(f"{out}: holds another preparation ({what})")
        return done
    finished = _resume(out, plan)
    by_part = {part.name: part for part in parts}
    for line in finished:
        for name, reason in line["unusable"].items():
            by_part[line["part"]].problems.add(name, reason)
    there = {line["shard"] for line in finished}
    work = [shard for shard in shards_of(parts, options) if shard[0] not in there]
    with (
        ThreadPoolExecutor(threads or len(os.sched_getaffinity(0)), "prepare") as pool,
        tqdm(total=sum(len(rows) for *_, rows in work), unit=" images", disable=None) as bar,
        (out / JOURNAL).open("a") as journal,
    ):
        for name, part, rows in work:
            finished.append(write_shard(out / name, part, rows, options, pool, bar))
            journal.write(json.dumps(finished[-1]) + "\n")
            journal.flush()
    return _finish(out, plan, parts, sorted(finished, key=lambda line: line["shard"]))


def _finish(out: Path, plan: dict, parts: Sequence[Part], finished: list[dict]) -> dict:
    sums = {name: digest for line in finished for name, digest in line["sha256"].items()}
    problems = {id(part.problems): part.problems for part in parts}.values()
    manifest = plan | {
        "class_names": list(parts[0].listing.class_names),
        "examples": {
            part.name: sum(line["examples"] for line in finished if line["part"] == part.name)
            for part in parts
        },
        "unusable": {name: reason for one in problems for name, reason in one.found.items()},
        "sha256": sums,
    }
    (out / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))
    (out / shards.MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    (out / JOURNAL).unlink()
    return manifest


def _arguments(rest: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m active_learning.prepare",
        usage="%(prog)s SOURCE OUT [--small=64] [...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths",
        nargs="+",
        type=str,
        metavar="SOURCE OUT",
        help="where the data are, and a new folder",
    )
    for f in dataclasses.fields(Options):
        kind, meaning = type(f.default), f"{f.metadata['help']} ({f.default})"
        parser.add_argument(
            f"--{f.name}", type=kind, default=f.default, metavar=kind.__name__.upper(), help=meaning
        )
    parser.add_argument(
        "--tfds", default="", metavar="NAME", help="write a set of TensorFlow Datasets instead"
    )
    parser.add_argument("--threads", type=int, default=0, metavar="INT", help="0: one a core")
    return parser.parse_args(rest)


def views(listing: Listing, small: int) -> str:
    """Flags with which scorers see the small views and the learner sees more; none where there are no views, or none that are smaller."""
    size = (
        found_size(listing.files, np.arange(len(listing.files)), listing.where, _USUAL)
        if small
        else 0
    )
    if size <= small:
        return ""
    large = (
        f" --config.data.size={size} --config.learner.patch=16" if size > LARGEST else ""
    )  # smaller ones are found
    return f" --config.data.small={small}{large}"


def run(argv: list[str]) -> str:
    """The command; returns what to say at its end. Raises ConfigError or DataError."""
    config, rest = from_flags(argv)
    args = _arguments(rest)
    if len(args.paths) != (2 if config is None else 1):
        raise ConfigError(
            f"expected {'SOURCE OUT' if config is None else 'OUT'}, got {' '.join(args.paths)}"
        )
    section = section_of(args.paths[0]) if config is None else config.data
    options, out = (
        Options(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Options)}),
        Path(args.paths[-1]),
    )
    if args.tfds:
        if options != Options():
            raise ConfigError(f"--tfds={args.tfds}: takes the images as they are, no other options")
        folder = tfds.write(args.tfds, *listings_of(section), out)
        where = f"--config.data.path={out} --config.data.name={args.tfds}"
        return f"{folder}\n  python -m active_learning.main --config=configs/tfds.py {where} --workdir=runs/mine"
    manifest = prepare(*listings_of(section), out, options, args.threads)
    train, _ = listings_of(section_of(str(out)))  # makes the indices
    counts = ", ".join(f"{name} {count:,}" for name, count in manifest["examples"].items())
    for name, reason in list(manifest["unusable"].items())[:10]:
        print(f"left out: {name}: {reason}", file=sys.stderr)
    kind = {"array_record": "array_record", "tar": "webdataset"}[options.format]
    said = f"{out}: {counts} examples, {len(manifest['unusable'])} left out"
    where = f"--config.data.path={out}{views(train, options.small)}"
    return f"{said}\n  python -m active_learning.main --config=configs/{kind}.py {where} --workdir=runs/mine"


def main(argv: list[str] | None = None) -> int:
    try:
        print(run(sys.argv[1:] if argv is None else argv))
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
