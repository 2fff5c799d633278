"""Row numbers of large sets, without an array of them."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Int64

_CHUNK = 1 << 20  # numbers that are made at a time


class AllBut:
    """The numbers 0 .. n-1 without a few, as an array that takes no memory for each number.

    Indexed by integers and integer arrays like an array of int64; `np.asarray` makes one.

    Attributes:
      without: The numbers that are left out, ascending.
    """

    dtype = np.dtype(np.int64)

    def __init__(self, n: int, without: Iterable[int] = ()):
        self.without = np.array(sorted(set(without)), np.int64).reshape(-1)
        self._end = n
        # Left out before the k-th one are k others, so it follows that many numbers that stay.
        self._stay_before = self.without - np.arange(len(self.without))

    def __len__(self) -> int:
        return self._end - len(self.without)

    @property
    def shape(self) -> tuple[int]:
        """As of an array."""
        return (len(self),)

    def __getitem__(self, at: Any) -> Any:
        """The numbers at these places (integers, an array of them, a mask or a slice)."""
        if isinstance(at, slice):
            at = np.arange(*at.indices(len(self)))
        places = np.asarray(at)
        if places.dtype == bool:
            places = np.flatnonzero(places)
        places = np.where(places < 0, places + len(self), places).astype(np.int64)
        if places.size and not (places.min() >= 0 and places.max() < len(self)):
            raise IndexError(f"a place outside of {len(self)} rows")
        return places + np.searchsorted(self._stay_before, places, side="right")

    def __iter__(self) -> Iterator[int]:
        for start in range(0, len(self), _CHUNK):
            yield from self[start : start + _CHUNK].tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or np.int64, copy=False)


# Row numbers of a source: an array, or all of them (but a few).
Rows = Int64[np.ndarray, "n"] | AllBut


def taken(values: np.ndarray, rows: Rows) -> np.ndarray:
    """`values[rows]`; without a copy where these are all rows."""
    if isinstance(rows, AllBut) and len(rows) == len(values) and not len(rows.without):
        return values
    return values[np.asarray(rows)]
