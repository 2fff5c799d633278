"""Columns of sets that are too large for Python objects: one value an example, on the disk.

A column with few distinct values is stored as one number per example plus the list of values
(`Coded`); any other is the JSON of the values, one after the other (`Packed`). Both are written
piece by piece, by `ColumnWriter`, and mapped into memory.
"""

import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int16, Int32, Int64, UInt8

from active_learning.data import classes, text
from active_learning.data.errors import DataError
from active_learning.data.rows import Rows, taken

MOST = 1 << 16  # different values of a `Coded` column
OBJECTS = -1  # instead of a number of captions, where a value holds objects
_CHUNK = 1 << 22  # values that are converted at a time


class Coded(Sequence[Any]):
    """Values of which few are different.

    Attributes:
      codes: Place in `values` of each example's value.
      values: The different values, in the order of the classes they are.
    """

    def __init__(self, codes: Int32[np.ndarray, "n"], values: Sequence[Any]):
        self.codes, self.values = codes, list(values)

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row: Any) -> Any:
        return self.values[int(self.codes[row])]

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), _CHUNK):
            yield from (self.values[code] for code in self.codes[start : start + _CHUNK].tolist())

    def mapped(self, table: Int32[np.ndarray, "v"]) -> Int32[np.ndarray, "n"]:
        """What `table` has for the value of each example; the codes where it is their numbers."""
        if np.array_equal(table, np.arange(len(table))):
            return self.codes
        out = np.empty(len(self), np.int32)
        for start in range(0, len(self), _CHUNK):
            out[start : start + _CHUNK] = table[self.codes[start : start + _CHUNK]]
        return out


class Packed(Sequence[Any]):
    """Values of any kind.

    Attributes:
      captions: How many captions there are in each value; OBJECTS where it cannot be one.
    """

    def __init__(
        self,
        starts: Int64[np.ndarray, "m"],
        content: UInt8[np.ndarray, "bytes"],
        captions: Int16[np.ndarray, "n"],
    ):
        self._starts, self._content, self.captions = starts, content, captions

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, row: Any) -> Any:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        begin, end = self._starts[row : row + 2].tolist()
        return json.loads(self._content[begin:end].tobytes().decode("utf-8", "surrogatepass"))


class Selected(Sequence[Any]):
    """The values of a column at some rows."""

    def __init__(self, column: Sequence[Any], rows: Rows):
        self.column, self.rows = column, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return self.column[int(self.rows[place])]


def distinct(column: Sequence[Any]) -> Sequence[Any]:
    """Values among which all of a column's are."""
    return column.values if isinstance(column, Coded) else column


def class_numbers(
    known: classes.Classes, column: Sequence[Any], where: str
) -> tuple[Int32[np.ndarray, "n"], Int64[np.ndarray, "k"]]:
    """The class of each value, and the rows that have none.

    Raises DataError naming `where` for a value that cannot be a label.
    """
    if not isinstance(column, Coded):
        numbers = known.numbers(column, where)
        return numbers, np.flatnonzero(numbers == classes.MISSING)
    table = known.numbers(column.values, where)
    numbers = column.mapped(table)
    some = (table == classes.MISSING).any()
    return numbers, np.flatnonzero(numbers == classes.MISSING) if some else np.empty(0, np.int64)


def caption_counts(column: Sequence[Any]) -> Int16[np.ndarray, "n"] | None:
    """How many captions each value of a column on the disk has; None for other columns."""
    if isinstance(column, Packed):
        return column.captions
    if isinstance(column, Coded):
        table = np.array(list(map(_captions, column.values)), np.int16)
        return table[column.codes]
    if isinstance(column, Selected):
        counts = caption_counts(column.column)
        return None if counts is None else taken(counts, column.rows)
    return None


def rows_without_captions(column: Sequence[Any]) -> list[int]:
    """Rows whose value has no caption. Raises DataError where a value holds objects."""
    counts = caption_counts(column)
    if counts is None:
        return [row for row, value in enumerate(column) if not text.captions(value)]
    if len(objects := np.flatnonzero(counts == OBJECTS)):
        text.captions(column[int(objects[0])])  # raises
    return np.flatnonzero(counts == 0).tolist()


def _captions(value: Any) -> int:
    try:
        return min(len(text.captions(value)), np.iinfo(np.int16).max)
    except DataError:
        return OBJECTS


