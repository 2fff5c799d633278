"""Embeddings of whole sets by a two-tower model, batch by batch."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Integer, PyTree

from active_learning.core.recipe import Model
from active_learning.core.sharding import replicated
from active_learning.evaluators.batches import map_batches


class Embedder:
    """Embeds any number of images or texts; each kind compiles once.

    Args:
      model: A two-tower model whose outputs have `image` and `text`.
      batch_size: Examples a batch; rounded up to a multiple of the number of devices.
      placement: Sharding of a batch over the devices; None for one device.
    """

    def __init__(self, model: Model, batch_size: int, placement: Any = None):
        self.size, self.placement = batch_size, placement
        everywhere = None if placement is None else replicated(placement.mesh)
        embed = lambda params, batch: model.apply(params, batch, False)
        self._images = jax.jit(
            lambda params, batch: embed(params, batch).image, out_shardings=everywhere
        )
        self._texts = jax.jit(
            lambda params, batch: embed(params, batch).text, out_shardings=everywhere
        )

    def images(
        self, params: PyTree, part: Any, rows: np.ndarray | None = None
    ) -> Float32[np.ndarray, "n D"]:
        """Unit-norm embeddings of the images of a part, read batch by batch.

        Args:
          params: Parameters of the model.
          part: Has a length and `images(rows)`, uint8 NHWC.
          rows: Rows to embed; None for all.
        """
        rows = np.arange(len(part)) if rows is None else rows
        return self._all(self._images, params, lambda at: {"image": part.images(rows[at])}, rows)

    def texts(
        self, params: PyTree, tokens: Integer[np.ndarray, "n L"]
    ) -> Float32[np.ndarray, "n D"]:
        """Unit-norm embeddings of texts given as token ids."""
        read = lambda at: {"tokens": tokens[at].astype(np.int32)}
        return self._all(self._texts, params, read, tokens)

    def _all(self, embed: Callable, params: PyTree, read: Callable, items) -> np.ndarray:
        count, out = len(items), None
        start = 0
        for block in map_batches(
            lambda batch: embed(params, batch), read, count, self.size, self.placement
        ):
            if out is None:
                out = np.empty((count, block.shape[1]), np.float32)
            out[start : start + len(block)] = block
            start += len(block)
        if out is None:
            raise ValueError("no images or texts to embed")
        return out
