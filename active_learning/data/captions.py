"""Captions beside images: tokenized on the host, one of an image's drawn by (id, epoch)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32, Int64, Integer

from active_learning.data import text
from active_learning.data.errors import DataError
from active_learning.data.order import hash64
from active_learning.data.sources.columns import OBJECTS, caption_counts
from active_learning.data.sources.source import Source
from active_learning.data.tokenizer import Tokenizer

_SAMPLE = 2048  # examples by which it is estimated how many captions are cut


@dataclass(frozen=True, eq=False)
class Captions:
    """All captions of a source, of which example i has `counts[i]`.

    Attributes:
      tokens: Token ids of all captions; None: the set is large, and they are made when drawn.
      counts: Captions of each example.
      texts: Their texts.
      cut: Captions that are longer than the context; of a large set an estimate.
      context: Token ids of a caption.
      tokenizer: What makes them.
      content: Says which captions these are, where they are not all in memory.
    """

    tokens: Integer[np.ndarray, "n k context"] | None
    counts: Integer[np.ndarray, "n"]
    texts: Sequence[Sequence[str]]
    cut: int
    context: int
    tokenizer: Tokenizer
    content: str = ""

    def content_hash(self) -> str:
        """Hash of all captions as token ids, and of their tokenizer."""
        digest = hashlib.sha256(self.tokenizer.about.encode())
        if self.tokens is None:
            digest.update(f"{self.content} {self.context}".encode())
            return digest.hexdigest()[:16]
        digest.update(self.counts.tobytes())
        valid = np.arange(self.tokens.shape[1])[None] < self.counts[:, None]
        digest.update(np.ascontiguousarray(self.tokens[valid].astype(np.int32)).tobytes())
        return digest.hexdigest()[:16]

    def encode(self, texts: Sequence[str]) -> Int32[np.ndarray, "n context"]:
        """Encodes other texts as token ids of the same kind."""
        return self.tokenizer.encode(texts, self.context)[0]

    def of(self, rows: Integer[np.ndarray, "b"]) -> Int32[np.ndarray, "m context"]:
        """Token ids of all captions of these examples, one after the other."""
        if self.tokens is None:
            return self.encode([caption for row in rows for caption in self.texts[int(row)]])
        valid = np.arange(self.tokens.shape[1])[None] < self.counts[rows, None]
        return self.tokens[rows][valid].astype(np.int32)

    def draw(
        self,
        rows: Integer[np.ndarray, "b"],
        ids: Int64[np.ndarray, "b"],
        epochs: Integer[np.ndarray, "b"],
    ) -> Int32[np.ndarray, "b context"]:
        """One caption of each row, a function of (id, epoch) alone."""
        if self.tokens is None:
            return self.encode(self.drawn_text(rows, ids, epochs))
        return self.tokens[rows, self.place(rows, ids, epochs)].astype(np.int32)

    def place(self, rows: np.ndarray, ids: np.ndarray, epochs: np.ndarray) -> np.ndarray:
        """Which caption of each row `draw` takes, counted from 0."""
        return (hash64(0xCA97, ids, epochs) % self.counts[rows].astype(np.uint64)).astype(np.int64)

    def drawn_text(self, rows: np.ndarray, ids: np.ndarray, epochs: np.ndarray) -> list[str]:
        """The text of what `draw` returns."""
        places = self.place(rows, ids, epochs)
        return [self.texts[int(row)][int(at)] for row, at in zip(rows, places, strict=True)]


class OnDisk(Sequence[list[str]]):
    """The captions in a column that is on the disk, cleaned when they are read.

    Attributes:
      counts: Captions of each example.
    """

    def __init__(self, values: Sequence[Any], counts: Integer[np.ndarray, "n"]):
        self._values, self.counts = values, counts

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, row: Any) -> Any:
        return text.captions(self._values[row])


def texts_of(source: Source, column: str) -> Sequence[list[str]]:
    """The captions of every example, cleaned (see `data.text`).

    Args:
      source: The source.
      column: Column with a caption, or a list of captions; 'COLUMN.KEY' for a column of objects.

    Raises:
      DataError: The source has no such column, its values are objects, or an example has
        no caption.
    """

    def cleaned(row: int, value: Any) -> list[str]:
        try:
            return text.captions(value)
        except DataError as error:
            raise DataError(
                f"config.data: column {column!r} of {source.name(row)} holds {error}"
            ) from error

    values = source.texts(column)
    counts = caption_counts(values)
    if counts is None:
        texts = [cleaned(row, value) for row, value in enumerate(values)]
        empty = [row for row, captions in enumerate(texts) if not captions]
    else:
        texts, empty = OnDisk(values, counts), np.flatnonzero(counts == 0).tolist()
        for row in np.flatnonzero(counts == OBJECTS)[:1].tolist():
            cleaned(row, values[row])
    if empty:
        first = f"{source.name(empty[0])} and {len(empty) - 1} more"
        raise DataError(
            f"config.data: {first} have no caption in column {column!r}; "
            f"config.data.text={column!r} leaves them out"
        )
    return texts


def some_of(texts: Sequence[list[str]], most: int) -> list[str]:
    """All captions; of a set on the disk, those of `most` examples from all over it."""
    if not isinstance(texts, OnDisk) or len(texts) <= most:
        return [caption for captions in texts for caption in captions]
    rows = np.linspace(0, len(texts) - 1, most).astype(np.int64)
    return [caption for row in rows.tolist() for caption in texts[row]]


def tokenize(
    texts: Sequence[list[str]], tokenizer: Tokenizer, context: int, content: str = ""
) -> Captions:
    """Every caption as token ids, in the smallest integer type that holds them.

    Args:
      texts: The captions of every example; of a set on the disk they are encoded when drawn.
      tokenizer: What makes token ids.
      context: Their number.
      content: Says which captions these are, for those on the disk.
    """
    flat, cut = tokenizer.encode(some := some_of(texts, _SAMPLE), context)
    if isinstance(texts, OnDisk):
        cut = round(cut / max(1, len(some)) * int(texts.counts.sum(dtype=np.int64)))
        return Captions(None, texts.counts, texts, cut, context, tokenizer, content)
    counts = np.array([len(captions) for captions in texts], np.int64)
    kind = np.uint16 if tokenizer.size <= 1 << 16 else np.int32
    tokens = np.full((len(texts), int(counts.max()), context), tokenizer.pad, kind)
    tokens[np.arange(tokens.shape[1])[None] < counts[:, None]] = flat
    return Captions(tokens, counts, texts, cut, context, tokenizer)


def shuffled(ids: Int64[np.ndarray, "n"], fraction: float, seed: int = 0) -> Int64[np.ndarray, "n"]:
    """Returns the caption row of each example after shuffling a fraction of them, drawn by id.

    The shuffled ones are permuted in a circle, the rest is unchanged.

    No example of the circle keeps its own caption; a circle of one would, so there is none.
    """
    out = np.arange(len(ids))
    order = np.argsort(hash64(0x5417, seed, ids), kind="stable")[: round(fraction * len(ids))]
    if len(order) > 1:
        out[order] = np.roll(order, 1)
    return out


def mentioned(texts: Sequence[Sequence[str]], words: Sequence[str]) -> Int64[np.ndarray, "n"]:
    """Returns the word that most of an example's captions mention, as a number; -1 for none.

    Fewer than half of the captions may mention any other word.
    """
    hits = np.array(
        [
            [sum(_mentions(caption, word) for caption in captions) for word in words]
            for captions in texts
        ]
    )
    half = np.array([len(captions) for captions in texts])[:, None] / 2
    most: Bool[np.ndarray, "n c"] = hits > half
    clear = (most.sum(axis=1) == 1) & ((hits >= half).sum(axis=1) == 1)
    return np.where(clear, most.argmax(axis=1), -1)


def _mentions(caption: str, word: str) -> bool:
    words = caption.lower().replace(".", " ").replace(",", " ").split()
    return word in words or f"{word}s" in words
