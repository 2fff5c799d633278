"""The source whose images stay on disk, read and decoded by a pool of threads when asked for."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32, Int64, Integer, UInt8

from active_learning.data import images, text
from active_learning.data.errors import DataError
from active_learning.data.order import TABLE_LIMIT, hash64
from active_learning.data.rows import AllBut, Rows
from active_learning.data.sources import files as listings
from active_learning.data.sources.catalog import Catalog
from active_learning.data.sources.columns import Selected
from active_learning.data.sources.files import Files
from active_learning.data.sources.problems import Problems
from active_learning.data.sources.source import Source, size_of

LARGEST = 64  # px: the largest size that is found from the images; larger ones are a decision
# Images that mean and deviation of the channels are computed from.
STATS_SAMPLE = 2048
_PROBES = 4096  # rows of a huge set among which one of the same label is looked for


def threads_here(asked: int = 0) -> int:
    """Decoding threads: `asked`, or one for each core that this process may use."""
    if asked:
        return asked
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows do not have it
        return os.cpu_count() or 1


@dataclass(frozen=True, eq=False)
class Disk(Source):
    """The rows `rows` of `files`. Images are the evaluation view at `size` px.

    Indices are places in `rows`; ids are those of the listing.
    """

    files: Files
    rows: Rows
    ids: Int64[np.ndarray, "n"]
    label_columns: Mapping[str, Int32[np.ndarray, "n"]]
    text_columns: Mapping[str, Sequence[Any]]
    num_classes: int
    class_names: tuple[str, ...]
    size: int
    clean_column: str
    problems: Problems
    about: Mapping[str, Any]
    small: int = 0  # px of the small view, 0: none
    threads: int = 0
    shuffle: int = 0
    scaled: bool = False  # whether the images are themselves small views
    # Where arrays that follow from the examples are kept, and a hash of which examples those are.
    catalog: Catalog | None = None
    content: str = ""

    reads_small = True

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the evaluation view."""
        return self.size, self.size, 3

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the label columns."""
        return tuple(self.label_columns)

    @property
    def prepared(self) -> bool:
        """Whether small views are stored with the data (judged by the first example)."""
        return len(self.rows) > 0 and self.files.read_small(int(self.rows[0])) is not None

    @property
    def fetches(self) -> bool:
        """Whether images come from another machine."""
        return self.files.is_remote

    @property
    def stats_sample(self) -> int:
        return STATS_SAMPLE

    def all_rows(self) -> Rows:
        return np.arange(len(self)) if self.catalog is None else AllBut(len(self))

    def kept(
        self, key: str, make: Callable[[], Mapping[str, np.ndarray]]
    ) -> Mapping[str, np.ndarray]:
        return make() if self.catalog is None else self.catalog.kept(f"{self.content} {key}", make)

    @functools.cached_property
    def picture_ids(self) -> Int64[np.ndarray, "n"]:
        """The lowest id among the examples of the same picture."""
        return listings.picture_ids(self.files, self.rows, self.ids)

    def problems_of(self) -> tuple[Problems, ...]:
        return (self.problems,)

    def name(self, index: int) -> str:
        return text.printable(self.files.name(int(self.rows[index])))

    @functools.cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(threads_here(self.threads), "decode")

    def gather(self, indices: Integer[np.ndarray, "k"]) -> dict[str, np.ndarray]:
        """Reads and decodes.

        Returns:
          image: uint8 (k, size, size, 3).
          bad: bool (k,), rows that cannot be read: black, to be replaced; they are counted by name.

        Raises:
          DataError: More than 1 % of the source's examples are bad.
        """
        image, bad = self._decode(indices, self.size, self.scaled)
        return {"image": image, "bad": bad}

    def gather_small(self, indices: Integer[np.ndarray, "k"]) -> dict[str, np.ndarray]:
        """Reads small views (prepared, or by DCT scale) as `image_small`, and `bad`."""
        image, bad = self._decode(indices, self.small, small=True)
        return {"image_small": image, "bad": bad}

    def _decode(
        self, indices: np.ndarray, size: int, small: bool
    ) -> tuple[UInt8[np.ndarray, "k s s 3"], Bool[np.ndarray, "k"]]:
        out, bad = np.zeros((len(indices), size, size, 3), np.uint8), np.zeros(len(indices), bool)

        rows = self.rows[indices]
        files, one = self.files.begin(rows, small), self._small if small else self._image

        def work(start: int) -> list[tuple[int, str]]:
            failed = []
            for at in range(start, min(start + step, len(indices))):
                try:
                    out[at] = one(files, int(rows[at]), size)
                except (images.BadImage, OSError) as error:
                    failed.append((at, reason_of(error)))
            return failed

        step = max(1, min(8, len(indices) // 8))
        for failed in self._pool.map(work, range(0, len(indices), step)):
            for at, reason in failed:
                bad[at] = True
                self.problems.add(self.files.name(int(rows[at])), reason)
        return out, bad

    def small_view(self) -> "Disk":
        """The same examples, whose images are the small views."""
        return (
            dataclasses.replace(self, size=self.small, small=0, scaled=True) if self.small else self
        )

    def expect(self, indices: Integer[np.ndarray, "k"], small: bool = False) -> None:
        self.files.expect(self.rows[indices], small or self.scaled)

    def _image(self, files: Files, row: int, size: int) -> np.ndarray:
        return images.decode_view(files.read(row), size)

    def _small(self, files: Files, row: int, size: int) -> np.ndarray:
        prepared = files.read_small(row)
        if prepared is not None:
            return images.cover(images.decode(prepared), size)
        return images.decode_small(files.read(row), size)

    def labels(self, column: str) -> Int32[np.ndarray, "n"]:
        if not column:  # unlabeled: one stratum
            return np.zeros(len(self), np.int32)
        if column not in self.label_columns:
            there = ", ".join(self.columns) or "none"
            raise DataError(
                f"{self.problems.where}: no label column {column!r}; there are: {there}"
            )
        return self.label_columns[column]

    def texts(self, column: str) -> Sequence[Any]:
        """The values of one column that is no label.

        Raises DataError when there is no such column.
        """
        name = text.column_of(tuple(self.text_columns), column)
        if name is None:
            there = ", ".join(self.text_columns) or "none"
            raise DataError(f"{self.problems.where}: no text column {column!r}; there are: {there}")
        return text.values_of(self.text_columns, name)

    def clean_labels(self) -> Int32[np.ndarray, "n"] | None:
        return self.labels(self.clean_column) if self.clean_column else None

    @functools.cached_property
    def _hash(self) -> str:
        if self.catalog is not None:
            return hashlib.sha256(f"{self.content} {self.columns}".encode()).hexdigest()[:16]
        digest = hashlib.sha256(self.ids.tobytes())
        for row in self.rows:
            digest.update(text.encoded(self.files.name(int(row))) + b"\n")
        for name, values in sorted(self.label_columns.items()):
            digest.update(text.encoded(f"{name} {values.shape}") + values.tobytes())
        return digest.hexdigest()[:16]

    def describe(self) -> dict:
        """Provenance; the hash covers names, ids and labels, not pixels.

        `prepare` writes checksums of pixels.
        """
        return {**self.about, "decoder": images.decoders(), **size_of(self), "hash": self._hash}


def reason_of(error: Exception) -> str:
    """Why an example cannot be used, without its name."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:300] or type(error).__name__