class ColumnWriter:
    """Writes a column piece by piece: coded until more than MOST values are different."""

    def __init__(self, folder: Path, name: str):
        self._stem, self._count = folder / name, 0
        self._known: dict[tuple[type, Any], int] = {}
        self._codes = open(f"{self._stem}.codes", "wb")  # noqa: SIM115
        self._packing: _Packing | None = None

    def add(self, values: Sequence[Any]) -> None:
        """Appends values."""
        codes = None if self._packing else self._coded(values)
        if codes is not None:
            self._codes.write(codes.tobytes())
        else:
            if self._packing is None:
                self._packing = self._begin_packing()
            self._packing.add(values)
        self._count += len(values)

    def add_missing(self, count: int) -> None:
        """Appends `count` times None."""
        for start in range(0, count, _CHUNK):
            self.add([None] * min(_CHUNK, count - start))

    def close(self) -> dict[str, Any]:
        """Ends the column; returns what `open_column` needs beside the files."""
        self._codes.close()
        if self._packing is not None:
            self._packing.close()
            return {"kind": "packed", "bytes": self._packing.size}
        return {"kind": "coded", "values": self._in_order()}

    def _coded(self, values: Sequence[Any]) -> np.ndarray | None:
        codes = np.empty(len(values), np.int32)
        try:
            for row, value in enumerate(values):
                codes[row] = self._known.setdefault((type(value), value), len(self._known))
        except TypeError:  # a list or an object
            return None
        return codes if len(self._known) <= MOST else None

    def _begin_packing(self) -> "_Packing":
        """Writes the values so far again."""
        self._codes.close()
        packing, written = _Packing(self._stem), self._mapped("r")
        values = [value for _, value in self._known]
        for start in range(0, self._count, _CHUNK):
            packing.add([values[code] for code in written[start : start + _CHUNK].tolist()])
        del written
        Path(f"{self._stem}.codes").unlink()
        return packing

    def _mapped(self, mode: Any) -> np.ndarray:
        return map_file(Path(f"{self._stem}.codes"), np.int32, self._count, mode)

    def _in_order(self) -> list[Any]:
        """The values in the order of their classes; the codes are changed to fit."""
        values = [value for _, value in self._known]
        order = _class_order(values)
        table = np.empty(len(values), np.int32)
        table[order] = np.arange(len(values))
        codes = self._mapped("r+")
        for start in range(0, self._count, _CHUNK):
            codes[start : start + _CHUNK] = table[codes[start : start + _CHUNK]]
        return [values[place] for place in order]


def _class_order(values: Sequence[Any]) -> list[int]:
    """Places of values by class, missing ones last; as they are where some are no classes."""
    try:
        names = [classes.name_of(value) for value in values]
    except ValueError:
        return list(range(len(values)))
    place = {name: k for k, name in enumerate(classes.ordered(n for n in names if n is not None))}
    return sorted(
        range(len(values)), key=lambda k: len(place) if (n := names[k]) is None else place[n]
    )


class _Packing:
    """Appends to the files of a `Packed` column."""

    def __init__(self, stem: Path):
        self.size = 0
        self._content = open(f"{stem}.json", "wb")  # noqa: SIM115
        self._starts = open(f"{stem}.starts", "wb")  # noqa: SIM115
        self._captions = open(f"{stem}.captions", "wb")  # noqa: SIM115
        self._starts.write(np.zeros(1, np.int64).tobytes())

    def add(self, values: Sequence[Any]) -> None:
        blobs = [
            json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(
                "utf-8", "surrogatepass"
            )
            for value in values
        ]
        ends = self.size + np.cumsum([len(blob) for blob in blobs], dtype=np.int64)
        self._content.write(b"".join(blobs))
        self._starts.write(ends.tobytes())
        self._captions.write(np.array(list(map(_captions, values)), np.int16).tobytes())
        self.size = int(ends[-1]) if len(ends) else self.size

    def close(self) -> None:
        for file in (self._content, self._starts, self._captions):
            file.close()


def open_column(folder: Path, name: str, about: Mapping[str, Any], count: int) -> Coded | Packed:
    """A column of `count` values that a `ColumnWriter` wrote.

    Raises:
      OSError, ValueError, KeyError, TypeError: Its files are not as they were written.
    """
    stem = folder / name
    if about["kind"] == "coded":
        return Coded(map_file(Path(f"{stem}.codes"), np.int32, count), list(about["values"]))
    return Packed(
        map_at_random(Path(f"{stem}.starts"), np.int64, count + 1),
        map_at_random(Path(f"{stem}.json"), np.uint8, int(about["bytes"])),
        map_file(Path(f"{stem}.captions"), np.int16, count),
    )


def map_file(path: Path, dtype: Any, count: int, mode: Any = "r") -> np.ndarray:
    """`count` numbers of a file, mapped into memory. Raises ValueError for another size."""
    _check_size(path, dtype, count)
    return np.memmap(path, dtype, mode, shape=(count,)) if count else np.empty(0, dtype)


def map_at_random(path: Path, dtype: Any, count: int) -> np.ndarray:
    """The same for numbers that are read one here, one there: no neighbors are read with them."""
    _check_size(path, dtype, count)
    if not count:
        return np.empty(0, dtype)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    mapped.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(mapped, dtype)


def _check_size(path: Path, dtype: Any, count: int) -> None:
    size, wanted = path.stat().st_size, count * np.dtype(dtype).itemsize
    if size != wanted:
        raise ValueError(f"{path.name}: {size} bytes, expected {wanted}")
