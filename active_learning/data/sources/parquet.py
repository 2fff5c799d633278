"""Parquet files as Hugging Face stores images, for `prepare`: they are read row group by row group, so random access would be slow."""

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from active_learning.data.sources import shards
from active_learning.data.sources.on_disk import Listing
from active_learning.data.sources.shards import Index, ShardSection
from active_learning.data.sources.source import DataError, Opened

SUFFIX = ".parquet"
IMAGES = (
    "image",
    "img",
    "jpg",
    "png",
    "webp",
)  # names of an image column where the files do not say which it is
_GROUPS = 4  # row groups held in memory


@dataclass(frozen=True)
class Parquet(ShardSection):
    """`path`: a folder with train*.parquet (and test*), or a pattern. Only `python -m active_learning.prepare` reads it.

    The image column holds bytes, or a struct with `bytes`; integers, texts and lists of texts are columns. Class names are those of the
    Hugging Face features. ids are shard << 32 | row, or the column `id`.
    """

    def listings(self) -> tuple[Listing, Listing | None]:
        train, test = self.shards(SUFFIX)
        return self._listing(train), self._listing(test) if test else None

    def open(self) -> Opened:
        raise DataError(
            f"config.data.path={self.path!r}: prepare it first: python -m active_learning.prepare {self.path} OUT"
        )

    def _listing(self, paths: Sequence[str]) -> Listing:
        tables = [_open(path) for path in paths]
        image, names = _features(tables[0], paths[0])
        indices = [_index(table, path, image) for table, path in zip(tables, paths, strict=True)]
        shard, index = shards.join(indices)
        ids = shards.ids_of(shard, index.columns)
        columns = {name: values for name, values in index.columns.items() if name != "id"}
        return Listing(
            _Rows(paths, tables, shard, index.places, image),
            columns,
            self.path,
            "parquet",
            names,
            ids,
        )


def _open(path: str) -> Any:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise DataError(
            f"{path}: not a readable Parquet file ({' '.join(str(error).split())[:200]})"
        ) from error


def _features(table: Any, path: str) -> tuple[str, tuple[str, ...]]:
    """Name of the image column, and the class names of the label."""
    schema = table.schema_arrow
    try:
        said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        said = {}
    kinds = {name: f.get("_type") for name, f in said.items() if isinstance(f, dict)}
    candidates = [name for name, kind in kinds.items() if kind == "Image"] + [
        n for n in IMAGES if n in schema.names
    ]
    if not candidates:
        raise DataError(
            f"{path}: no image column ({', '.join(IMAGES)}); there are: {', '.join(schema.names)}"
        )
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    label = "label" if "label" in labels or len(labels) != 1 else labels[0]
    return candidates[0], tuple(str(name) for name in said.get(label, {}).get("names") or ())


def _index(table: Any, path: str, image: str) -> Index:
    """All columns but the image; places are (row group, row in it)."""
    import pyarrow
    from pyarrow import types

    is_text = lambda kind: types.is_string(kind) or types.is_large_string(kind)
    wanted = [
        f.name
        for f in table.schema_arrow
        if f.name != image
        and (
            types.is_integer(f.type)
            or is_text(f.type)
            or (types.is_list(f.type) and is_text(f.type.value_type))
        )
    ]
    counts = [table.metadata.row_group(k).num_rows for k in range(table.num_row_groups)]
    try:
        columns = table.read(columns=wanted).to_pydict()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged ({' '.join(str(error).split())[:200]})") from error
    places = [(group, row) for group, n in enumerate(counts) for row in range(n)]
    return Index([], columns, np.asarray(places, np.int64).reshape(-1, 2))


class _Rows:
    """Encoded images; a few row groups are held, so that reading in order reads each once."""

    def __init__(
        self,
        paths: Sequence[str],
        tables: list[Any],
        shard: np.ndarray,
        places: np.ndarray,
        image: str,
    ):
        self.paths, self.tables, self.shard, self.places, self.image = (
            paths,
            tables,
            shard,
            places,
            image,
        )
        self._groups: OrderedDict[tuple[int, int], list[Any]] = OrderedDict()
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

    def _group(self, shard: int, group: int) -> list[Any]:
        import pyarrow

        with self._lock:
            if (shard, group) not in self._groups:
                try:
                    column = (
                        self.tables[shard]
                        .read_row_group(group, columns=[self.image])
                        .column(0)
                        .to_pylist()
                    )
                except (pyarrow.ArrowException, OSError) as error:
                    raise OSError(
                        f"row group {group}: {' '.join(str(error).split())[:200]}"
                    ) from error
                self._groups[shard, group] = column
                if len(self._groups) > _GROUPS:
                    self._groups.popitem(last=False)
            return self._groups[shard, group]

    def read_small(self, row: int) -> bytes | None:
        return None

    def name(self, row: int) -> str:
        return f"{Path(self.paths[self.shard[row]]).name}/{row - np.searchsorted(self.shard, self.shard[row])}"
