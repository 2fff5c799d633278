"""Sources whose images stay on disk: read and decoded when asked for, at one size, by a pool of threads; what is damaged is counted by name."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int32, Int64, Integer, UInt8

from active_learning.config import Section, setting
from active_learning.data import images, splits
from active_learning.data.order import hash64
from active_learning.data.sources.source import DataError, Opened, check_small

LIMIT = 0.01  # share of a source's examples that may be unusable
MISSING = -1  # a label that is not there, or is no class
LARGEST = 64  # px: the largest size that is found from the images; larger ones are a decision


@runtime_checkable
class Files(Protocol):
    """Where encoded images are. Reading is by index, from any thread; OSError or BadImage cost one example."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes:
        """The encoded image."""
        ...

    def read_small(self, index: int) -> bytes | None:
        """The prepared small view, None where there is none."""
        ...

    def name(self, index: int) -> str:
        """What a person would look for."""
        ...


@dataclass
class Problems:
    """Examples that cannot be used, by name with the reason. More than `limit` (None: LIMIT) of `total` raise DataError with the first ten.

    `notes` are problems that are no example (a class without images); they are only reported.
    """

    where: str
    total: int
    found: dict[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    limit: float | None = None

    def add(self, name: str, reason: str) -> None:
        """Counts an example once, however often it is met. Raises DataError above the limit."""
        self.found.setdefault(name, reason)
        limit = LIMIT if self.limit is None else self.limit
        if len(self.found) > limit * self.total:
            first = "; ".join(
                f"{name} ({reason})" for name, reason in list(self.found.items())[:10]
            )
            count = f"{len(self.found)} of {self.total} examples cannot be used"
            raise DataError(f"{self.where}: {count}, more than {limit:.0%}: {first}")

    def lines(self, most: int = 10) -> list[str]:
        """What to tell a person: each note, the number of examples, the first `most` by name."""
        out = [f"{name}: {reason}" for name, reason in self.notes.items()]
        if self.found:
            out.append(f"{self.where}: {len(self.found)} of {self.total} examples cannot be used")
        out += [f"  {name}: {reason}" for name, reason in list(self.found.items())[:most]]
        return out + ([f"  and {len(self.found) - most} more"] if len(self.found) > most else [])


@dataclass(frozen=True)
class Listing:
    """What a folder, table or set of shards holds: `columns` have one value an example (str, int, list of str, or None: missing)."""

    files: Files
    columns: Mapping[str, Sequence[Any]]
    where: str
    kind: str
    class_names: tuple[str, ...] = ()  # () : found from the labels
    ids: Int64[np.ndarray, "n"] | None = None  # None: 0 .. n-1
    notes: Mapping[str, str] = field(
        default_factory=dict
    )  # problems that are no example, e.g. an empty class


@dataclass(frozen=True, eq=False)
class Disk:
    """A Source of the rows `rows` of `files`. Images are the evaluation view at `size` px.

    `small`: size of the small view, 0 for none; `scaled`: the images are themselves small views. Local indices and ids are 0 .. n-1 of
    the rows unless ids are stored with the data.
    """

    files: Files
    rows: Int64[np.ndarray, "n"]
    ids: Int64[np.ndarray, "n"]
    label_columns: Mapping[str, Int32[np.ndarray, "n"]]
    text_columns: Mapping[str, Sequence[Any]]
    num_classes: int
    class_names: tuple[str, ...]
    size: int
    small: int
    clean_label_column: str
    problems: Problems
    about: Mapping[str, Any]
    threads: int = 0
    scaled: bool = False
    stats_sample = 2048  # images that mean and deviation of the channels are computed from

    weights = ()

    @property
    def reads_small(self) -> bool:
        return bool(self.small)

    def problems_of(self):
        return (self.problems,)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.size, self.size, 3

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.label_columns)

    @property
    def prepared(self) -> bool:
        """Whether small views are stored with the data (judged by the first example)."""
        return self.files.read_small(int(self.rows[0])) is not None

    @functools.cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads or len(os.sched_getaffinity(0)), "decode")

    def gather(self, indices: Integer[np.ndarray, "k"]) -> dict[str, np.ndarray]:
        """Image uint8 (k, size, size, 3), and `bad` bool (k,): rows that cannot be read (black, to be replaced; their names are counted).

        Raises DataError when more than 1 % of the source's examples are bad.
        """
        image, bad = self._decode(indices, self.size, self._small if self.scaled else self._image)
        return {"image": image, "bad": bad}

    def gather_small(self, indices: Integer[np.ndarray, "k"]) -> dict[str, np.ndarray]:
        """image_small uint8 (k, small, small, 3), from the prepared view or by DCT scale, and `bad`."""
        image, bad = self._decode(indices, self.small, self._small)
        return {"image_small": image, "bad": bad}

    def _decode(
        self, indices: np.ndarray, size: int, one: Callable
    ) -> tuple[UInt8[np.ndarray, "k s s 3"], Bool[np.ndarray, "k"]]:
        out, bad = np.zeros((len(indices), size, size, 3), np.uint8), np.zeros(len(indices), bool)

        def work(start: int) -> list[tuple[int, str]]:
            failed = []
            for at in range(start, min(start + step, len(indices))):
                try:
                    out[at] = one(int(self.rows[indices[at]]), size)
                except (images.BadImage, OSError) as error:
                    failed.append((at, f"{error}" or type(error).__name__))
            return failed

        step = max(1, min(8, len(indices) // 8))
        for failed in self._pool.map(work, range(0, len(indices), step)):
            for at, reason in failed:
                bad[at] = True
                self.problems.add(self.files.name(int(self.rows[indices[at]])), reason)
        return out, bad

    def small_view(self) -> "Disk":
        """The same examples, whose images are the small views."""
        return dataclasses.replace(self, size=self.small, small=0, scaled=True)

    def _image(self, row: int, size: int) -> np.ndarray:
        return images.decode_view(self.files.read(row), size)

    def _small(self, row: int, size: int) -> np.ndarray:
        prepared = self.files.read_small(row)
        if prepared is not None:
            return images.cover(images.decode(prepared), size)
        return images.decode_small(self.files.read(row), size)

    def labels(self, column: str) -> Int32[np.ndarray, "n"]:
        if not column:  # unlabelled: one stratum
            return np.zeros(len(self), np.int32)
        if column not in self.label_columns:
            there = ", ".join(self.columns) or "none"
            raise DataError(
                f"{self.problems.where}: no label column {column!r}; there are: {there}"
            )
        return self.label_columns[column]

    def texts(self, column: str) -> Sequence[Any]:
        """All captions of one column: a string an example, or a list of them. Raises DataError when there is no such column."""
        if column not in self.text_columns:
            there = ", ".join(self.text_columns) or "none"
            raise DataError(f"{self.problems.where}: no text column {column!r}; there are: {there}")
        return self.text_columns[column]

    def clean_labels(self) -> Int32[np.ndarray, "n"] | None:
        return self.labels(self.clean_label_column) if self.clean_label_column else None

    @functools.cached_property
    def _hash(self) -> str:
        digest = hashlib.sha256(self.ids.tobytes())
        for row in self.rows.tolist():
            digest.update(self.files.name(row).encode() + b"\n")
        for name, values in sorted(self.label_columns.items()):
            digest.update(f"{name} {values.shape}".encode() + values.tobytes())
        return digest.hexdigest()[:16]

    def describe(self) -> dict:
        """Provenance; the hash covers names, ids and labels, not pixels (`prepare` writes checksums of those)."""
        shape = list(self.image_shape)
        seen = {
            "examples": len(self),
            "image_shape": shape,
            "classes": self.num_classes,
            "columns": list(self.columns),
        }
        return {**self.about, "decoder": images.decoders(), **seen, "hash": self._hash}


@dataclass(frozen=True)
class DiskSection(Section):
    """Keys that all sources on disk share."""

    path: str = ""
    size: int = 64  # px: images are resized to cover size x size, and the centre is cut; 0: their own, at most LARGEST
    small: int = 0  # px of the view that scorers see, 0: the same view (see docs/data.md)
    label: str = "label"  # column trained on; '': there is none (captions only)
    clean_label: str = ""  # column with the true labels, for reports and the test set; '': unknown
    text: str = ""  # column that must hold a caption; '': captions may be missing
    classes: int = 0  # 0: found from the data
    holdout: float = 0.1  # share that becomes the test set, stratified, by id, where the data bring none of their own
    threads: int = setting(0, hashed=False)  # decoding threads, 0: one a core

    def check(self) -> None:
        """Raises DataError naming the first key that cannot be."""
        if not self.path:
            raise DataError("config.data.path='': give the path of your data")
        if self.size and not 8 <= self.size <= 4096:
            raise DataError(
                f"config.data.size={self.size}: expected 8 .. 4096 px, or 0 (found from the images)"
            )
        check_small(self.small, self.size or LARGEST)
        if not 0 < self.holdout < 1:
            raise DataError(f"config.data.holdout={self.holdout}: expected a share between 0 and 1")

    def listings(self) -> tuple[Listing, Listing | None]:
        """The training examples, and the test examples where the data bring some. Raises DataError or OSError."""
        raise NotImplementedError

    def checked_listings(self) -> tuple[Listing, Listing | None]:
        """`listings` after a look at the keys; whatever cannot be read is a DataError naming key, file or folder."""
        self.check()
        try:
            return self.listings()
        except OSError as error:
            why = (
                "no permission to read it"
                if isinstance(error, PermissionError)
                else error.strerror or str(error)
            )
            raise DataError(f"{error.filename or self.path}: {why}") from error

    def open(self) -> Opened:
        """Lists and checks; of images at most a few are read, to find their size. Raises DataError naming key, file or folder."""
        return self._opened(*self.checked_listings())

    def _opened(self, train: Listing, test: Listing | None) -> Opened:
        """Both sources; without a test listing a share of the training examples is held out."""
        names = _class_names([one for one in (train, test) if one is not None], self)
        made = self._source(train, names)
        made = dataclasses.replace(
            made, size=self.size or found_size(made.files, made.rows, made.problems.where)
        )
        check_small(self.small, made.size)
        if test is not None:
            return Opened(
                made,
                dataclasses.replace(self._source(test, names), size=made.size),
                self.clean_label or self.label,
            )
        count = max(1, round(self.holdout * len(made)))
        if count >= len(made):
            raise DataError(
                f"{train.where}: {len(made)} examples are too few to hold out {self.holdout:.0%} as a test set"
            )
        strata = made.labels(self.label) if self.label else np.zeros(len(made), np.int32)
        held = splits.split(strata, {"test": count, "train": len(made) - count})
        return Opened(take(made, held["train"]), take(made, held["test"]), self.clean_label or self.label)

    def _source(self, listing: Listing, names: tuple[str, ...]) -> Disk:
        n = len(listing.files)
        if n == 0:
            raise DataError(f"{listing.where}: no examples")
        problems = Problems(listing.where, n, notes=listing.notes)
        wanted = [column for column in (self.label, self.clean_label) if column]
        for column in wanted:
            if column not in listing.columns:
                there = ", ".join(listing.columns) or "none"
                raise DataError(f"{listing.where}: no column {column!r}; there are: {there}")
        labels = {column: _numbers(listing.columns[column], names) for column in wanted}
        keep = np.ones(n, bool)
        for column in wanted:
            for row in np.flatnonzero(labels[column] == MISSING):
                keep[row] = False
                value = listing.columns[column][row]
                problems.add(listing.files.name(int(row)), f"{column} {value!r} is no class")
        if self.text:
            if self.text not in listing.columns:
                raise DataError(
                    f"{listing.where}: no column {self.text!r}; there are: {', '.join(listing.columns)}"
                )
            for row, value in enumerate(listing.columns[self.text]):
                if not value:
                    keep[row] = False
                    problems.add(listing.files.name(row), f"no {self.text}")
        ids = unique_ids(listing, keep, problems)
        rows = np.flatnonzero(keep)
        texts = {c: [v[i] for i in rows] for c, v in listing.columns.items() if c not in wanted}
        about = {"kind": listing.kind, "where": os.path.basename(listing.where.rstrip("/"))}
        kept = {column: values[rows] for column, values in labels.items()}
        classes = len(names)
        return Disk(
            listing.files, rows, ids[rows], kept, texts, classes, names, self.size, self.small, self.clean_label, problems, about, self.threads
        )  # fmt: skip


def found_size(
    files: Files, rows: Int64[np.ndarray, "n"], where: str, largest: int = LARGEST
) -> int:
    """The median shorter side of 32 images, to the nearest multiple of 16 from 16 to `largest`. Raises DataError when none can be read."""
    sides, reason = [], None
    for row in rows[np.unique(np.linspace(0, len(rows) - 1, 32).astype(int))].tolist():
        try:
            sides.append(min(images.decode(files.read(row)).shape[:2]))
        except (images.BadImage, OSError) as error:
            reason = f"{files.name(row)} ({error})"
    if not sides:
        raise DataError(f"{where}: none of the images that were tried can be read: {reason}")
    return int(np.clip(16 * round(float(np.median(sides)) / 16), 16, largest))


def stand_in(labels: Int32[np.ndarray, "n"], row: int, attempt: int) -> int:
    """The row that replaces an unreadable one: of the same label, a function of (row, attempt) only, so a restart replaces alike."""
    alike = np.flatnonzero(labels == labels[row])
    return int(alike[int(hash64(row, attempt)[0] % np.uint64(len(alike)))])


def take(source: Disk, indices: Int64[np.ndarray, "k"]) -> Disk:
    """The examples at `indices` as a source of their own; ids and the count of problems stay those of the whole."""
    return dataclasses.replace(
        source,
        rows=source.rows[indices],
        ids=source.ids[indices],
        label_columns={name: values[indices] for name, values in source.label_columns.items()},
        text_columns={
            name: [values[i] for i in indices] for name, values in source.text_columns.items()
        },
    )


def unique_ids(listing: Listing, keep: np.ndarray, problems: Problems) -> np.ndarray:
    """Ids; of several examples with one id the first stays, `keep` becomes False for the others."""
    if listing.ids is None:
        return np.arange(len(listing.files), dtype=np.int64)
    _, first = np.unique(listing.ids, return_index=True)
    again = np.ones(len(listing.ids), bool)
    again[first] = False
    for row in np.flatnonzero(again):
        keep[row] = False
        problems.add(
            f"{listing.files.name(int(row))} (row {row})",
            f"id {listing.ids[row]} occurs more than once",
        )
    return listing.ids


def _class_names(listings: list[Listing], section: DiskSection) -> tuple[str, ...]:
    """Names of all classes in their order: given with the data, or the numbers 0 .. max, or the sorted names of the training labels."""
    if listings[0].class_names:
        return listings[0].class_names
    values = [
        v
        for c in (section.label, section.clean_label)
        if c
        for v in listings[0].columns.get(c, ())
        if _said(v)
    ]
    numbers = [_number(v) for v in values]
    if all(n is not None for n in numbers):
        found = section.classes or 1 + max((n for n in numbers if n is not None), default=-1)
        return tuple(str(n) for n in range(found))
    names = tuple(sorted({str(v).strip() for v in values}))
    if section.classes and len(names) != section.classes:
        where = f"{listings[0].where} has {len(names)} different labels"
        raise DataError(f"config.data.classes={section.classes}: {where}")
    return names


def _said(value: Any) -> bool:
    return value is not None and str(value).strip() != ""


def _number(value: Any) -> int | None:
    text = str(value).strip()
    return int(text) if text.lstrip("-").isdigit() and len(text) < 10 else None


def _numbers(values: Sequence[Any], names: tuple[str, ...]) -> Int32[np.ndarray, "n"]:
    """Class numbers; MISSING for what is no class. Labels are the names, or numbers where the names are."""
    known = {name: number for number, name in enumerate(names)}
    out = [known.get(str(v).strip(), MISSING) if _said(v) else MISSING for v in values]
    if any(n == MISSING for n in out) and all(_number(name) is None for name in names):
        out = [
            n if n != MISSING else _as_number(v, len(names))
            for n, v in zip(out, values, strict=True)
        ]
    return np.asarray(out, np.int32)


def _as_number(value: Any, classes: int) -> int:
    number = _number(value)
    return number if number is not None and 0 <= number < classes else MISSING
