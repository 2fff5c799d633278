"""Tables with a row an image: CSV, TSV, JSON lines or lists, COCO captions; also gzipped."""

import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from active_learning.data import limits, text
from active_learning.data.errors import DataError
from active_learning.data.sources import paths
from active_learning.data.sources.files import Files, read_file, read_tail
from active_learning.data.sources.listing import Listing

SEPARATED, JSON_LINES, JSON = (".csv", ".tsv"), (".jsonl", ".ndjson"), (".json",)
SUFFIXES = (*SEPARATED, *JSON_LINES, *JSON)
KINDS = (
    ".csv, .tsv, .jsonl, .ndjson and .json (a list of objects, or COCO's captions), also with .gz"
)
PATH_COLUMNS = (
    "path", "file_name", "filename", "filepath", "file_path", "file", "image", "image_path",
    "imagepath", "image_file", "image_name", "img", "img_path", "image_id", "id_code", "name",
)  # fmt: skip
_SEPARATORS = ",\t;|"
_TRIED = 50  # rows by which the folder of the images is found
_ENDINGS = ("", ".jpg", ".jpeg", ".png", ".webp")
csv.field_size_limit(1 << 24)


def suffix_of(name: str) -> str:
    """The suffix that says the kind of a table, in lower case and without '.gz'."""
    return os.path.splitext(name.lower().removesuffix(".gz"))[1]


def is_table(name: str) -> bool:
    """Whether a file name is that of a table."""
    return suffix_of(name) in SUFFIXES


@dataclass(frozen=True, eq=False)
class Paths(Files):
    """Image files below `root`; absolute paths stay as they are."""

    root: str
    paths: Sequence[str]
    ending: str = ""  # what the table leaves out of the names, e.g. '.jpg'

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> bytes:
        return read_file(self._file(index))

    def name(self, index: int) -> str:
        return self.paths[index]

    def place(self, index: int) -> Hashable:
        return os.path.normpath(self.paths[index].replace("\\", "/"))

    def size(self, index: int) -> int:
        return os.stat(self._file(index)).st_size

    def tail(self, index: int, size: int) -> bytes:
        return read_tail(self._file(index), size)

    def file(self, index: int) -> str | None:
        return os.path.abspath(self._file(index))

    def stamp(self, index: int) -> str:
        try:
            state = os.stat(self._file(index))
        except OSError:
            return ""
        return f"{state.st_size} {state.st_mtime_ns} {self.place(index)}"

    def _file(self, index: int) -> str:
        return resolve(self.root, self.paths[index], self.ending)


def resolve(root: str, path: str, ending: str = "") -> str:
    """The file that a table's path means.

    Paths of Windows are understood where the literal one does not exist.
    """
    if "\0" in path:
        raise OSError(None, "a NUL character in the path", path.replace("\0", "?"))
    if path.lower().startswith("file:"):
        path = unquote(urlparse(path).path)
    file = os.path.join(root, os.path.expanduser(path) + ending)
    if "\\" in path and not os.path.lexists(file):
        return os.path.join(root, path.replace("\\", "/") + ending)
    return file


def read_table(file: Path, image: str = "", root: str = "") -> Listing:
    """A table as a listing.

    Args:
      file: The table.
      image: Column with the images' paths; '': the first of PATH_COLUMNS that is there.
      root: Folder that the paths are relative to; '': the table's, or one below it that holds them.

    Raises:
      DataError: Naming file and line.
    """
    content, suffix = _content(file), suffix_of(file.name)
    bad: dict[int, str] = {}
    hint = ""
    if suffix in JSON_LINES:
        rows = _json_lines(file, content)
    elif suffix in JSON:
        rows = _json(file, content)
        hint = f"; labels come from a table ({KINDS}) with a path and a label a row"
    else:
        rows, bad = _separated(file, content, image)
    if not rows:
        raise DataError(f"{file}: no rows")
    names = list(dict.fromkeys(name for row in rows for name in row))
    column = path_column(names, image)
    if column is None:
        wanted = f"config.data.image={image!r}" if image else f"none of {', '.join(PATH_COLUMNS)}"
        raise DataError(
            f"{file}: no column with the images' paths ({wanted}); there are: {', '.join(names)}; "
            f"name it by config.data.image, and check the separator (comma, tab, semicolon and | "
            f"are found)"
        )
    listed = [row.get(column) for row in rows]
    images = [
        text.clean(str(path)) if not isinstance(path, str) else path
        for path in ("" if p is None else p for p in listed)
    ]
    bad |= {
        row: f"no {column}"
        for row, path in enumerate(images)
        if not path.strip() and row not in bad
    }
    _refuse_urls(file, column, images)
    columns = {
        text.clean(name): [row.get(name) for row in rows] for name in names if name != column
    }
    where, ending = _root(file, root, images)
    return Listing(Paths(where, images, ending), columns, str(file), "table", bad=bad, hint=hint)


def path_column(names: Sequence[str], image: str = "") -> str | None:
    """The column with the paths: `image`, or the first usual name in any case."""
    if image:
        return image if image in names else None
    folded = {name.strip().casefold(): name for name in reversed(names)}
    return next((folded[name] for name in PATH_COLUMNS if name in folded), None)


