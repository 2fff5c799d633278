"""The examples of any source as curation sees them: small pictures, labels by name, keys by content."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from active_learning.curation.duplicates import digest
from active_learning.data import images
from active_learning.data.sources.disk_section import DiskSection, Listing, found_size
from active_learning.data.sources.source import DataError, Source

UNLABELED = -1
SIDE = 64  # px: largest side that pictures are read at; the models see 32
Progress = Callable[[float, str], None]


@dataclass(frozen=True, eq=False)
class Loaded:
    """All examples of a training or test set.

    Attributes:
      images: Square views; black where an example cannot be read.
      digests: Of the content, "" where it cannot be read.
      keys: Identity by content, unique: the second of two copies is DIGEST.1.
      paths: Where a person finds them.
      problems: Why an example cannot be read, "" for the others.
      labels: Numbers of `names`, UNLABELED where there is no label.
      names: Of the classes.
      captions: All captions of each example; None for a set without them.
      ids: Of the source.
      picture: Reads one example at its full size.
    """

    images: UInt8[np.ndarray, "n s s C"]
    digests: np.ndarray
    keys: tuple[str, ...]
    paths: tuple[str, ...]
    problems: tuple[str, ...]
    labels: Int64[np.ndarray, "n"]
    names: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...] | None
    ids: Int64[np.ndarray, "n"]
    picture: Callable[[int], UInt8[np.ndarray, "h w c"]]

    def __len__(self) -> int:
        return len(self.paths)

    def given(self, row: int) -> str:
        """The given label by name, or the first caption; "" for neither."""
        if self.captions is not None:
            return self.captions[row][0] if self.captions[row] else ""
        return "" if self.labels[row] == UNLABELED else self.names[self.labels[row]]


def content_keys(digests: Sequence[str], paths: Sequence[str]) -> tuple[str, ...]:
    """A unique key for every example: the digest, with .1, .2 ... for further copies in order of paths.

    Unreadable examples (no digest) are known by their path.
    """
    keys, seen = [""] * len(paths), {}
    for row in sorted(range(len(paths)), key=lambda r: (paths[r], r)):
        base = digests[row] or "path-" + digest(paths[row].encode())
        count = seen.get(base, 0)
        seen[base] = count + 1
        keys[row] = f"{base}.{count}" if count else base
    return tuple(keys)


def load(
    section: Any, label: str = "", text: str = "", progress: Progress | None = None
) -> tuple[Loaded, Loaded | None]:
    """Reads the training and the test set of a source; unreadable examples are kept as such.

    Args:
      section: A source's section, see `data.sources.from_path.section_of`.
      label: Column of the labels; "": the section's own, if the data have it.
      text: Column of the captions; "": the section's own.
      progress: Called with (share read, what).

    Raises:
      DataError: naming the path, key or column.
    """
    keys = vars(section)
    column = label or keys.get("label") or "label"
    text = text or keys.get("text") or ""
    tell = progress or (lambda share, what: None)
    if isinstance(section, DiskSection):
        train, test = section.checked_listings()
        if label and label not in train.columns:
            there = ", ".join(train.columns) or "none"
            raise DataError(f"{train.where}: no column {label!r}; there are: {there}")
        names = class_names(train, column)
        rows = np.arange(len(train.files))
        if not len(rows):
            raise DataError(f"{train.where}: no examples")
        side = min(section.size or SIDE, found_size(train.files, rows, train.where, SIDE))
        whole = len(train.files) + (0 if test is None else len(test.files))
        first = _listed(train, column, text, names, side, tell, 0, whole)
        if test is None:
            return first, None
        return first, _listed(test, column, text, names, side, tell, len(first), whole)
    opened = section.open()
    return (
        _gathered(opened.train, column, tell, "training"),
        _gathered(opened.test, opened.test_label, tell, "test"),
    )


def class_names(listing: Listing, column: str) -> tuple[str, ...]:
    """Names given with the data, or the labels in sorted order, by number where all are numbers."""
    if column not in listing.columns:
        return ()
    values = {str(v).strip() for v in listing.columns[column] if v is not None and str(v).strip()}
    if listing.class_names and all(
        v in listing.class_names or _is_place(v, len(listing.class_names)) for v in values
    ):
        return tuple(listing.class_names)
    if all(v.isdigit() and len(v) < 10 for v in values):
        return tuple(sorted(values, key=int))
    return tuple(sorted(values))


def _is_place(value: str, classes: int) -> bool:
    return value.isdigit() and len(value) < 10 and int(value) < classes


def _numbers(values: Sequence[Any], names: tuple[str, ...]) -> Int64[np.ndarray, "n"]:
    place = {name: number for number, name in enumerate(names)}
    out = np.full(len(values), UNLABELED, np.int64)
    for row, value in enumerate(values):
        text = "" if value is None else str(value).strip()
        if text in place:
            out[row] = place[text]
        elif _is_place(text, len(names)):  # a number into names that came with the data
            out[row] = int(text)
    return out


def _listed(
    listing: Listing,
    column: str,
    text: str,
    names: tuple[str, ...],
    side: int,
    tell: Progress,
    before: int,
    whole: int,
) -> Loaded:
    n = len(listing.files)
    pictures = np.zeros((n, side, side, 3), np.uint8)
    digests, problems = np.full(n, "", "U16"), [""] * n
    paths = tuple(listing.files.name(row) for row in range(n))

    def one(row: int) -> None:
        try:
            blob = listing.files.read(row)
            pictures[row] = images.decode_view(blob, side)
            digests[row] = digest(blob)
        except (images.BadImage, OSError) as error:
            problems[row] = " ".join(str(error).split()) or type(error).__name__

    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), "decode") as pool:
        for start in range(0, n, 512):
            list(pool.map(one, range(start, min(start + 512, n))))
            tell((before + min(start + 512, n)) / whole, "reading pictures")
    given = listing.columns.get(column)
    labels = np.full(n, UNLABELED, np.int64) if given is None else _numbers(given, names)
    captions = None
    if text and text in listing.columns:
        captions = tuple(map(_texts, listing.columns[text]))
    ids = np.arange(n) if listing.ids is None else np.asarray(listing.ids)
    return Loaded(
        pictures, digests, content_keys(digests, paths), paths, tuple(problems), labels, names, captions, ids,
        lambda row: images.decode(listing.files.read(row)),
    )  # fmt: skip


def _texts(value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(str(v) for v in value or ())
    return tuple(one.strip() for one in texts if one.strip())


def _gathered(source: Source, column: str, tell: Progress, what: str) -> Loaded:
    """A source that hands out arrays: the digest is that of the pixels."""
    n, parts, digests, problems = len(source), [], [], []
    for start in range(0, n, 512):
        batch = source.gather(np.arange(start, min(start + 512, n)))
        bad = batch.get("bad", np.zeros(len(batch["image"]), bool))
        parts.append(_view(batch["image"]))
        shape = str(batch["image"].shape[1:]).encode()
        digests += [
            "" if broken else digest(shape + one.tobytes())
            for one, broken in zip(batch["image"], bad, strict=True)
        ]
        problems += ["cannot be read" if broken else "" for broken in bad]
        tell(min(start + 512, n) / n, f"reading {what} pictures")
    labels = source.labels(column).astype(np.int64)
    names = source.class_names or tuple(str(number) for number in range(source.num_classes))
    paths = tuple(f"{what} {row}" for row in range(n))
    texts = np.array(digests)
    return Loaded(
        np.concatenate(parts), texts, content_keys(digests, paths), paths, tuple(problems), labels, names, None,
        np.asarray(source.ids), lambda row: source.gather(np.array([row]))["image"][0],
    )  # fmt: skip


def _view(batch: UInt8[np.ndarray, "b H W C"]) -> UInt8[np.ndarray, "b s s 3"]:
    color = np.repeat(batch, 3, axis=3) if batch.shape[3] == 1 else batch
    if max(color.shape[1:3]) <= SIDE and color.shape[1] == color.shape[2]:
        return color
    return np.stack([images.cover(one, SIDE) for one in color])

