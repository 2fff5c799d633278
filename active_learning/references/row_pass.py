"""The one pass over a source that writes what is stored of it, on all devices.

Finished pieces stay: a stopped pass goes on where it was.
"""

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, PyTree

from active_learning import distributed
from active_learning.data.parts import Part
from active_learning.data.stored_rows import PairTables, RowTable
from active_learning.evaluators.embed import Embedder

# Examples that are written at once: what a stopped pass loses.
PIECE = 4096
# Places among the rows of a pass -> all rows of these examples.
Values = Callable[[Int64[np.ndarray, "k"]], Float[np.ndarray, "m D"]]


def fill(
    table: RowTable | None,
    rows: Int64[np.ndarray, "n"],
    prepare: Callable[[], Values],
    requested: Callable[[], bool] = lambda: False,
) -> bool:
    """Writes what a table lacks, in pieces.

    Args:
      table: The table of a source; used by the primary process alone, others may have none.
      rows: Rows of the source that are needed.
      prepare: Compiles what computes: places among `rows` -> all rows of these examples.
      requested: Asked before each piece whether to stop.

    Returns:
      Whether all is there now.
    """

    def lacking() -> dict[str, np.ndarray]:
        assert table is not None
        return {"missing": np.flatnonzero(~table.is_stored(rows))}

    def write(piece: np.ndarray, values: np.ndarray, seconds: float) -> None:
        assert table is not None
        table.write(rows[piece], values, seconds)

    missing = distributed.arrays_from_primary(lacking)["missing"]
    if not len(missing):
        return True
    values_of = prepare()
    for start in range(0, len(missing), PIECE):
        if requested():
            return False
        piece, began = missing[start : start + PIECE], time.monotonic()
        values = values_of(piece)
        seconds = time.monotonic() - began
        distributed.run_on_primary(partial(write, piece, values, seconds))
    return True


def embed_pairs(
    embedder: Embedder,
    params: PyTree,
    part: Part,
    tables: PairTables,
    requested: Callable[[], bool] = lambda: False,
) -> bool:
    """Embeds what is missing of the images and the captions of a part of pairs.

    Args:
      embedder: Of the two-tower model.
      params: Its parameters.
      part: The examples, with their captions.
      tables: Where the embeddings of their source go.
      requested: Asked before each piece whether to stop.

    Returns:
      Whether all is there now.
    """
    images, texts = pair_values(embedder, params, part)
    rows = caption_rows(part)
    return fill(tables.image, np.asarray(part.indices), lambda: images, requested) and fill(
        tables.text, rows, lambda: texts, requested
    )


def pair_values(embedder: Embedder, params: PyTree, part: Part) -> tuple[Values, Values]:
    """What embeds the images, and all captions, of the examples at some places of a part."""
    captions, rows = part.captions, caption_rows(part)
    assert captions is not None, "the task joins them"

    def images(at: Int64[np.ndarray, "k"]) -> Float[np.ndarray, "k D"]:
        return embedder.images(params, part, at)

    def texts(at: Int64[np.ndarray, "k"]) -> Float[np.ndarray, "m D"]:
        return embedder.texts(params, captions.of(rows[at]))

    return images, texts


def caption_rows(part: Part) -> Int64[np.ndarray, "k"]:
    """Rows of the source whose captions a part has."""
    assert part.caption_of is not None, "the task joins them"
    return np.unique(np.asarray(part.caption_of))


def count_captions(parts: Iterable[Part]) -> int:
    """Captions of all examples of parts."""
    total = 0
    for part in parts:
        assert part.captions is not None, "the task joins them"
        total += int(part.captions.counts[caption_rows(part)].sum())
    return total


def embedding_flops(
    module: Any, image_shape: tuple[int, int, int], images: int, texts: int
) -> float:
    """FLOPs of embedding so many images and texts once.

    Args:
      module: Two towers.
      image_shape: Of the images that they see.
      images: How many.
      texts: How many.
    """
    return images * module.image_cost(image_shape).forward + texts * module.text_cost().forward


def logit_scalars(params: PyTree) -> tuple[float, float]:
    """Logit scale and bias of a two-tower model."""
    return float(np.exp(np.float32(params["t"]))), float(params.get("b", 0.0))
