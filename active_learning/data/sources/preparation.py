"""Writes shards from any listing: decoded once, in a fixed order, resumable."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from active_learning.config import differences
from active_learning.data import images, splits, text
from active_learning.data.errors import DataError
from active_learning.data.sources import journal, shards
from active_learning.data.sources.files import Files, picture_ids, read_file
from active_learning.data.sources.listing import Listing, unique_ids, unusable
from active_learning.data.sources.on_disk import reason_of, threads_here
from active_learning.data.sources.problems import LIMIT, Problems
from active_learning.data.sources.writers import ParquetShard, RecordShard, TarShard, publish
from active_learning.storage import workers
from active_learning.storage.workers import ALL, Task

SUMS = "SHA256SUMS"
SHARDS = {"array_record": RecordShard, "tar": TarShard, "parquet": ParquetShard}
_BLOCK = 256  # examples decoded at a time
_MANIFEST_BYTES = 1 << 30


def _option(default: Any, meaning: str, least: int | float, most: int | float) -> Any:
    return field(default=default, metadata={"help": meaning, "range": (least, most)})


@dataclass(frozen=True)
class Options:
    """What is made of each example.

    Each number has its range; 0 stands for 'no' where the text says so.
    """

    format: str = field(
        default="array_record",
        metadata={"help": "array_record, tar in the WebDataset layout, or parquet"},
    )
    size: int = _option(
        0, "px of the shorter side of images that are larger; 0: all as they are", 8, 4096
    )
    small: int = _option(
        0, "px of the small view that is stored beside each image; 0: none", 4, 4096
    )
    quality: int = _option(90, "of JPEGs that shrink", 1, 100)
    shard: int = _option(1000, "examples a file", 1, 10**7)
    holdout: float = _option(0.0, "fraction of the pictures that becomes the test set", 0, 0.999)
    unusable: float = _option(LIMIT, "fraction that may be left out", 0, 0.999)

    def check(self) -> None:
        """Raises DataError naming the first option that cannot be."""
        if self.format not in SHARDS:
            raise DataError(f"--format={self.format}: expected {', '.join(SHARDS)}")
        values = dataclasses.asdict(self)
        for f in dataclasses.fields(self):
            if "range" not in f.metadata:
                continue
            (least, most), value = f.metadata["range"], values[f.name]
            if not (least <= value <= most or (value == 0 and f.name in ("size", "small"))):
                kind = "a fraction in [0, 1)" if most < 1 else f"{least} .. {most}"
                raise DataError(f"--{f.name}={value}: expected {kind}")


@dataclass(frozen=True)
class Part:
    """The rows of a listing that become train or test."""

    name: str
    listing: Listing
    ids: np.ndarray  # of the whole listing
    rows: np.ndarray
    problems: Problems


def parts_of(train: Listing, test: Listing | None, options: Options) -> list[Part]:
    """What is written. Raises DataError for no examples, or too many that cannot be used."""
    if test is not None and options.holdout:
        raise DataError(f"--holdout={options.holdout}: {train.where} brings a test set of its own")
    out = []
    for name, listing in (("train", train), ("test", test)):
        if listing is None:
            continue
        n = len(listing.files)
        if n == 0:
            raise DataError(f"{listing.where}: no examples")
        problems = Problems(
            listing.where, n, notes=listing.notes, left_out=listing.left_out, limit=options.unusable
        )
        unused = unusable(listing, problems)
        ids = unique_ids(listing, unused, problems)
        keep = np.ones(n, bool)
        keep[sorted(unused)] = False
        held = np.zeros(n, bool)
        if options.holdout:
            held = splits.held_out(picture_ids(listing.files, np.arange(n), ids), options.holdout)
        out.append(Part(name, listing, ids, np.flatnonzero(keep & ~held), problems))
        if (keep & held).any():
            out.append(Part("test", listing, ids, np.flatnonzero(keep & held), problems))
    return out


def source_of(train: Listing, parts: Sequence[Part]) -> dict:
    """What is prepared, as a plan names it."""
    where = text.printable(os.path.basename(train.where.rstrip("/")))
    return {"kind": train.kind, "where": where, "hash": _identity(parts)}


def check_plan(out: Path, plan: dict, before: dict) -> None:
    """Raises DataError where a folder was written by another plan than `plan`."""
    theirs = {name: before.get(name) for name in plan}
    if theirs != plan:
        what = "; ".join(differences(plan, theirs, "plan")[:3])
        raise DataError(f"{out}: holds another preparation ({what}); choose another folder")


def accounts(parts: Sequence[Part]) -> dict[str, dict]:
    """What is not written, by name and by reason, and notes: entries of a manifest."""
    problems = {id(part.problems): part.problems for part in parts}.values()
    left_out: dict[str, int] = {}
    for one in problems:
        for reason, count in one.left_out.counts.items():
            left_out[reason] = left_out.get(reason, 0) + count
    return {
        # Sorted: workers find them in any order.
        "unusable": dict(sorted(item for one in problems for item in one.bad.items())),
        "left_out": left_out,
        "notes": {name: note for one in problems for name, note in one.notes.items()},
    }


def _identity(parts: Sequence[Part]) -> str:
    """A hash of names, ids and columns of what is prepared."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part.name} {len(part.rows)}".encode() + part.ids[part.rows].tobytes())
        for row in part.rows.tolist():
            digest.update(text.encoded(part.listing.files.name(row)) + b"\n")
        columns = {name: list(values) for name, values in sorted(part.listing.columns.items())}
        digest.update(json.dumps(columns, default=str).encode())
    return digest.hexdigest()[:16]


