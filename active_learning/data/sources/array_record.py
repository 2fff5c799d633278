"""ArrayRecord shards of our own: one record an example, with everything about it in plain bytes; the small views in a file beside.

A record is the four bytes `ALR1`, the length of its header as a little-endian uint32, the header (JSON: `id` and the columns) and the encoded
image. NAME.array_record.small holds the small views, record for record, so that reading candidates touches no large image.
"""

import json
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from active_learning.data.sources import shards
from active_learning.data.sources.on_disk import Listing
from active_learning.data.sources.shards import Index, ShardSection
from active_learning.data.sources.source import DataError

SUFFIX, SMALL = ".array_record", ".array_record.small"
OPTIONS = "group_size:1,uncompressed"  # random access to each record; JPEG does not compress
_MAGIC = b"ALR1"


@dataclass(frozen=True)
class ArrayRecords(ShardSection):
    """`path`: a folder that `python -m active_learning.prepare` wrote (train*.array_record, and test*), or a pattern of such files.

    Columns and ids are those of the prepared source. The index is kept beside each shard, or in `cache`.
    """

    def folder(self) -> Path:
        """Where stored scores go: beside the shards."""
        there = Path(self.path).expanduser()
        return there if there.is_dir() else there.parent

    def listings(self) -> tuple[Listing, Listing | None]:
        train, test = self.shards(SUFFIX)
        return self._listing(train), self._listing(test) if test else None

    def _listing(self, paths: Sequence[str]) -> Listing:
        opened = lambda path: shards.open_index(
            path, _stamp(path), self.cache, lambda: make_index(path)
        )
        indices = shards.each(paths, opened)
        shard, index = shards.join(indices)
        ids, names = shards.ids_of(shard, index.columns), shards.class_names(paths[0])
        columns = {name: values for name, values in index.columns.items() if name != "id"}
        return Listing(
            Records(paths, shard, index.places[:, 0], ids),
            columns,
            self.path,
            "array_record",
            names,
            ids,
        )


def _stamp(path: str) -> str:
    state = Path(path).stat()
    return f"{state.st_size} {state.st_mtime_ns}"


class Readers:
    """One reader a file, opened at first use; reading is safe from any thread."""

    def __init__(self, paths: Sequence[str]):
        self.paths, self._open, self._lock = paths, {}, threading.Lock()

    def of(self, number: int) -> Any:
        with self._lock:
            if number not in self._open:
                self._open[number] = open_reader(self.paths[number])
            return self._open[number]

    def read(self, number: int, place: int) -> bytes:
        """One record. Raises OSError when it is damaged."""
        try:
            return self.of(number).read([place])[0]
        except (RuntimeError, ValueError, IndexError) as error:
            raise OSError(
                f"{self.paths[number]}: record {place}: {' '.join(str(error).split())[:200]}"
            ) from error


def open_reader(path: str):
    """A reader of one file. Raises OSError."""
    from array_record.python.array_record_module import ArrayRecordReader

    with open(path, "rb"):
        pass  # the reader's own words for a missing file are an empty file
    try:
        return ArrayRecordReader(path, "readahead_buffer_size:0")
    except (RuntimeError, ValueError) as error:
        raise OSError(
            None, f"no ArrayRecord file ({' '.join(str(error).split())[:200]})", path
        ) from error


class Records:
    """Examples in record files, and their small views where there are some."""

    def __init__(
        self, paths: Sequence[str], shard: np.ndarray, places: np.ndarray, ids: np.ndarray
    ):
        self.paths, self.shard, self.places, self.ids = paths, shard, places, ids
        self._large = Readers(paths)
        small = [path + SMALL.removeprefix(SUFFIX) for path in paths]
        self._small = Readers(small) if all(Path(path).exists() for path in small) else None

    def __len__(self) -> int:
        return len(self.shard)

    def read(self, row: int) -> bytes:
        return unpack(self._large.read(int(self.shard[row]), int(self.places[row])))[1]

    def read_small(self, row: int) -> bytes | None:
        if self._small is None:
            return None
        return self._small.read(int(self.shard[row]), int(self.places[row])) or None

    def name(self, row: int) -> str:
        return f"{Path(self.paths[self.shard[row]]).name}/{self.ids[row]}"


def pack(fields: dict[str, Any], image: bytes) -> bytes:
    """A record: `fields` are what JSON can hold."""
    header = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    return _MAGIC + struct.pack("<I", len(header)) + header + image


def unpack(record: bytes) -> tuple[dict[str, Any], bytes]:
    """Fields and image of a record. Raises OSError when it is none of ours."""
    if record[:4] != _MAGIC or len(record) < 8:
        raise OSError("no record of this format")
    end = 8 + struct.unpack("<I", record[4:8])[0]
    try:
        fields = json.loads(record[8:end])
    except (ValueError, RecursionError) as error:
        raise OSError("damaged header of a record") from error
    if not isinstance(fields, dict) or end > len(record):
        raise OSError("damaged header of a record")
    return fields, record[end:]


def make_index(path: str) -> Index:
    """Reads every record of a shard once. Raises DataError naming it when it is truncated or not one of ours."""
    reader = open_reader(path)
    count = reader.num_records()
    if count == 0:
        raise DataError(f"{path}: no records in it: empty, or truncated")
    rows = []
    for place in range(count):
        try:
            fields, _ = unpack(reader.read([place])[0])
        except (RuntimeError, OSError, IndexError):
            fields = {}  # counted by name when a column is asked for, or its image is
        rows.append(fields)
    if not any(rows):
        raise DataError(
            f"{path}: none of its {count} records was written by active_learning.prepare"
        )
    return Index([], shards.columns_of(rows), np.arange(count)[:, None])
