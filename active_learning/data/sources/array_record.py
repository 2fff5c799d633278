"""ArrayRecord shards of our own: one record an example, small views in a file beside.

A record is the four bytes `ALR1`, the length of its header as a little-endian uint32, the header
(JSON: `id` and the columns) and the encoded image. NAME.array_record.small holds the small views,
record for record, so that reading candidates touches no large image.
"""

import hashlib
import json
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from active_learning.data import limits, text
from active_learning.data.errors import DataError
from active_learning.data.rows import Rows
from active_learning.data.sources import paths, remote, shards, storage
from active_learning.data.sources.catalog import ShardOf
from active_learning.data.sources.files import Files, open_regular
from active_learning.data.sources.index import Index, open_index
from active_learning.data.sources.listing import Listing
from active_learning.data.sources.remote import Cached, Remote, fetcher
from active_learning.data.sources.shards import ShardSection
from active_learning.data.sources.storage import Stored

SUFFIX, SMALL = ".array_record", ".array_record.small"
OPTIONS = "group_size:1,uncompressed"  # random access to each record; JPEG does not compress
OPEN = 64  # files that are open at most
_ATTEMPTS = 3  # to open a copy
_MAGIC = b"ALR1"


@dataclass(frozen=True)
class ArrayRecords(ShardSection):
    """Shards that `python -m active_learning.prepare` wrote.

    `path`: their folder (train*.array_record, and test*), or a pattern of such files; also in a
    bucket, from where each is copied to this machine when it is first read.

    Columns and ids are those of the prepared source. The index is kept beside each shard, or in
    `cache`.
    """

    suffix = SUFFIX

    def folder(self) -> Path | None:
        if paths.is_remote(self.path):
            return None
        there = paths.local(self.path)
        return there if there.is_dir() else there.parent

    def listing(self, paths: Sequence[str], notes: dict[str, str]) -> Listing:
        files = self._readable(paths, notes)

        def opened(file: Stored) -> Index:
            return open_index(
                file.name, file.stamp, self.cache, lambda: make_index(file), columns=2, size=0
            )

        joined = self.joined(files, opened, "place")
        largest = max(file.size for file in files)
        remote.check_room(files, len(joined.shard), self.shuffle, unit=largest)
        small = [path + SMALL.removeprefix(SUFFIX) for path in paths]
        small = self._readable(small, notes) if all(map(storage.exists, small)) else None
        records = Records(files, small, joined.shard, joined.index.places, joined.ids)
        return joined.listing(records, self.path, "array_record", paths[0], notes)

    def _readable(self, paths: Sequence[str], notes: dict[str, str]) -> Sequence[Stored]:
        """Files that the library can open: on this machine, or to be copied there whole."""
        files = self.files(paths, notes)
        for file in files:
            if isinstance(file, Remote):
                raise DataError(
                    f"{file.name}: prepared shards are copied whole; {notes[self.path]}"
                )
        return files


class Readers:
    """Readers of several files, at most OPEN at a time; reading is safe from any thread."""

    def __init__(self, files: Sequence[Stored]):
        self.files, self._lock = files, threading.Lock()
        self._open: OrderedDict[int, Any] = OrderedDict()

    def of(self, number: int) -> Any:
        """The reader of file `number`, opened when it is not."""
        file = self.files[number]
        if isinstance(file, Cached) and number not in self._open:
            file.copied()  # not under the lock: it may take long
        with self._lock:
            if number not in self._open:
                self._open[number] = open_reader(file)
                if len(self._open) > OPEN:
                    self._open.popitem(
                        last=False
                    )  # closed when the last thread that reads it is done
            self._open.move_to_end(number)
            return self._open[number]

    def read(self, number: int, place: int) -> bytes:
        """One record. Raises OSError when it is damaged."""
        reader = self.of(number)  # whose errors are not those of one record
        try:
            return reader.read([place])[0]
        except (RuntimeError, ValueError, IndexError) as error:
            raise OSError(
                f"{self.files[number].name}: record {place}: {' '.join(str(error).split())[:200]}"
            ) from error

    def begin(self, numbers: Iterable[int]) -> None:
        """Starts copying the files that are not on this machine."""
        for number in dict.fromkeys(numbers):
            file = self.files[number]
            if isinstance(file, Cached) and number not in self._open:
                file.begin_copy()