def convert(blob: bytes, options: Options) -> tuple[bytes, bytes | None]:
    """The image to store (its own bytes unless it shrinks) and its small view. Raises BadImage."""
    image = images.decode(blob)
    small = images.encode(images.cover(image, options.small), 85) if options.small else None
    if not options.size or min(image.shape[:2]) <= options.size:
        return blob, small
    image = images.shrink(image, options.size)
    if images.suffix(blob) == ".png":
        return images.encode_png(image), small
    return images.encode(image, options.quality), small


def write_shard(
    path: Path, part: Part, rows: np.ndarray, options: Options, pool: ThreadPoolExecutor, bar
) -> dict:
    """Writes one shard, in the order of `rows`; returns its line of the journal.

    DataError when too many cannot be used.
    """
    files, columns, bad, written = part.listing.files, part.listing.columns, {}, 0

    def one(begun: Files, row: int):
        try:
            return convert(begun.read(row), options)
        except (images.BadImage, OSError) as error:
            return reason_of(error)

    with closing(SHARDS[options.format](path, bool(options.small))) as shard:
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK].tolist()
            begun = files.begin(rows[start : start + _BLOCK])
            files.expect(rows[start + _BLOCK : start + 2 * _BLOCK])
            for row, made in zip(block, pool.map(partial(one, begun), block), strict=True):
                if isinstance(made, str):
                    bad[text.printable(files.name(row))] = made
                    part.problems.add(files.name(row), made)
                    continue
                kept = {n: v[row] for n, v in columns.items() if not text.is_missing(v[row])}
                shard.add({"id": int(part.ids[row])} | kept, *made)
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
    """The checksum of a file, as hex digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def shards_of(parts: Sequence[Part], options: Options) -> Iterator[tuple[str, Part, np.ndarray]]:
    """Name, part and rows of each shard."""
    for part in parts:
        count = -(-len(part.rows) // options.shard)
        for number in range(count):
            name = f"{part.name}-{number:05d}-of-{count:05d}{SHARDS[options.format].suffix}"
            yield name, part, part.rows[number * options.shard : (number + 1) * options.shard]


def prepare(
    train: Listing,
    test: Listing | None,
    out: Path,
    options: Options,
    threads: int = 0,
    task: Task = ALL,
) -> dict:
    """Writes the shards; called again it continues.

    Args:
      train: The training examples.
      test: The test examples, None where `options.holdout` of the training examples are.
      out: A new folder, or one in which the same preparation was begun.
      options: What is made of each example.
      threads: Decoding threads, 0: one a core. The result does not depend on it.
      task: Which shards are written here, where several workers share them.

    Returns:
      The manifest; {} where shards of other workers may be missing still.

    Raises:
      DataError: Naming option, file or folder; or who else is at work there.
    """
    options.check()
    parts = parts_of(train, test, options)
    plan = {
        "prepare": 1,
        "source": source_of(train, parts),
        "options": dataclasses.asdict(options),
    }
    try:
        if (out / shards.MANIFEST).exists():
            return _done(out, plan)
        journal.check_free(out)
        with workers.held(out, task, journal.KIND):
            return _prepare(out, plan, parts, options, threads, task)
    except OSError as error:
        raise DataError(
            f"{error.filename or out}: cannot be written ({error.strerror or error})"
        ) from error


def _done(out: Path, plan: dict) -> dict:
    """The manifest of a complete folder. Raises DataError for another preparation's."""
    done = manifest_of(out)
    check_plan(out, plan, done)
    return done


