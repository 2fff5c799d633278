"""Parquet files as Hugging Face stores images.

They are read row group by row group: small sets directly, large ones by `prepare`.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from active_learning.data import text
from active_learning.data.errors import DataError
from active_learning.data.sources import contents, shards
from active_learning.data.sources.files import Files
from active_learning.data.sources.index import Index
from active_learning.data.sources.listing import NOT_KEPT, Listing
from active_learning.data.sources.shards import ShardSection
from active_learning.data.sources.source import Opened
from active_learning.data.sources.storage import Local, Sequential, Stored

# Names of an image column where the files do not say which it is.
IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "picture", "photo")
DIRECT = (
    1 << 30
)  # bytes up to which files are trained on as they are, with all row groups in memory
_GROUPS = 4  # row groups in memory while `prepare` reads in order
_ROW_BYTES = 8  # a row with an image takes more than this; fewer is no set of images


@dataclass(frozen=True)
class Parquet(ShardSection):
    """Parquet files with an image column.

    `path`: a folder with train*.parquet (and test*), or with data/*.parquet or
    default/train/*.parquet in it, or a pattern.

    The image column holds bytes, or a struct with `bytes`; numbers, truth values, texts, lists of
    texts and structs of texts are columns. Class names are those of the Hugging Face features. An
    id is the column `id`, or the place, shard << 32 | row. Above DIRECT bytes the files must be
    prepared first.
    """

    image: str = ""  # the image column; '': the one that the files name, or a usual name
    suffix = ".parquet"

    def open(self) -> Opened:
        train, test = self.checked_listings()
        files = [one.files for one in (train, test) if one is not None]
        rows = [of for of in files if isinstance(of, Rows)]  # all: `listing` makes no others
        size = sum(file.size for one in rows for file in one.files)
        if size > DIRECT:
            raise DataError(
                f"config.data.path={self.path!r}: {size / 1e9:.1f} GB of Parquet cannot be read at "
                f"random; prepare it first: "
                f"python -m active_learning.prepare {self.path} OUT"
            )
        for one in rows:
            one.groups = len(one) + 1
        return self._opened(train, test)

    def listing(self, paths: Sequence[str], notes: dict[str, str]) -> Listing:
        files = self.files(paths, notes)
        tables = [_open(file) for file in files]
        image, names = _features(tables[0], paths[0], self.image)
        notes = dict(notes)
        indices = [
            _index(table, path, image, notes) for table, path in zip(tables, paths, strict=True)
        ]
        shard, index = shards.join(indices)
        rows = Rows(files, tables, shard, index.places, image)
        ids, by, columns = shards.ids_of(
            index.columns, "place", lambda: contents.ids_by_place(shard)
        )
        names = shards.class_names(paths[0]) | names
        return Listing(rows, columns, self.path, "parquet", names, ids, notes, ids_by=by)


def _open(file: Stored) -> Any:
    import pyarrow
    from pyarrow import parquet

    path = file.name
    try:
        if isinstance(file, Local):
            table = parquet.ParquetFile(path)
        else:
            table = parquet.ParquetFile(Sequential(file), pre_buffer=True)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise DataError(f"{path}: not a readable Parquet file ({_reason(error)})") from error
    if table.metadata.num_rows * _ROW_BYTES > file.size:
        raise DataError(
            f"{path}: declares {table.metadata.num_rows:,} rows in {file.size:,} bytes; no set of "
            f"images"
        )
    return table


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _features(table: Any, path: str, wanted: str) -> tuple[str, dict[str, tuple[str, ...]]]:
    """Name of the image column, and the class names of each label column."""
    schema = table.schema_arrow
    try:
        said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        said = {}
    features = (
        {name: f for name, f in said.items() if isinstance(f, dict)}
        if isinstance(said, dict)
        else {}
    )
    marked = [
        name for name, f in features.items() if f.get("_type") == "Image" and name in schema.names
    ]
    usual = {name.casefold(): name for name in reversed(schema.names)}
    candidates = [wanted] if wanted else marked + [usual[name] for name in IMAGES if name in usual]
    if not candidates or candidates[0] not in schema.names:
        there = ", ".join(schema.names)
        raise DataError(
            f"{path}: no image column ({wanted or ', '.join(IMAGES)}); there are: {there}; name it "
            f"by config.data.image"
        )
    names = {}
    for name, feature in features.items():
        if feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list):
            names[name] = tuple(text.printable(str(one)) for one in feature["names"])
    return candidates[0], names


def _is_kept(kind: Any) -> bool:
    """Whether an Arrow type is kept: numbers, booleans, texts, lists and structs of texts."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_kept(kind.value_type)
    if types.is_struct(kind):
        return all(_is_text_or_list(kind.field(n).type) for n in range(kind.num_fields))
    return (
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or _is_text_or_list(kind)
    )


def _is_text_or_list(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_text_or_list(kind.value_type)
    lists = (
        types.is_list,
        types.is_large_list,
        types.is_list_view,
        types.is_large_list_view,
        types.is_fixed_size_list,
    )
    if any(is_list(kind) for is_list in lists):
        return _is_text_or_list(kind.value_type)
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _is_number_list(kind: Any) -> bool:
    """Whether an Arrow type is a list, of whichever form, of whole numbers or truth values."""
    from pyarrow import types

    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return lists and (types.is_integer(kind.value_type) or types.is_boolean(kind.value_type))


def _single(column: Any) -> list[Any] | None:
    """The elements of a column of lists with one element each; None where one has more."""
    from pyarrow import compute

    lengths = compute.call_function("list_value_length", [column]).unique().to_pylist()
    if 1 in lengths and set(lengths) <= {1, None}:
        return [None if value is None else value[0] for value in column.to_pylist()]
    return None


def _index(table: Any, path: str, image: str, notes: dict[str, str]) -> Index:
    """All columns but the image that can be kept; places are (row group, row in it).

    The others are named in `notes`.
    """
    import pyarrow

    fields = [f for f in table.schema_arrow if f.name != image]
    wanted = [f.name for f in fields if _is_kept(f.type)]
    lists = [f.name for f in fields if f.name not in wanted and _is_number_list(f.type)]
    counts = [table.metadata.row_group(k).num_rows for k in range(table.num_row_groups)]
    try:
        read = table.read(columns=wanted) if wanted else None
        columns = {} if read is None else {name: read.column(name).to_pylist() for name in wanted}
        for name in lists:  # Lists of one number each are numbers; others are not kept.
            if (numbers := _single(table.read(columns=[name]).column(0))) is not None:
                columns[name] = numbers
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged ({_reason(error)})") from error
    dropped = [f"{f.name} ({f.type})" for f in fields if f.name not in columns]
    if dropped:
        notes[NOT_KEPT] = ", ".join(dropped)[:500]
    columns = {text.clean(name): text.clean_value(values) for name, values in columns.items()}
    places = [(group, row) for group, n in enumerate(counts) for row in range(n)]
    return Index([], columns, np.asarray(places, np.int64).reshape(-1, 2))


class Rows(Files):
    """Encoded images; `groups` row groups are held, so that reading in order reads each once."""

    def __init__(
        self,
        files: Sequence[Stored],
        tables: list[Any],
        shard: np.ndarray,
        places: np.ndarray,
        image: str,
    ):
        self.files, self.tables, self.shard, self.places, self.image = (
            files,
            tables,
            shard,
            places,
            image,
        )
        self.groups = _GROUPS
        self._held: OrderedDict[tuple[int, int], list[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.shard)

    def read(self, row: int) -> bytes:
        group, place = self.places[row].tolist()
        value = self._group(int(self.shard[row]), group)[place]
        blob = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(blob, bytes):
            raise OSError("no bytes of an image in this row")
        return blob

    def size(self, row: int) -> int:
        return len(self.read(row)) if self.groups > _GROUPS else -1

    def stamp(self, row: int) -> str:
        shard = int(self.shard[row])
        place = row - int(np.searchsorted(self.shard, shard))
        return f"{self.files[shard].stamp} {self.files[shard].name} {place}"

    def _group(self, shard: int, group: int) -> list[Any]:
        import pyarrow

        with self._lock:
            if (shard, group) not in self._held:
                try:
                    read = self.tables[shard].read_row_group(group, columns=[self.image])
                    self._held[shard, group] = read.column(0).to_pylist()
                except (pyarrow.ArrowException, OSError) as error:
                    raise OSError(f"row group {group}: {_reason(error)}") from error
                if len(self._held) > self.groups:
                    self._held.popitem(last=False)
            return self._held[shard, group]

    def name(self, row: int) -> str:
        shard = int(self.shard[row])
        name = self.files[shard].name.rpartition("/")[2]
        return f"{name}/{row - np.searchsorted(self.shard, shard)}"
