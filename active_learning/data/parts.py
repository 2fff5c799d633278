"""Parts of a split, and the data of a run made of them."""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, Integer

from active_learning.data import splits
from active_learning.data.captions import Captions
from active_learning.data.order import TABLE_LIMIT, Chunked, Interleaved, Order
from active_learning.data.rows import AllBut, Rows, taken
from active_learning.data.sources.on_disk import stand_in
from active_learning.data.sources.source import DataError, Source, split_id
from active_learning.data.stored_rows import COLUMN, PairTables, RowTable

Batch = dict[str, np.ndarray]

# Attempts to replace an unreadable example by another of its class.
REPLACEMENTS = 100


def rows_of_ids(
    ids: Int64[np.ndarray, "n"],
    wanted: Integer[np.ndarray, "*shape"],
    key: str = "",
    sorter: Int64[np.ndarray, "n"] | None = None,
) -> Int64[np.ndarray, "*shape"]:
    """Row numbers of the wanted ids among `ids`.

    Args:
      ids: Distinct ids, in any order.
      wanted: The ids to find.
      key: What asked for them, for the error message.
      sorter: `np.argsort(ids)`, where it is known already.

    Raises:
      DataError: Names `key` and the first id that is not there.
    """
    sorter = np.argsort(ids, kind="stable") if sorter is None else sorter
    wanted = wanted.astype(np.int64)
    places = np.minimum(np.searchsorted(ids, wanted, sorter=sorter), len(ids) - 1)
    rows = sorter[places]
    if len(missing := wanted[ids[rows] != wanted]):
        where = f"{key}: " if key else ""
        raise DataError(
            f"{where}id {missing.flat[0]} and {len(missing) - 1} more are not among these "
            f"{len(ids)} examples"
        )
    return rows


