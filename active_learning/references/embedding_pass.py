"""The one pass of a two-tower model over all images and captions of a source, on all devices.

Finished pieces stay: a stopped pass goes on where it was.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from active_learning import distributed
from active_learning.core.contrastive import Embeddings
from active_learning.core.recipe import Batch, Model
from active_learning.core.sharding import batch_sharding, replicated
from active_learning.data.captions import Captions
from active_learning.data.embeddings import EmbeddingTable
from active_learning.data.parts import Part
from active_learning.evaluators.batches import map_batches

PIECE = 2048  # examples whose embeddings are written at once: what a stopped pass loses


def captions_hash(captions: Captions) -> str:
    """Hash of all captions as token ids, and of their tokenizer."""
    digest = hashlib.sha256(captions.tokenizer.about.encode())
    digest.update(captions.counts.tobytes())
    places = np.arange(captions.tokens.shape[1])[None] < captions.counts[:, None]
    digest.update(np.ascontiguousarray(captions.tokens[places].astype(np.int32)).tobytes())
    return digest.hexdigest()[:16]


def embed_all(
    model: Model,
    params: PyTree,
    part: Part,
    mesh: Any,
    folder: Path,
    about: dict[str, Any],
    batch_size: int = 500,
) -> dict[str, Any]:
    """Embeds every image and every caption of a part that is a whole source.

    Args:
      model: The two-tower model.
      params: Its parameters.
      part: All examples, with their captions.
      mesh: The devices.
      folder: Where the embeddings go; one that was begun is continued.
      about: What they are of (`EmbeddingTable.create`), without width, scale and bias.
      batch_size: Images, or captions, at a time.

    Returns:
      What about.json says at the end.

    Raises:
      DataError: The folder holds something else, or an embedding is not finite.
    """
    captions = part.captions
    assert captions is not None  # a part of pairs
    images, texts = (_Tower(which, model, params, mesh, batch_size) for which in ("image", "text"))
    first = captions.tokens[:1, 0].astype(np.int32)
    probe, scale, bias = texts.embed(lambda at: {"tokens": first[np.zeros_like(at)]}, 1)
    about = about | {"width": probe.shape[1], "scale": scale, "bias": bias}
    distributed.run_on_primary(lambda: _open(folder, about, part.source.ids, captions.counts))
    table = EmbeddingTable(folder, write=True)
    missing = table.missing
    distributed.barrier("embeddings")  # all have seen what is missing before any of it is written
    for start in range(0, len(missing), PIECE):
        rows = missing[start : start + PIECE]
        image, _, _ = images.embed(lambda at, rows=rows: _pixels(part, rows[at]), len(rows))
        valid = np.arange(captions.tokens.shape[1])[None] < captions.counts[rows, None]
        tokens = captions.tokens[rows][valid].astype(np.int32)
        text, _, _ = texts.embed(lambda at, tokens=tokens: {"tokens": tokens[at]}, len(tokens))
        distributed.run_on_primary(
            lambda rows=rows, image=image, text=text: table.write(rows, image, text)
        )
    distributed.barrier("embeddings written")
    examples, count = len(part), int(captions.counts.sum())
    return table.finish(examples=examples, texts=count) if distributed.is_primary() else about


class _Tower:
    """One tower of a two-tower model, compiled for batches over the devices."""

    def __init__(self, which: str, model: Model, params: PyTree, mesh: Any, batch_size: int):
        def run(params: PyTree, batch: Batch) -> tuple[Array, Array, Array]:
            outputs: Embeddings = model.apply(params, batch, False)
            return getattr(outputs, which), outputs.scale, outputs.bias

        self._run = jax.jit(run, out_shardings=replicated(mesh))
        self._params = jax.device_put(params, replicated(mesh))
        self._placement, self._batch_size = batch_sharding(mesh), batch_size

    def embed(
        self, read: Callable[[np.ndarray], dict[str, np.ndarray]], count: int
    ) -> tuple[Float[np.ndarray, "k D"], float, float]:
        """Embeddings of `count` inputs, scale and bias; `read(places)` gives a batch."""
        size = min(self._batch_size, count)
        function = lambda batch: self._run(self._params, batch)
        blocks = list(map_batches(function, read, count, size, self._placement))
        values = np.concatenate([block[0] for block in blocks])
        return values, float(blocks[0][1][0]), float(blocks[0][2][0])


def _open(folder: Path, about: dict, ids: np.ndarray, counts: np.ndarray) -> None:
    EmbeddingTable.create(folder, about, ids, counts)


def _pixels(part: Part, rows: np.ndarray) -> dict[str, np.ndarray]:
    columns = part.read(rows)
    columns.pop("rows")
    return columns