def _refuse_urls(file: Path, column: str, images: Sequence[str]) -> None:
    first = next((path for path in images if path), "")
    if paths.is_url(first) or first.startswith(("s3://", "gs://")):
        raise DataError(
            f"{file}: column {column!r} holds addresses ({first[:80]}), expected files; download "
            f"them, e.g. with img2dataset"
        )


def _root(file: Path, root: str, images: Sequence[str]) -> tuple[str, str]:
    """The folder that holds most of the first images, and the suffix that the table leaves out."""
    tried = [path for path in images if path.strip()][:_TRIED]
    below = file.parent
    stem = file.name.split(".")[0]
    if root:
        folders = [paths.local(root)]
    else:
        folders = [
            below,
            *(below / name for name in (stem, "images", "Images", "imgs", stem.rpartition("_")[2])),
            below.parent,
        ]

    def hits(folder: Path, ending: str) -> int:
        return sum(
            os.path.isfile(resolve(str(folder), path, ending)) for path in tried if "\0" not in path
        )

    best = max(
        (
            (hits(folder, ending), -n, folder, ending)
            for ending in _ENDINGS
            for n, folder in enumerate(folders)
        ),
        key=_rank,
    )
    return (str(best[2]), best[3]) if best[0] else (str(folders[0]), "")


def _rank(choice: tuple[int, int, Path, str]) -> tuple[int, int, int]:
    count, order, _, ending = choice
    return count, -_ENDINGS.index(ending), order


def _content(file: Path) -> str:
    """The text of a table, decompressed. Raises DataError naming the file."""
    most = limits.current().table_bytes
    try:
        blob = read_file(str(file), most)
        if blob[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(blob)) as opened:
                blob = opened.read(most + 1)
            if len(blob) > most:
                raise DataError(
                    f"{file}: more than {most:,} bytes after decompression; {limits.RAISE}"
                )
        encoding = "utf-16" if blob[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        return blob.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file}: not UTF-8 (byte {error.start}: {error.reason}); save it as UTF-8"
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{file}: not a readable gzip file ({error})") from error


def _json_lines(file: Path, content: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        row = _parsed(file, line, f"line {number}")
        if not isinstance(row, dict):
            raise DataError(f"{file}: line {number} is {type(row).__name__}, expected an object")
        rows.append(row)
    return rows


def _parsed(file: Path, content: str, what: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: {what} is no JSON ({error})") from error


def _json(file: Path, content: str) -> list[dict[str, Any]]:
    found = _parsed(file, content, "the file")
    if isinstance(found, dict) and isinstance(found.get("images"), list) and "annotations" in found:
        return _coco(file, found)
    if isinstance(found, dict) and isinstance(found.get("data"), list):
        found = found["data"]
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise DataError(
            f"{file}: expected a list of objects, one an image; tables are read as {KINDS}"
        )
    return found


def _coco(file: Path, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """COCO's captions: a row an image, with all its captions."""
    try:
        captions: dict[Any, list[str]] = {}
        for one in content["annotations"]:
            if "caption" in one:
                captions.setdefault(one["image_id"], []).append(one["caption"])
        rows = [
            {"path": str(one["file_name"]), "caption": captions.get(one["id"], [])}
            for one in content["images"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file}: a COCO file with a damaged entry ({type(error).__name__}: {error})"
        ) from error
    if not captions:
        raise DataError(
            f"{file}: a COCO annotation file without captions; of COCO's files only captions are "
            f"read, "
            f"labels come from a table ({KINDS})"
        )
    return rows


def _separated(file: Path, content: str, image: str) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Rows of a table with a header, and the rows with too many fields."""
    first = content.lstrip("\r\n").split("\n", 1)[0]
    delimiter = _delimiter(first, image, "\t" if suffix_of(file.name) == ".tsv" else ",")
    try:
        reader = csv.reader(io.StringIO(content), delimiter=delimiter, skipinitialspace=True)
        header = [name.strip() for name in next(reader, [])]
        if len(set(header)) < len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise DataError(f"{file}: two columns are named {twice!r}")
        rows, bad = [], {}
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            if len(fields) > len(header):
                bad[len(rows)] = (
                    f"line {reader.line_num} has {len(fields)} fields, the header {len(header)}: "
                    f"quote the text"
                )
            rows.append(dict(zip(header, fields, strict=False)))
        return rows, bad
    except csv.Error as error:
        raise DataError(f"{file}: line {reader.line_num} is not readable ({error})") from error


def _delimiter(header: str, image: str, usual: str) -> str:
    """Returns the separator that gives the header a path column, else most columns."""

    def names(mark: str) -> list[str]:
        return [name.strip() for name in next(csv.reader([header], delimiter=mark), [])]

    marks = sorted(_SEPARATORS, key=lambda mark: mark != usual)
    fit = [mark for mark in marks if path_column(names(mark), image) is not None]
    return max(fit or marks, key=lambda mark: len(names(mark)))
