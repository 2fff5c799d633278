"""Embeddings of pairs by several workers: pieces in files of their own, then into the tables.

Workers on several machines must not write into the same memory-mapped files: what two of them
change on one page of a network file system may be lost.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from active_learning.data.stored_rows import PairTables, from_bfloat16, to_bfloat16
from active_learning.references.row_pass import PIECE, Values
from active_learning.storage.pieces import Pieces


@dataclass(frozen=True)
class PairPieces:
    """The pieces of a pass over all pairs of a source: first those of images, then of captions.

    Attributes:
      pieces: Where they are kept.
      count: Number of pairs.
      dtype: Of the stored embeddings.
    """

    pieces: Pieces
    count: int
    dtype: str

    @property
    def spans(self) -> list[Int64[np.ndarray, "k"]]:
        """Pairs of each piece of one kind; those of `row_pass.fill`, so that the bytes agree."""
        return [np.arange(at, min(at + PIECE, self.count)) for at in range(0, self.count, PIECE)]

    @property
    def names(self) -> list[str]:
        """Of all pieces."""
        return [f"{kind}-{at}" for kind in ("image", "text") for at in range(len(self.spans))]

    def maker(self, values: tuple[Values, Values]) -> Callable[[int], Mapping[str, np.ndarray]]:
        """What makes the piece of a number; `values` embeds images and captions."""
        spans = self.spans

        def make(number: int) -> Mapping[str, np.ndarray]:
            kind, at = divmod(number, len(spans))
            began = time.monotonic()
            embedded = values[kind](spans[at])
            seconds = np.array(time.monotonic() - began)
            packed = embedded if self.dtype == "float32" else to_bfloat16(embedded)
            return {"values": packed, "seconds": seconds}

        return make

    def missing(self, tables: PairTables) -> list[int]:
        """Numbers of the pieces that are not in the tables."""
        both = [(table, rows) for table in (tables.image, tables.text) for rows in self.spans]
        return [n for n, (table, rows) in enumerate(both) if not table.is_stored(rows).all()]

    def put(self, tables: PairTables) -> None:
        """Writes the pieces that are there into the tables."""
        spans, names = self.spans, self.names
        for number in self.missing(tables):
            kind, at = divmod(number, len(spans))
            if (piece := self.pieces.load(names[number])) is None:
                continue
            values = piece["values"]
            values = values if self.dtype == "float32" else from_bfloat16(values)
            (tables.image, tables.text)[kind].write(spans[at], values, float(piece["seconds"]))
