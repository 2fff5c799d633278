"""Examples of any source for curation: small pictures, labels by name, keys by content."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from active_learning.curation.sharing import Sharing
from active_learning.data import classes, images
from active_learning.data import text as texts
from active_learning.data.errors import DataError
from active_learning.data.sources.contents import content_keys, digest, pixel_digests
from active_learning.data.sources.disk_section import DiskSection
from active_learning.data.sources.listing import Listing
from active_learning.data.sources.on_disk import found_size, threads_here
from active_learning.data.sources.source import Source
from active_learning.storage.pieces import Pieces, signature

UNLABELED = classes.MISSING
SIDE = 64  # px: largest side that pictures are read at; the models see 32
BLOCK = 512  # files that are read at once, and that several workers share
READING, READ = "reading pictures", "read-"
Progress = Callable[[float, str], None]


@dataclass(frozen=True, eq=False)
class Loaded:
    """All examples of a training or test set.

    Attributes:
      images: Square views; black where an example cannot be read.
      digests: Of the content, "" where it is no picture that can be read.
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


def load(
    section: Any,
    sharing: Sharing,
    label: str = "",
    text: str = "",
    progress: Progress | None = None,
) -> tuple[Loaded, Loaded | None]:
    """Reads the training and the test set of a source; unreadable examples are kept as such.

    Several workers share the reading of files; arrays in memory are read by each.

    Args:
      section: A source's section, see `data.sources.from_path.section_of`.
      sharing: How blocks of files are shared.
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
            raise train.missing(label)
        known = train.classes(column, section.classes)
        rows = np.arange(len(train.files))
        if not len(rows):
            raise DataError(f"{train.where}: no examples")
        side = min(section.size or SIDE, found_size(train.files, rows, train.where, SIDE))
        whole = len(train.files) + (0 if test is None else len(test.files))
        listed = partial(_listed, column=column, text=text, known=known, side=side, sharing=sharing)
        first = listed(train, tell=lambda done: tell(done / whole, READING))
        if test is None:
            return first, None
        return first, listed(test, tell=lambda done: tell((len(first) + done) / whole, READING))
    opened = section.open()
    return (
        _gathered(opened.train, column, tell, "training"),
        _gathered(opened.test, opened.test_label, tell, "test"),
    )


def _listed(
    listing: Listing,
    column: str,
    text: str,
    known: classes.Classes,
    side: int,
    sharing: Sharing,
    tell: Callable[[int], None],
) -> Loaded:
    files_count = len(listing.files)
    rows = [row for row in range(files_count) if row not in listing.dropped]
    n = len(rows)
    pictures, done = np.zeros((n, side, side, 3), np.uint8), 0
    digests, known_by, problems = np.full(n, "", "U16"), [""] * n, [""] * n
    paths = tuple(listing.files.name(row) for row in rows)
    spans = [rows[start : start + BLOCK] for start in range(0, n, BLOCK)]
    sizes = np.array([listing.files.size(row) for row in rows] if sharing.is_shared else [])
    pieces = Pieces(sharing.work, signature(paths, sizes, side, dict(listing.bad)))
    with ThreadPoolExecutor(threads_here(), "decode") as pool:
        read = sharing.each(
            pieces,
            [f"{READ}{number}" for number in range(len(spans))],
            lambda number: _block(listing, spans[number], side, pool),
        )
        for block in read:
            span = slice(done, done + len(block["pictures"]))
            pictures[span], digests[span] = block["pictures"], block["digests"]
            known_by[span], problems[span] = block["known_by"].tolist(), block["problems"].tolist()
            done = span.stop
            tell(done)
    given = listing.columns.get(column)
    labels = np.full(n, UNLABELED, np.int64)
    if given is not None:
        labels = known.numbers(
            [given[row] for row in rows], f"{listing.where}: column {column!r}"
        ).astype(np.int64)
    ids = np.arange(files_count) if listing.ids is None else np.asarray(listing.ids)
    return Loaded(
        pictures, digests, content_keys(known_by, paths), paths, tuple(problems),
        labels, known.names, _captions(listing, text, rows), ids[rows],
        lambda place: images.decode(listing.files.read(rows[place])),
    )  # fmt: skip


def _block(
    listing: Listing, rows: list[int], side: int, pool: ThreadPoolExecutor
) -> dict[str, np.ndarray]:
    """Pictures and digests of some files, what they are known by, and why one cannot be read."""

    def one(row: int) -> tuple[np.ndarray, str, str, str]:
        picture, digest_of, known_by, problem = black, "", "", ""
        try:
            blob = listing.files.read(row)
            known_by = digest(blob)  # also of what is no picture, as decisions know it
            if row not in listing.bad:
                picture, digest_of = images.decode_view(blob, side), known_by
        except (images.BadImage, OSError) as error:
            problem = " ".join(str(error).split()) or type(error).__name__
        return picture, digest_of, known_by, listing.bad.get(row, problem)

    black = np.zeros((side, side, 3), np.uint8)
    columns = zip(*pool.map(one, rows), strict=True)
    names = ("pictures", "digests", "known_by", "problems")
    return {name: np.array(values) for name, values in zip(names, columns, strict=True)}


def _captions(listing: Listing, column: str, rows: list[int]) -> tuple[tuple[str, ...], ...] | None:
    """All captions of each example; None where no column was asked for."""
    if not column:
        return None
    there = texts.column_of(tuple(listing.columns), column)
    if there is None:
        raise listing.missing(column)
    values = texts.values_of(listing.columns, there)
    return tuple(tuple(texts.captions(values[row])) for row in rows)


def _gathered(source: Source, column: str, tell: Progress, what: str) -> Loaded:
    """A source that hands out arrays: the digest is that of the pixels."""
    n, parts, digests, problems = len(source), [], [], []
    for start in range(0, n, 512):
        batch = source.gather(np.arange(start, min(start + 512, n)))
        bad = batch.get("bad", np.zeros(len(batch["image"]), bool))
        parts.append(_view(batch["image"]))
        found = pixel_digests(batch["image"])
        digests += ["" if broken else one for one, broken in zip(found, bad, strict=True)]
        problems += ["cannot be read" if broken else "" for broken in bad]
        tell(min(start + 512, n) / n, f"reading {what} pictures")
    labels = source.labels(column).astype(np.int64)
    names = source.class_names or tuple(str(number) for number in range(source.num_classes))
    paths = tuple(f"{what} {row}" for row in range(n))
    hashes = np.array(digests)
    return Loaded(
        np.concatenate(parts), hashes, content_keys(digests, paths), paths, tuple(problems),
        labels, names, None,
        np.asarray(source.ids), lambda row: source.gather(np.array([row]))["image"][0],
    )  # fmt: skip


def _view(batch: UInt8[np.ndarray, "b H W C"]) -> UInt8[np.ndarray, "b s s 3"]:
    color = np.repeat(batch, 3, axis=3) if batch.shape[3] == 1 else batch
    if max(color.shape[1:3]) <= SIDE and color.shape[1] == color.shape[2]:
        return color
    return np.stack([images.cover(one, SIDE) for one in color])
