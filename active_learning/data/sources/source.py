"""The interface of data sources with defaults for optional abilities, and the one in memory."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64, Integer, UInt8, UInt32

from active_learning.config import Section
from active_learning.data import classes
from active_learning.data.errors import DataError
from active_learning.data.rows import Rows
from active_learning.data.sources.paths import is_remote
from active_learning.data.sources.problems import Problems
from active_learning.data.transforms import resize


class Source:
    """Examples by index.

    Subclasses give the attributes and methods up to `describe`; the rest is optional and has
    defaults.

    Attributes:
      ids: (n,) int64, unique within the source. A mixture adds source_index << 48.
      class_names: Names of the classes in their order; empty when unknown.
      num_classes: Number of classes.
      image_shape: (height, width, channels) of every image.
      columns: Names that `labels` takes.
      small: px of the small view that scorers may see; 0: there is none.
      reads_small: Whether `gather_small` is cheaper than `gather`, so that candidates are read
        small and only the selected ones in full.
      prepared: Whether small views are stored with the data.
      fetches: Whether images come from another machine, so that `expect` helps.
      shuffle: Examples that are shuffled at a time, in chunks of neighbours; 0: all.
      weights: Fractions of a mixture's sources in the stream of candidates; (): one stream over all
        examples.
    """

    ids: np.ndarray
    class_names: tuple[str, ...]
    num_classes: int
    image_shape: tuple[int, int, int]
    columns: tuple[str, ...]
    small: int = 0
    reads_small: bool = False
    prepared: bool = False
    fetches: bool = False
    shuffle: int = 0
    weights: tuple[float, ...] = ()

    def __len__(self) -> int:
        raise NotImplementedError

    def gather(self, indices: Integer[np.ndarray, "k"]) -> dict[str, np.ndarray]:
        """Reads the examples at `indices`.

        Returns:
          image: uint8 (k, height, width, channels), a copy; and where images can be damaged `bad`:
          bool (k,).
        """
        raise NotImplementedError

    def labels(self, column: str) -> Int32[np.ndarray, "n"]:
        """All class numbers of one column.

        Raises DataError for an unknown column, or a label that is no class.
        """
        raise NotImplementedError

    def describe(self) -> dict:
        """Provenance as JSON, with a hash of the data under 'hash'."""
        raise NotImplementedError

    # What follows is optional.

    @property
    def stats_sample(self) -> int:
        """Images that mean and deviation of the channels are computed from."""
        return len(self)

    def all_rows(self) -> Rows:
        """The numbers of all rows."""
        return np.arange(len(self))

    def kept(
        self, key: str, make: Callable[[], Mapping[str, np.ndarray]]
    ) -> Mapping[str, np.ndarray]:
        """Arrays that follow from the examples and `key`.

        Sources of many examples make them once and map them into memory afterwards.
        """
        return make()

    @property
    def picture_ids(self) -> Int64[np.ndarray, "n"]:
        """The lowest id among the examples of the same picture: what splits keep together."""
        return self.ids

    def clean_labels(self) -> Int32[np.ndarray, "n"] | None:
        """True labels, None when unknown; used only to report the fraction of corrupted ones."""
        return None

    def small_view(self) -> "Source":
        """Returns the source with its small views as images; itself where there are none."""
        return self

    def gather_small(self, indices: Integer[np.ndarray, "k"]) -> dict[str, np.ndarray]:
        """Reads small views.

        Returns `image_small`: uint8 (k, small, small, channels), and `bad` where `gather` has it.
        """
        seen = self.gather(indices)
        return {"image_small": np.asarray(resize(seen.pop("image"), self.small))} | seen

    def expect(self, indices: Integer[np.ndarray, "k"], small: bool = False) -> None:
        """Says what will be read later, for sources that fetch it from elsewhere."""

    def texts(self, column: str) -> Sequence[Any]:
        """The captions (a text or a list of texts) of every example.

        Raises DataError where there are none.
        """
        raise DataError(
            f"config.data: a source of kind {type(self).__name__} has no captions (column "
            f"{column!r}); "
            "image-text pairs come from tars, tables, Parquet or prepared shards"
        )

    def source_of(self, indices: Integer[np.ndarray, "k"]) -> Integer[np.ndarray, "k"]:
        """The number of the source of each example within a mixture."""
        return np.zeros(len(indices), np.int64)

    def problems_of(self) -> tuple[Problems, ...]:
        """What could not be used so far, one count for each listing."""
        return ()

    def name(self, index: int) -> str:
        """A name of an example for messages, e.g. the path of its file."""
        return f"example {index}"

    def class_counts(self, column: str) -> dict[str, int]:
        """Examples of each class in a column, by name in the order of the classes."""
        names = self.class_names or tuple(str(k) for k in range(self.num_classes))
        return classes.counts(self.labels(column), names)


class SourceSection(Section):
    """Base of the config values that open a source; its keys are the fields of the subclass.

    `small` and `label` as there.
    """

    small: int = 0
    label: str = "label"

    def open(self) -> "Opened":
        """Opens training and test set. Raises DataError naming key or file."""
        raise NotImplementedError

    def folder(self) -> Path | None:
        """Returns a folder beside the data for files about them (stored scores), or None."""
        return None

    def moved(self, path: str) -> "SourceSection":
        """The section for the same data at another path; paths below the old one follow.

        Raises:
          DataError: The section has no path, as a mixture.
        """
        section: Any = self  # A dataclass, as all subclasses are.
        places = {f.name: getattr(self, f.name) for f in dataclasses.fields(section)}
        if "path" not in places:
            raise DataError(f"--data={path}: {type(self).__name__} has no path of its own")
        old, changes = str(places["path"]), {"path": path}
        for name in ("test_path", "root"):
            if below := str(places.get(name, "")):
                changes[name] = _rebased(below, old, path)
        return dataclasses.replace(section, **changes)

    def with_text(self, column: str) -> "SourceSection":
        """The section that leaves out, and counts, examples without a caption in `column`."""
        return self


def _rebased(place: str, old: str, new: str) -> str:
    """`place` at the new path where it lies in the old one or beside it, else as it is."""
    if any(map(is_remote, (place, old, new))):
        inside = place.removeprefix(old.rstrip("/") + "/")
        return place if inside == place else f"{new.rstrip('/')}/{inside}"
    for before, now in ((old, new), (os.path.dirname(old), os.path.dirname(new))):
        inside = os.path.relpath(place, before or ".")
        if inside != ".." and not inside.startswith("../"):
            return os.path.normpath(os.path.join(now, inside))
    return place


def check_small(small: int, size: int) -> None:
    """DataError unless a small view of `small` px (0: none) can be made of images of `size` px."""
    if small and not 4 <= small <= size:
        raise DataError(
            f"config.data.small={small}: expected 0, or 4 .. {size} px, the size of the images"
        )


@dataclass(frozen=True)
class Opened:
    """The two sources of a data set. The test set is judged by its column `test_label`."""

    train: Source
    test: Source
    test_label: str


@dataclass(frozen=True, eq=False)
class Memory(Source):
    """A source held in memory, or mapped into it."""

    image: UInt8[np.ndarray, "n H W C"]
    label_columns: dict[str, np.ndarray]
    num_classes: int
    clean_column: str = ""  # column with the true labels; '': unknown
    class_names: tuple[str, ...] = ()
    about: dict | None = None  # becomes part of `describe()`
    location: str = "data"  # in error messages
    small: int = 0  # px of the view that scorers see; made on the device
    sample: int = 0  # images, evenly spaced, that hash and statistics read; 0: all
    problems: Problems | None = None
    stored_ids: np.ndarray | None = None  # None: 0 .. n-1

    def __len__(self) -> int:
        return len(self.image)

    @cached_property
    def ids(self) -> Int64[np.ndarray, "n"]:
        """Those stored with the data, else places."""
        if self.stored_ids is not None:
            return self.stored_ids
        return np.arange(len(self.image), dtype=np.int64)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.image.shape[1:]
        return height, width, channels

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the label columns."""
        return tuple(self.label_columns)

    @property
    def stats_sample(self) -> int:
        return self.sample or len(self)

    def problems_of(self) -> tuple[Problems, ...]:
        return () if self.problems is None else (self.problems,)

    def name(self, index: int) -> str:
        return f"{self.location} {index}"

    def gather(self, indices: Integer[np.ndarray, "k"]) -> dict[str, np.ndarray]:
        return {"image": np.asarray(self.image[indices])}

    def small_view(self) -> "Memory":
        """The same examples, resized to `small` px."""
        if not self.small:
            return self
        resized = [
            np.asarray(resize(self.image[i : i + 1000], self.small))
            for i in range(0, len(self), 1000)
        ]
        return dataclasses.replace(self, image=np.concatenate(resized), small=0)

    def labels(self, column: str) -> Int32[np.ndarray, "n"]:
        if column not in self.label_columns:
            there = ", ".join(self.columns) or "none"
            raise DataError(f"{self.location}: no label column {column!r}; there are: {there}")
        labels = self.label_columns[column]
        outside = np.flatnonzero((labels < 0) | (labels >= self.num_classes))
        if len(outside):
            first = f"column {column!r} has label {labels[outside[0]]} at index {outside[0]}"
            raise DataError(f"{self.location}: {first}, outside [0, {self.num_classes})")
        return labels.astype(np.int32)

    def clean_labels(self) -> Int32[np.ndarray, "n"] | None:
        return self.labels(self.clean_column) if self.clean_column else None

    @cached_property
    def _hash(self) -> str:
        digest = hashlib.sha256()
        image = self.image
        if self.sample and self.sample < len(self):
            digest.update(str(image.shape).encode())
            image = self.image[np.linspace(0, len(self) - 1, self.sample).astype(np.int64)]
        for name, values in (("image", image), *sorted(self.label_columns.items())):
            digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()[:16]

    def describe(self) -> dict:
        return {**(self.about or {}), **size_of(self), "hash": self._hash}