def open_reader(file: Stored):
    """A reader of one file, or of its copy on this machine. Raises OSError."""
    from array_record.python.array_record_module import ArrayRecordReader

    path = file.name
    for attempt in range(_ATTEMPTS):
        path = str(file.copied()) if isinstance(file, Cached) else file.name
        try:
            os.close(open_regular(path))  # the reader takes a missing file for an empty one
            break
        except FileNotFoundError:  # a copy may be removed as soon as it is made
            if not isinstance(file, Cached) or attempt == _ATTEMPTS - 1:
                raise
    try:
        return ArrayRecordReader(path, "readahead_buffer_size:0")
    except (RuntimeError, ValueError) as error:
        raise OSError(
            None, f"no ArrayRecord file ({' '.join(str(error).split())[:200]})", file.name
        ) from error


class Records(Files):
    """Examples in record files, and their small views where there are some.

    `places`: record, and a hash of its image.
    """

    def __init__(
        self,
        files: Sequence[Stored],
        small: Sequence[Stored] | None,
        shard: np.ndarray | ShardOf,
        places: np.ndarray,
        ids: np.ndarray,
    ):
        self.shard, self.places, self.ids = shard, places, ids
        self.is_remote = any(isinstance(file, Cached) for file in files)
        self.names = [file.name.rpartition("/")[2] for file in files]
        self._large = Readers(files)
        self._small = None if small is None else Readers(small)

    def __len__(self) -> int:
        return len(self.shard)

    def place(self, row: int) -> Hashable:
        return int(self.places[row, 1])

    def places_of(self, rows: Rows) -> Int64[np.ndarray, "k"]:
        return np.asarray(self.places[np.asarray(rows), 1])

    def read(self, row: int) -> bytes:
        return unpack(self._large.read(int(self.shard[row]), int(self.places[row, 0])))[1]

    def read_small(self, row: int) -> bytes | None:
        if self._small is None:
            return None
        return self._small.read(int(self.shard[row]), int(self.places[row, 0])) or None

    def begin(self, rows: np.ndarray, small: bool = False) -> Files:
        readers = self._small if small and self._small is not None else self._large
        readers.begin(self.shard[rows].tolist())
        return self

    def expect(self, rows: np.ndarray, small: bool = False) -> None:
        if not fetcher().is_busy:
            self.begin(rows, small)

    def name(self, row: int) -> str:
        return f"{self.names[int(self.shard[row])]}/{self.ids[row]}"


def pack(fields: dict[str, Any], image: bytes) -> bytes:
    """A record: `fields` are what JSON can hold."""
    header = json.dumps(
        text.clean_value(fields), ensure_ascii=False, separators=(",", ":")
    ).encode()
    return _MAGIC + struct.pack("<I", len(header)) + header + image


def unpack(record: bytes) -> tuple[dict[str, Any], bytes]:
    """Fields and image of a record. Raises OSError when it is none of ours."""
    if record[:4] != _MAGIC or len(record) < 8:
        raise OSError("no record of this format")
    end = 8 + struct.unpack("<I", record[4:8])[0]
    if end > min(len(record), limits.current().text_bytes):
        raise OSError("damaged header of a record")
    try:
        fields = json.loads(record[8:end])
    except (ValueError, RecursionError) as error:
        raise OSError("damaged header of a record") from error
    if not isinstance(fields, dict):
        raise OSError("damaged header of a record")
    return fields, record[end:]


def make_index(file: Stored) -> Index:
    """Reads every record of a shard once.

    Raises DataError naming it when it is truncated or not one of ours.
    """
    reader = open_reader(file)
    count = reader.num_records()
    if count == 0:
        raise DataError(f"{file.name}: no records in it: empty, or truncated")
    rows, hashes = [], []
    for place in range(count):
        try:
            fields, image = unpack(reader.read([place])[0])
            hashes.append(
                int.from_bytes(hashlib.blake2b(image, digest_size=8).digest(), "big", signed=True)
            )
        except (RuntimeError, OSError, IndexError):
            fields = {}  # counted by name when a column is asked for, or its image is
            hashes.append(-1 - place)
        rows.append(fields)
    if not any(rows):
        raise DataError(
            f"{file.name}: none of its {count} records was written by active_learning.prepare"
        )
    return Index(
        [], shards.columns_of(rows), np.stack([np.arange(count), np.array(hashes, np.int64)], 1)
    )