@dataclass(frozen=True)
class Part:
    """Examples of a source under one name of the split; row numbers count within the part."""

    source: Source
    # Rows of the source.
    indices: Rows
    # The labels that this part is used with.
    labels: Int32[np.ndarray, "n"]
    # The true labels where they are known; reports read them, training never does.
    clean_labels: Int32[np.ndarray, "n"] | None
    # Further columns that every batch carries, e.g. stored reference losses.
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    # Captions of the whole source, and the row of the source whose captions each example has.
    captions: Captions | None = None
    caption_of: Rows | None = None
    # Stored features of the whole source, which every batch carries instead of small views.
    features: RowTable | None = None
    # Stored embeddings of a reference for the whole source, which every batch carries.
    embeddings: PairTables | None = None
    # Whether batches carry images; a model on stored features needs none.
    has_images: bool = True

    def __len__(self) -> int:
        return len(self.indices)

    @functools.cached_property
    def ids(self) -> Int64[np.ndarray, "n"]:
        """Ids of the examples, in the part's order."""
        return taken(self.source.ids, self.indices)

    @property
    def picture_ids(self) -> Int64[np.ndarray, "n"]:
        """What splits keep together: the lowest id among the examples of the same picture."""
        return taken(self.source.picture_ids, self.indices)

    @property
    def is_corrupted(self) -> Bool[np.ndarray, "n"] | None:
        """Which labels (or captions) are another example's; None where that is unknown."""
        if self.captions is not None:
            return np.asarray(self.caption_of) != np.asarray(self.indices)
        return None if self.clean_labels is None else self.labels != self.clean_labels

    def select(self, rows: Integer[np.ndarray, "k"] | Bool[np.ndarray, "n"]) -> "Part":
        """The part restricted to these rows."""
        clean, caption_of = self.clean_labels, self.caption_of
        return dataclasses.replace(
            self,
            indices=self.indices[rows],
            labels=self.labels[rows],
            clean_labels=None if clean is None else clean[rows],
            columns={name: values[rows] for name, values in self.columns.items()},
            caption_of=None if caption_of is None else caption_of[rows],
        )

    def with_column(self, name: str, values: np.ndarray) -> "Part":
        """The part whose batches carry one more column."""
        return dataclasses.replace(self, columns={**self.columns, name: values})

    def order(self, seed: int) -> Order | Chunked | Interleaved:
        """The endless order of the part's rows; a weighted mixture interleaves its sources.

        A source that asks for it is shuffled chunk by chunk, see `Chunked`.

        Raises:
          DataError: A weighted source of which no example is in this part.
        """
        weights = self.source.weights
        if 0 < self.source.shuffle < len(self):
            rows = self.indices
            stored = (
                AllBut(len(self)) if isinstance(rows, AllBut) else np.argsort(rows, kind="stable")
            )
            return Chunked(stored, seed, self.source.shuffle)
        if not weights:
            return Order(len(self), seed)
        number = self.source.source_of(np.asarray(self.indices))
        try:
            rows = [np.flatnonzero(number == n) for n in range(len(weights))]
            return Interleaved(rows, weights, seed)
        except ValueError as error:
            raise DataError(f"config.data.weights: {error}") from error

    def expect(self, rows: Integer[np.ndarray, "k"], small: bool = False) -> None:
        """Says which rows will be read later."""
        if self.has_images and not (small and self.features is not None):
            self.source.expect(self.indices[rows], small)

    def images(self, rows: Integer[np.ndarray, "k"]) -> np.ndarray:
        """The full-size images of rows."""
        return self.read(rows)["image"]

    def stored_features(self, rows: Integer[np.ndarray, "k"]) -> Float32[np.ndarray, "k D"]:
        """The stored features of rows. Raises DataError where there are none."""
        if self.features is None:
            raise DataError("no features are stored for this part of the data")
        return self.features.read(self.indices[rows])

    def read(self, rows: Integer[np.ndarray, "k"], small: bool = False) -> Batch:
        """Reads images (or small views) of rows.

        Returns:
          The columns of the source and `rows`, in which each unreadable example is replaced by
          another of its class.

        Raises:
          DataError: No readable example of a class was found.
        """
        gather = self.source.gather_small if small else self.source.gather
        columns, used = gather(self.indices[rows]), rows
        bad = columns.pop("bad", np.zeros(len(rows), bool))
        for attempt in range(REPLACEMENTS):
            if not bad.any():
                return columns | {"rows": used}
            at, used = np.flatnonzero(bad), used.copy()
            used[at] = [stand_in(self.labels, int(row), attempt) for row in rows[at]]
            again = gather(self.indices[used[at]])
            bad[at] = again.pop("bad")
            for name, values in again.items():
                columns[name][at] = values
        label = self.labels[rows[np.flatnonzero(bad)[0]]]
        raise DataError(f"no readable example of label {label} was found")

    @functools.cached_property
    def _sorter(self) -> Int64[np.ndarray, "n"]:
        return np.argsort(self.ids, kind="stable")

    def rows_of(
        self, ids: Integer[np.ndarray, "*shape"], key: str = ""
    ) -> Int64[np.ndarray, "*shape"]:
        """Row numbers of ids of this part. Raises DataError as `rows_of_ids` does."""
        return rows_of_ids(self.ids, ids, key, self._sorter)

    def stats_rows(self) -> Int64[np.ndarray, "k"]:
        """Rows of the source for pixel statistics: all in memory, a fixed sample from disk."""
        sample = self.source.stats_sample
        return self.indices[self.subset(sample)]

    def subset(self, size: int) -> Int64[np.ndarray, "k"]:
        """A fixed stratified subset of rows, the same in every run."""
        if size >= len(self):
            return np.arange(len(self))
        if len(self) > TABLE_LIMIT:  # a random subset of so many needs no strata
            return np.sort(Order(len(self), 0).positions(0, size)[0])
        return np.sort(splits.split(self.labels, {"subset": size}, 0)["subset"])

    def small_view(self) -> "Part":
        """The same examples in their small view; unchanged where there is none."""
        if not self.source.small:
            return self
        return dataclasses.replace(self, source=self.source.small_view())

    def batch(
        self, rows: Integer[np.ndarray, "k"], epochs: Integer[np.ndarray, "k"], small: bool = False
    ) -> Batch:
        """Rows of this part as a batch, in full or in their small view."""
        columns: Batch = {"rows": rows}
        if self.has_images and not (small and self.features is not None):
            columns = self.read(rows, small)
        used = columns.pop("rows")
        ids = self.source.ids[self.indices[used]]
        epochs = epochs.astype(np.int32)
        columns |= {"label": self.labels[used], "id": split_id(ids), "epoch": epochs}
        if self.captions is not None:
            assert self.caption_of is not None  # given with the captions
            given = self.caption_of[used]
            columns["tokens"] = self.captions.draw(given, ids, epochs)
            if self.embeddings is not None:
                places = self.captions.place(given, ids, epochs)
                columns |= self.embeddings.columns(self.indices[used], given, places)
        if self.features is not None:
            columns[COLUMN] = self.stored_features(used)
        return columns | {name: values[used] for name, values in self.columns.items()}


@dataclass(frozen=True)
class Data:
    """What a run trains on and is judged on."""

    # The examples that candidates are drawn from.
    train: Part
    # Every part of the split, and the evaluation sets, by name.
    parts: Mapping[str, Part]
    class_names: tuple[str, ...]
    num_classes: int
    # What the data are (source, size, content hash), written to config.json.
    provenance: dict[str, Any]