def size_of(source: Source) -> dict:
    """The part of `describe` that every source has."""
    return {
        "examples": len(source),
        "image_shape": list(source.image_shape),
        "classes": source.num_classes,
        "columns": list(source.columns),
    }


def channel_stats(
    source: Source, indices: Integer[np.ndarray, "k"]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each channel of image / 255, exact up to float64.

    A deviation is at least one gray level (1 / 255), so that dividing by it is safe. Raises
    DataError for no indices.
    """
    if len(indices) == 0:
        raise DataError("channel_stats: no examples, so no mean and deviation of the channels")
    channels = source.image_shape[2]
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(indices), 1024):  # gray-level counts: exact sums in flat memory
        seen = source.gather(indices[start : start + 1024])
        image = seen["image"][~seen["bad"]] if "bad" in seen else seen["image"]
        for c in range(channels):
            counts[c] += np.bincount(image[..., c].ravel(), minlength=256)
    level = np.arange(256) / 255
    fraction = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    mean = fraction @ level
    variance = (fraction * (level - mean[:, None]) ** 2).sum(axis=1)
    return tuple(mean.tolist()), tuple(np.maximum(np.sqrt(variance), 1 / 255).tolist())


def split_id(ids: Int64[np.ndarray, "n"]) -> UInt32[np.ndarray, "n 2"]:
    """Ids as two words, [high, low]: what a device without 64-bit integers can carry."""
    words = ids.astype(np.uint64)
    return np.stack([words >> np.uint64(32), words & np.uint64(0xFFFFFFFF)], axis=1).astype(
        np.uint32
    )


def join_id(words: UInt32[np.ndarray, "n 2"]) -> Int64[np.ndarray, "n"]:
    """The inverse of `split_id`."""
    high = words[:, 0].astype(np.uint64) << np.uint64(32)
    return (high | words[:, 1].astype(np.uint64)).astype(np.int64)
