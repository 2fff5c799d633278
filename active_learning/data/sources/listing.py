"""What a folder, table or set of shards holds, before rows are chosen."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int64

from active_learning.data import classes
from active_learning.data.errors import DataError
from active_learning.data.sources.catalog import Catalog
from active_learning.data.sources.files import Files
from active_learning.data.sources.problems import LeftOut, Problems

NOT_KEPT = "columns that are not kept"  # the note that names them, with their types


@dataclass(frozen=True)
class Listing:
    """What a folder, table or set of shards holds."""

    files: Files
    columns: Mapping[str, Sequence[Any]]  # one value an example; None: missing
    where: str
    kind: str
    class_names: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # by column; '': any other column
    ids: Int64[np.ndarray, "n"] | None = None  # None: 0 .. n-1
    notes: Mapping[str, str] = field(
        default_factory=dict
    )  # what concerns no example, e.g. an empty class
    left_out: LeftOut = field(default_factory=LeftOut)
    bad: Mapping[int, str] = field(
        default_factory=dict
    )  # rows that cannot be used, with the reason
    hint: str = ""  # added to the error for a column that is not there
    ids_by: str = "place"  # what the ids are made of: place, bytes, key or stored
    # Rows that a decision leaves out, and a hash of the decisions; see `decided`.
    dropped: frozenset[int] = frozenset()
    decisions: str = ""
    # The index that columns and ids are read from, where they are not in memory.
    catalog: Catalog | None = None

    def names_of(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Returns the class names given for the first of `columns` that has some; () for none."""
        for column in (*columns, ""):
            if self.class_names.get(column):
                return tuple(self.class_names[column])
        return ()

    def classes(self, column: str, count: int = 0) -> classes.Classes:
        """The classes by the rule of data/classes.py; none where the column is not there."""
        if column not in self.columns:
            return classes.Classes(())
        if names := self.names_of([column]):
            return classes.Classes(names, given=True)
        where = f"{self.where}: column {column!r}"
        return classes.of_labels(self.columns[column], count, where)

    def missing(self, column: str) -> DataError:
        """The error for a column that is not there."""
        there = ", ".join(self.columns) or "none"
        others = self.notes.get(NOT_KEPT, "")
        kept_out = re.search(rf"(?:^|, ){re.escape(column)} \((.*?)\)(?:, |$)", others)
        if kept_out:
            return DataError(
                f"{self.where}: column {column!r} holds {kept_out[1]}; a class is a whole number "
                f"or a name; there are: {there}{self.hint}"
            )
        return DataError(f"{self.where}: no column {column!r}; there are: {there}{self.hint}")


def unique_ids(listing: Listing, unused: set[int], problems: Problems) -> Int64[np.ndarray, "n"]:
    """Ids of the rows.

    Of several examples with one id the first stays; the others are counted and join `unused`.
    """
    if listing.ids is None:
        return np.arange(len(listing.files), dtype=np.int64)
    if listing.catalog is not None:
        again = listing.catalog.repeated
    else:
        _, first = np.unique(listing.ids, return_index=True)
        again = np.delete(np.arange(len(listing.ids)), first).tolist()
    unused.update(again)
    for row in again:
        if row in listing.dropped:
            continue
        name = f"{listing.files.name(row)} (row {row})"
        problems.add(name, f"id {listing.ids[row]} occurs more than once")
    return listing.ids


def unusable(listing: Listing, problems: Problems) -> set[int]:
    """Rows left out by decision, and bad ones, which are counted."""
    for row, reason in listing.bad.items():
        if row not in listing.dropped:
            problems.add(listing.files.name(row), reason)
    return set(listing.dropped) | set(listing.bad)
