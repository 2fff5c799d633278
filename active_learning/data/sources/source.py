"""What a data source is: examples by index with stable ids, label columns beside them; and the one that lives in memory."""

import dataclasses
import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32, Int64, Integer, UInt8, UInt32

from active_learning.data.transforms import resize


class DataError(ValueError):
    """Data that cannot be used; one line that names the key, file or value."""


@runtime_checkable
class Source(Protocol):
    """Examples by index. `ids` are local indices; a mixture adds source_index << 48. `image_shape` is (height, width, channels).

    One whose examples can also be seen small has `small` (px, 0: it has not) and `small_view()`, a Source of those views; and
    `gather_small` where they need not be made from the full ones.
    """

    ids: np.ndarray  # (n,) int64
    class_names: tuple[str, ...]  # empty when unknown
    num_classes: int
    image_shape: tuple[int, int, int]
    columns: tuple[str, ...]  # names that `labels` takes

    def __len__(self) -> int: ...

    def gather(self, indices: Integer[np.ndarray, "k"]) -> dict[str, np.ndarray]:
        """Examples at `indices`: image uint8 (k, height, width, channels), a copy. Where images can be damaged also `bad` bool (k,)."""
        ...

    def labels(self, column: str) -> Int32[np.ndarray, "n"]:
        """All labels of one column. Raises DataError when there is no such column, or a label is no class."""
        ...

    def clean_labels(self) -> Int32[np.ndarray, "n"] | None:
        """True labels, or None; used only to report the share of wrong ones."""
        ...

    def describe(self) -> dict:
        """Provenance as JSON, with a hash of the data under 'hash'."""
        ...


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
class Memory:
    """A Source held in memory, or mapped into it. `about` becomes part of `describe()`; `clean_label_column` is '' when the true labels are unknown;
    `small`: px of the view that scorers see, made on the device; `sample`: images (evenly spaced) that hash and statistics read, 0: all.
    """

    image: UInt8[np.ndarray, "n H W C"]
    label_columns: dict[str, np.ndarray]
    num_classes: int
    clean_label_column: str = ""
    class_names: tuple[str, ...] = ()
    about: dict | None = None
    name: str = "data"  # in error messages
    small: int = 0
    sample: int = 0

    def __len__(self) -> int:
        return len(self.image)

    reads_small = False
    weights = ()

    def problems_of(self):
        return ()

    @cached_property
    def ids(self) -> Int64[np.ndarray, "n"]:
        return np.arange(len(self.image), dtype=np.int64)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.image.shape[1:]
        return height, width, channels

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.label_columns)

    @property
    def stats_sample(self) -> int:
        return self.sample or len(self)

    def gather(self, indices: Integer[np.ndarray, "k"]) -> dict[str, np.ndarray]:
        return {"image": np.asarray(self.image[indices])}

    def small_view(self) -> "Memory":
        """The same examples, resized to `small` px."""
        parts = [
            np.asarray(resize(self.image[i : i + 1000], self.small))
            for i in range(0, len(self), 1000)
        ]
        return dataclasses.replace(self, image=np.concatenate(parts), small=0)

    def labels(self, column: str) -> Int32[np.ndarray, "n"]:
        if column not in self.label_columns:
            raise DataError(
                f"{self.name}: no label column {column!r}; there are: {', '.join(self.columns) or 'none'}"
            )
        labels = self.label_columns[column]
        wrong = np.flatnonzero((labels < 0) | (labels >= self.num_classes))
        if len(wrong):
            where = (
                f"{self.name}: column {column!r} has label {labels[wrong[0]]} at index {wrong[0]}"
            )
            raise DataError(f"{where}, outside [0, {self.num_classes})")
        return labels.astype(np.int32)

    def clean_labels(self) -> Int32[np.ndarray, "n"] | None:
        return self.labels(self.clean_label_column) if self.clean_label_column else None

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
        shape = list(self.image_shape)
        seen = {
            "examples": len(self),
            "image_shape": shape,
            "classes": self.num_classes,
            "columns": list(self.columns),
        }
        return {**(self.about or {}), **seen, "hash": self._hash}


def channel_stats(
    source: Source, indices: Integer[np.ndarray, "k"]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of image / 255 over the examples at `indices`, exact up to float64.

    A deviation is at least one grey level (1 / 255), so that dividing by it is safe. Raises DataError for no indices.
    """
    if len(indices) == 0:
        raise DataError("channel_stats: no examples, so no mean and deviation of the channels")
    channels = source.image_shape[2]
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(indices), 1024):  # grey-level counts: exact sums in flat memory
        seen = source.gather(indices[start : start + 1024])
        image = seen["image"][~seen["bad"]] if "bad" in seen else seen["image"]
        for c in range(channels):
            counts[c] += np.bincount(image[..., c].ravel(), minlength=256)
    level = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ level
    variance = (share * (level - mean[:, None]) ** 2).sum(axis=1)
    return tuple(mean.tolist()), tuple(np.maximum(np.sqrt(variance), 1 / 255).tolist())


def split_id(ids: Int64[np.ndarray, "n"]) -> UInt32[np.ndarray, "n 2"]:
    """Ids as two words, [high, low]: what a device without 64-bit integers can carry."""
    words = ids.astype(np.uint64)
    return np.stack([words >> np.uint64(32), words & np.uint64(0xFFFFFFFF)], axis=1).astype(
        np.uint32
    )


def join_id(words: UInt32[np.ndarray, "n 2"]) -> Int64[np.ndarray, "n"]:
    """The inverse of `split_id`."""
    return (
        (words[:, 0].astype(np.uint64) << np.uint64(32)) | words[:, 1].astype(np.uint64)
    ).astype(np.int64)