def _prepare(
    out: Path, plan: dict, parts: list[Part], options: Options, threads: int, task: Task
) -> dict:
    from tqdm import tqdm

    if (out / shards.MANIFEST).exists():  # another process has finished by now
        return _done(out, plan)
    journal.begin(out, plan)
    there = journal.finished(out)
    by_part = {part.name: part for part in parts}
    for line in there.values():
        for name, reason in line["unusable"].items():
            by_part[line["part"]].problems.add(name, reason)
    planned = list(shards_of(parts, options))
    mine = [shard for number, shard in enumerate(planned) if task.has(number)]
    work = [shard for shard in mine if shard[0] not in there]
    with (
        ThreadPoolExecutor(threads_here(threads), "prepare") as pool,
        tqdm(total=sum(len(rows) for *_, rows in work), unit=" images", disable=None) as bar,
        journal.opened(out, task, plan) as lines,
    ):
        for name, part, rows in work:
            there[name] = write_shard(out / name, part, rows, options, pool, bar)
            lines.write(json.dumps(there[name]) + "\n")
            lines.flush()
    if task.count > 1:
        return {}
    if missing := [k for k, (name, *_) in enumerate(planned) if name not in there]:
        named = ", ".join(planned[k][0] for k in missing[:3]) + (", ..." if missing[3:] else "")
        raise DataError(
            f"{out}: {len(missing)} of {len(planned)} shards are missing ({named}); "
            + workers.again(out, journal.KIND, missing, "shard")
        )
    return _finish(out, plan, parts, [there[name] for name in sorted(there)])


def manifest_of(out: Path) -> dict:
    """The manifest of a prepared folder. Raises DataError where it is none."""
    try:
        manifest = json.loads(read_file(str(out / shards.MANIFEST), _MANIFEST_BYTES))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{out / shards.MANIFEST}: damaged ({error}); delete the folder and prepare it again"
        ) from error
    if not isinstance(manifest, dict):
        raise DataError(
            f"{out / shards.MANIFEST}: no manifest of a preparation; choose another folder"
        )
    return manifest


def _finish(out: Path, plan: dict, parts: Sequence[Part], finished: list[dict]) -> dict:
    """Writes checksums and manifest, each complete or not at all, and removes the journal."""
    sums = {name: digest for line in finished for name, digest in line["sha256"].items()}
    counts = {
        p.name: sum(line["examples"] for line in finished if line["part"] == p.name) for p in parts
    }
    manifest = plan | {
        "class_names": {
            column: list(names) for column, names in parts[0].listing.class_names.items()
        },
        "examples": counts,
        **accounts(parts),
        "sha256": sums,
    }
    lines = [f"{digest}  {name}\n" for name, digest in sorted(sums.items())]
    write_text(out / SUMS, lambda file: file.writelines(lines))
    write_manifest(out, manifest)
    journal.remove(out)
    return manifest


def write_manifest(out: Path, manifest: dict) -> None:
    """Writes the manifest of a complete folder."""
    content = json.dumps(text.clean_value(manifest), indent=1, ensure_ascii=False) + "\n"
    write_text(out / shards.MANIFEST, lambda file: file.write(content))


def write_text(file: Path, fill: Callable[[TextIO], object]) -> None:
    """Writes a text file, whole or not at all, by what `fill` writes to it."""
    part = file.with_name(f"{file.name}.part")
    with part.open("w", encoding="utf-8", newline="") as out:
        fill(out)
        out.flush()
        os.fsync(out.fileno())
    os.replace(part, file)
