"""Captions beside images: tokenised once on the host; of several an image has, one is drawn by (id, epoch); some can be exchanged."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32, Int64, Integer

from active_learning.data.order import hash64
from active_learning.data.sources.source import DataError
from active_learning.data.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class Captions:
    """All captions of a source: `tokens` of the first `counts[i]` places of row i are its captions, `texts` their words."""

    tokens: Integer[np.ndarray, "n k context"]
    counts: Int64[np.ndarray, "n"]
    texts: Sequence[Sequence[str]]
    cut: int  # captions that were longer than the context
    tokenizer: Tokenizer

    def encode(self, texts: Sequence[str]) -> Int32[np.ndarray, "n context"]:
        """Other texts as token ids of the same kind."""
        return self.tokenizer.encode(texts, self.tokens.shape[2])[0]

    def draw(
        self,
        rows: Integer[np.ndarray, "b"],
        ids: Int64[np.ndarray, "b"],
        epochs: Integer[np.ndarray, "b"],
    ) -> Int32[np.ndarray, "b context"]:
        """One caption of each row, a function of (id, epoch) alone."""
        return self.tokens[rows, self._place(rows, ids, epochs)].astype(np.int32)

    def _place(self, rows: np.ndarray, ids: np.ndarray, epochs: np.ndarray) -> np.ndarray:
        return (hash64(0xCA97, ids, epochs) % self.counts[rows].astype(np.uint64)).astype(np.int64)

    def drawn_text(self, rows: np.ndarray, ids: np.ndarray, epochs: np.ndarray) -> list[str]:
        """The words of what `draw` gives."""
        return [
            self.texts[row][at]
            for row, at in zip(rows, self._place(rows, ids, epochs), strict=True)
        ]


def texts_of(source: Any, column: str) -> list[list[str]]:
    """The captions of every example. Raises DataError for a source without texts, or naming an example without a caption."""
    if not hasattr(source, "texts"):
        raise DataError(
            f"config.data: {type(source).__name__} has no captions; image-text pairs come from e.g. WebDataset"
        )
    found = source.texts(column)
    texts = [[one] if isinstance(one, str) else [str(t) for t in one or ()] for one in found]
    texts = [[t for t in those if t.strip()] for those in texts]
    empty = [row for row, those in enumerate(texts) if not those]
    if empty:
        name = (
            source.files.name(int(source.rows[empty[0]]))
            if hasattr(source, "files")
            else f"example {empty[0]}"
        )
        raise DataError(
            f"config.data: {name} and {len(empty) - 1} more have no caption in column {column!r}"
        )
    return texts


def tokenize(texts: Sequence[Sequence[str]], tokenizer: Tokenizer, context: int) -> Captions:
    """Every caption as token ids, in the smallest integer type that holds them."""
    counts = np.array([len(those) for those in texts], np.int64)
    flat, cut = tokenizer.encode([text for those in texts for text in those], context)
    kind = np.uint16 if tokenizer.size <= 1 << 16 else np.int32
    tokens = np.full((len(texts), int(counts.max()), context), tokenizer.pad, kind)
    tokens[np.arange(tokens.shape[1])[None] < counts[:, None]] = flat
    return Captions(tokens, counts, texts, cut, tokenizer)


def shuffled(ids: Int64[np.ndarray, "n"], share: float, seed: int = 0) -> Int64[np.ndarray, "n"]:
    """For each example the place whose captions it gets: a share of the examples, drawn by id, exchange theirs in a circle, the rest keep them.

    No example of the circle keeps its own; a circle of one would, so there is none.
    """
    out = np.arange(len(ids))
    order = np.argsort(hash64(0x5417, seed, ids), kind="stable")[: round(share * len(ids))]
    if len(order) > 1:
        out[order] = np.roll(order, 1)
    return out


def classes_named(texts: Sequence[Sequence[str]], words: Sequence[str]) -> Int64[np.ndarray, "n"]:
    """The class of each example: the one word that most of its captions name while fewer than half name any other; -1 for none."""
    hits = np.array(
        [[sum(_says(text, word) for text in those) for word in words] for those in texts]
    )
    half = np.array([len(those) for those in texts])[:, None] / 2
    most: Bool[np.ndarray, "n c"] = hits > half
    clear = (most.sum(axis=1) == 1) & ((hits >= half).sum(axis=1) == 1)
    return np.where(clear, most.argmax(axis=1), -1)


def _says(text: str, word: str) -> bool:
    said = text.lower().replace(".", " ").replace(",", " ").split()
    return word in said or f"{word}s" in said