def used(listed: Disk, some_are_not: bool) -> Disk:
    """A source of a whole listing restricted to its `rows`.

    Args:
      listed: Ids, labels and texts are those of the listing.
      some_are_not: Whether rows of the listing are left out.
    """
    if listed.catalog is None:
        everything = dataclasses.replace(listed, rows=np.arange(len(listed.files)))
        return take(everything, np.asarray(listed.rows))
    gaps = listed.rows.without if isinstance(listed.rows, AllBut) else ()
    names = f"{listed.class_names} {sorted(listed.label_columns)}"
    content = f"{listed.catalog.digest} {names} {listed.about.get('decisions', '')} {list(gaps)}"
    content = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
    listed = dataclasses.replace(listed, content=content)
    return _taken(listed, listed.rows, "used") if some_are_not else listed


def take(source: Disk, indices: Integer[np.ndarray, "k"], name: str = "") -> Disk:
    """The examples at `indices` as a source; ids and the count of problems stay.

    Args:
      source: The source.
      indices: Which examples.
      name: Says which these are among all that are taken of the source.
    """
    if source.catalog is not None:
        content = hashlib.sha256(f"{source.content} {name}".encode()).hexdigest()
        one = _taken(source, indices, name)
        return dataclasses.replace(one, rows=source.rows[indices], content=content)
    texts = {name: [values[i] for i in indices] for name, values in source.text_columns.items()}
    return dataclasses.replace(
        source,
        rows=source.rows[indices],
        ids=source.ids[indices],
        label_columns={name: values[indices] for name, values in source.label_columns.items()},
        text_columns=texts,
    )


def _taken(source: Disk, at: Rows, name: str) -> Disk:
    """The source's arrays at some places, kept on the disk."""
    labels = list(source.label_columns)

    def make() -> dict[str, np.ndarray]:
        every = np.asarray(at)
        out = {f"label-{n}": source.label_columns[c][every] for n, c in enumerate(labels)}
        return out | {"ids": source.ids[every]}

    arrays = source.kept(f"taken: {name}", make)
    return dataclasses.replace(
        source,
        ids=arrays["ids"],
        label_columns={c: arrays[f"label-{n}"] for n, c in enumerate(labels)},
        text_columns={c: Selected(values, at) for c, values in source.text_columns.items()},
    )


def stand_in(labels: Int32[np.ndarray, "n"], row: int, attempt: int) -> int:
    """Returns the row that replaces an unreadable one: of the same label.

    It is a function of (row, attempt) only, so that a restart replaces alike.
    """
    if len(labels) > TABLE_LIMIT:  # too many to look at all for one
        tried = (hash64(row, attempt, np.arange(_PROBES)) % np.uint64(len(labels))).astype(np.int64)
        alike = tried[labels[tried] == labels[row]]
        if len(alike):
            return int(alike[0])
    alike = np.flatnonzero(labels == labels[row])
    return int(alike[int(hash64(row, attempt)[0] % np.uint64(len(alike)))])


def found_size(files: Files, rows: Rows, where: str, largest: int = LARGEST) -> int:
    """The median shorter side of 32 images, to the nearest multiple of 16 from 16 to `largest`.

    DataError when none can be read.
    """
    sides, reason = [], None
    tried = rows[np.unique(np.linspace(0, len(rows) - 1, 32).astype(int))]
    files = files.begin(tried)
    for row in tried.tolist():
        try:
            sides.append(min(images.decode(files.read(row)).shape[:2]))
        except (images.BadImage, OSError) as error:
            reason = f"{text.printable(files.name(row))} ({reason_of(error)})"
    if not sides:
        raise DataError(f"{where}: none of the images that were tried can be read: {reason}")
    return int(np.clip(16 * round(float(np.median(sides)) / 16), 16, largest))
