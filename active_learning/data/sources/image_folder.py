"""Your own images: a folder for each class, or a table (CSV or JSON lines) with a path and a label or caption an image."""

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from active_learning.data.images import SUFFIXES
from active_learning.data.sources.on_disk import DiskSection, Listing
from active_learning.data.sources.source import DataError

TRAIN, TEST = ("train", "training"), ("test", "val", "valid", "validation")
TABLES = (".csv", ".tsv", ".jsonl")
PATHS = (
    "path",
    "file_name",
    "filename",
    "file",
    "image",
)  # names of a table's column with the image's path


@dataclass(frozen=True)
class ImageFolder(DiskSection):
    """`path`: a folder of class folders, a folder with `train` and `test` (or `val`) of those, a table, or a folder of train and test tables.

    Classes are the folders' names, or the labels of the table, in sorted order (in numerical order when all are numbers). Paths in a
    table are relative to it. ids are places in the sorted list of paths (in a table: its line), so they stay while the files stay.
    """

    def listings(self) -> tuple[Listing, Listing | None]:
        root = Path(self.path).expanduser()
        if root.is_file():
            return read_table(root), None
        if not root.is_dir():
            raise DataError(f"config.data.path={self.path!r}: no such file or folder")
        train, test = (_find(root, names) for names in (TRAIN, TEST))
        if train is None:
            return _list(root), None
        return _list(train), None if test is None else _list(test)


@dataclass(frozen=True, eq=False)
class _Paths:
    """Image files below `root`."""

    root: str
    paths: Sequence[str]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> bytes:
        with open(os.path.join(self.root, self.paths[index]), "rb") as file:
            return file.read()

    def read_small(self, index: int) -> bytes | None:
        return None

    def name(self, index: int) -> str:
        return self.paths[index]


def _find(root: Path, names: tuple[str, ...]) -> Path | None:
    """The folder or table of one of `names`."""
    for name in names:
        for there in (root / name, *(root / f"{name}{suffix}" for suffix in TABLES)):
            if there.exists():
                return there
    return None


def _list(root: Path) -> Listing:
    return read_table(root) if root.is_file() else list_classes(root)


def list_classes(root: Path) -> Listing:
    """One class a folder, sorted by name; images at any depth below it. Raises DataError when there is none."""
    folders = sorted(
        entry.name
        for entry in os.scandir(root)
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if not folders:
        raise DataError(f"{root}: no class folders in it (and no train, train.csv or train.jsonl)")
    paths, labels, empty = [], [], {}
    for name in folders:
        found = sorted(_images_below(str(root), name))
        paths += found
        labels += [name] * len(found)
        if not found:
            empty[f"{name}/"] = "class without images"
    return Listing(
        _Paths(str(root), paths),
        {"label": labels},
        str(root),
        "image_folder",
        tuple(folders),
        notes=empty,
    )


def _images_below(root: str, folder: str) -> list[str]:
    """Paths relative to `root` of the images below `folder`; files of other kinds are none, whatever they hold."""
    out = []
    with os.scandir(os.path.join(root, folder)) as entries:
        for entry in entries:
            below = f"{folder}/{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                out += _images_below(root, below)
            elif entry.name.lower().endswith(SUFFIXES):
                out.append(below)
    return out


def read_table(file: Path) -> Listing:
    """A CSV or TSV with a header, or a JSON object a line. Raises DataError naming file and line."""
    rows = (
        _json_lines(file)
        if file.suffix == ".jsonl"
        else _separated(file, "\t" if file.suffix == ".tsv" else ",")
    )
    if not rows:
        raise DataError(f"{file}: no rows")
    names = list(dict.fromkeys(name for row in rows for name in row))
    path = next((name for name in PATHS if name in names), None)
    if path is None:
        raise DataError(
            f"{file}: no column with the images' paths ({', '.join(PATHS)}); there are: {', '.join(names)}"
        )
    columns = {name: [row.get(name) for row in rows] for name in names if name != path}
    paths = [str(row.get(path) or "") for row in rows]
    return Listing(_Paths(str(file.parent), paths), columns, str(file), "table")


def _json_lines(file: Path) -> list[dict[str, Any]]:
    rows = []
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{file}: line {number} is no JSON ({error})") from error
            if not isinstance(row, dict):
                raise DataError(
                    f"{file}: line {number} is {type(row).__name__}, expected an object"
                )
            rows.append(row)
    return rows


def _separated(file: Path, delimiter: str) -> list[dict[str, Any]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            return [
                {k: v for k, v in row.items() if k is not None}
                for row in csv.DictReader(lines, delimiter=delimiter)
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: not a readable table ({error})") from error
