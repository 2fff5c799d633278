"""Takes a data set elsewhere without copying images: a folder of links, or tables of paths.

Neither reads an image, and neither changes the source. Where images have no files of their own
(tars, Parquet, arrays) the folder holds copies of their bytes.
"""

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from active_learning.data import images, text
from active_learning.data.errors import DataError
from active_learning.data.sources import shards
from active_learning.data.sources.listing import Listing
from active_learning.data.sources.preparation import (
    Options,
    Part,
    accounts,
    check_plan,
    manifest_of,
    parts_of,
    source_of,
    write_manifest,
    write_text,
)

KINDS = ("folder", "csv")
_SEPARATORS = str.maketrans({"/": "_", "\\": "_", "\0": "_"})


def take(
    train: Listing, test: Listing | None, out: Path, options: Options, kind: str, label: str
) -> dict:
    """Writes links or tables; called again it continues, and changes nothing that is complete.

    Args:
      train: The training examples.
      test: The test examples, None where `options.holdout` of the training examples are.
      out: A new folder, or one in which the same was begun.
      options: Only `holdout` and `unusable` are read.
      kind: "folder" or "csv".
      label: Column of the labels.

    Returns:
      The manifest.

    Raises:
      DataError: Naming option, file or folder.
    """
    unchanged = Options(holdout=options.holdout, unusable=options.unusable)
    if options != unchanged:
        raise DataError(
            f"--as={kind}: takes the images as they are; of the options only --holdout and "
            "--unusable apply"
        )
    parts = parts_of(train, test, options)
    plan = {
        "prepare": 1,
        "source": source_of(train, parts),
        "as": kind,
        "holdout": options.holdout,
    }
    try:
        return _take(out, plan, parts, kind, label)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{error.filename or out}: cannot be written ({reason})") from error


def _take(out: Path, plan: dict, parts: Sequence[Part], kind: str, label: str) -> dict:
    begun, complete = out / f".{kind}.json", out / shards.MANIFEST
    if complete.exists() or begun.exists():
        before = manifest_of(out) if complete.exists() else json.loads(begun.read_text())
        check_plan(out, plan, before)
        if complete.exists():
            return before
    elif out.is_dir() and any(out.iterdir()):
        raise DataError(f"{out}: not empty; choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_text(begun, lambda file: json.dump(plan, file))
    examples: dict[str, int] = {}
    for part in parts:
        (_link if kind == "folder" else _table)(out, part, label)
        examples[part.name] = len(part.rows)
    manifest = plan | {"examples": examples, **accounts(parts)}
    write_manifest(out, manifest)
    begun.unlink()
    return manifest


def _labels(part: Part, label: str) -> list[str] | None:
    """The label of each row by name; None where there is no such column, DataError for no class."""
    listing = part.listing
    if label not in listing.columns:
        return None
    known = listing.classes(label)
    values = [listing.columns[label][row] for row in part.rows.tolist()]
    numbers = known.numbers(values, f"{listing.where}: column {label!r}")
    if (numbers < 0).any():
        row = int(part.rows[int((numbers < 0).argmax())])
        raise DataError(
            f"{listing.files.name(row)}: its {label} {listing.columns[label][row]!r} is not a "
            "class; leave it out with --keep"
        )
    return [known.names[number] for number in numbers.tolist()]


def _link(out: Path, part: Part, label: str) -> None:
    """OUT/PART/CLASS/NAME as links, or OUT/PART/images/NAME with metadata.jsonl for captions."""
    files, labels, rows = part.listing.files, _labels(part, label), part.rows.tolist()
    columns = {name: values for name, values in part.listing.columns.items() if name != label}
    taken: set[str] = set()
    lines = []
    for place, row in enumerate(rows):
        folder = "images" if labels is None else _component(labels[place])
        target = files.file(row)
        blob = b"" if target else files.read(row)
        stem = f"{int(part.ids[row]):015d}"
        name = os.path.basename(target) if target else stem + images.suffix(blob)
        if f"{folder}/{name}" in taken:
            name = f"{stem}-{name}"
        taken.add(f"{folder}/{name}")
        path = out / part.name / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if target is None:
            partial = path.with_name(f".{name}.part")
            partial.write_bytes(blob)
            partial.replace(path)
        elif not path.is_symlink():
            path.symlink_to(target)
        given = {n: v[row] for n, v in columns.items() if not text.is_missing(v[row])}
        lines.append({"file_name": f"{folder}/{name}"} | given)
    if labels is None:
        content = "".join(
            json.dumps(text.clean_value(line), ensure_ascii=False) + "\n" for line in lines
        )
        write_text(out / part.name / "metadata.jsonl", lambda file: file.write(content))


def _component(name: str) -> str:
    """A class name as the name of a folder."""
    cleaned = text.printable(name).translate(_SEPARATORS)
    return f"_{cleaned}" if cleaned.startswith(".") or not cleaned else cleaned


def _table(out: Path, part: Part, label: str) -> None:
    """OUT/PART.csv with the absolute path, the label by name, and every other column."""
    files, labels, rows = part.listing.files, _labels(part, label), part.rows.tolist()
    columns = {name: values for name, values in part.listing.columns.items() if name != label}
    for name, values in columns.items():
        if any(isinstance(values[row], list | dict) for row in rows):
            raise DataError(
                f"--as=csv: column {name!r} of {part.listing.where} holds lists; use --as=parquet "
                "or --as=folder"
            )
    targets = [files.file(row) for row in rows]
    if None in targets:
        raise DataError(
            f"--as=csv: a table lists files, and the images of {part.listing.where} have none of "
            "their own; use --as=folder, webdataset or parquet"
        )
    header = ["path", *([] if labels is None else ["label"]), *columns]

    def fill(file: Any) -> None:
        writer = csv.writer(file)
        writer.writerow(header)
        for place, row in enumerate(rows):
            own = [] if labels is None else [labels[place]]
            others = ["" if text.is_missing(v[row]) else v[row] for v in columns.values()]
            writer.writerow([targets[place], *own, *others])

    write_text(out / f"{part.name}.csv", fill)
