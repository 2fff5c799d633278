"""Captions beside images: tokenized once on the host, one of an image's drawn by (id, epoch)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32, Int64, Integer

from active_learning.data import text
from active_learning.data.errors import DataError
from active_learning.data.order import hash64
from active_learning.data.sources.source import Source
from active_learning.data.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class Captions:
    """All captions of a source.

    The first `counts[i]` places of row i of `tokens` are its captions, `texts` their text.
    """

    tokens: Integer[np.ndarray, "n k context"]
    counts: Int64[np.ndarray, "n"]
    texts: Sequence[Sequence[str]]
    cut: int  # captions that were longer than the context
    tokenizer: Tokenizer

    def content_hash(self) -> str:
        """Hash of all captions as token ids, and of their tokenizer."""
        digest = hashlib.sha256(self.tokenizer.about.encode())
        digest.update(self.counts.tobytes())
        valid = np.arange(self.tokens.shape[1])[None] < self.counts[:, None]
        digest.update(np.ascontiguousarray(self.tokens[valid].astype(np.int32)).tobytes())
        return digest.hexdigest()[:16]

    def encode(self, texts: Sequence[str]) -> Int32[np.ndarray, "n context"]:
        """Encodes other texts as token ids of the same kind."""
        return self.tokenizer.encode(texts, self.tokens.shape[2])[0]

    def draw(
        self,
        rows: Integer[np.ndarray, "b"],
        ids: Int64[np.ndarray, "b"],
        epochs: Integer[np.ndarray, "b"],
    ) -> Int32[np.ndarray, "b context"]:
        """One caption of each row, a function of (id, epoch) alone."""
        return self.tokens[rows, self.place(rows, ids, epochs)].astype(np.int32)

    def place(self, rows: np.ndarray, ids: np.ndarray, epochs: np.ndarray) -> np.ndarray:
        """Which caption of each row `draw` takes, counted from 0."""
        return (hash64(0xCA97, ids, epochs) % self.counts[rows].astype(np.uint64)).astype(np.int64)

    def drawn_text(self, rows: np.ndarray, ids: np.ndarray, epochs: np.ndarray) -> list[str]:
        """The text of what `draw` returns."""
        places = self.place(rows, ids, epochs)
        return [self.texts[int(row)][int(at)] for row, at in zip(rows, places, strict=True)]


def texts_of(source: Source, column: str) -> list[list[str]]:
    """The captions of every example, cleaned (see `data.text`).

    Args:
      source: The source.
      column: Column with a caption, or a list of captions; 'COLUMN.KEY' for a column of objects.

    Raises:
      DataError: The source has no such column, its values are objects, or an example has
        no caption.
    """
    texts = []
    for index, value in enumerate(source.texts(column)):
        try:
            texts.append(text.captions(value))
        except DataError as error:
            raise DataError(
                f"config.data: column {column!r} of {source.name(index)} holds {error}"
            ) from error
    empty = [index for index, captions in enumerate(texts) if not captions]
    if empty:
        first = f"{source.name(empty[0])} and {len(empty) - 1} more"
        raise DataError(
            f"config.data: {first} have no caption in column {column!r}; "
            f"config.data.text={column!r} leaves them out"
        )
    return texts


def tokenize(texts: Sequence[Sequence[str]], tokenizer: Tokenizer, context: int) -> Captions:
    """Every caption as token ids, in the smallest integer type that holds them."""
    counts = np.array([len(captions) for captions in texts], np.int64)
    flat, cut = tokenizer.encode([caption for captions in texts for caption in captions], context)
    kind = np.uint16 if tokenizer.size <= 1 << 16 else np.int32
    tokens = np.full((len(texts), int(counts.max()), context), tokenizer.pad, kind)
    tokens[np.arange(tokens.shape[1])[None] < counts[:, None]] = flat
    return Captions(tokens, counts, texts, cut, tokenizer)


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
