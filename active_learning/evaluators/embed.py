"""Embeddings of whole sets, padded last batch included."""

import jax
import numpy as np
from jaxtyping import Float32, PyTree

from active_learning.core.recipe import Model
from active_learning.core.sharding import replicated
from active_learning.data.loader import mine, put


class Embedder:
    """Images or texts of any number to embeddings; each kind compiles once.

    `placement`: how a batch is split over the devices; its size is rounded up to a multiple of theirs.
    """

    def __init__(self, model: Model, batch_size: int, placement=None):
        devices = 1 if placement is None else placement.num_devices
        self.size, self.placement = -(-batch_size // devices) * devices, placement
        everywhere = None if placement is None else replicated(placement.mesh)
        embed = lambda params, batch: model.apply(params, batch, False)  # noqa: E731
        self._images = jax.jit(
            lambda params, batch: embed(params, batch).image, out_shardings=everywhere
        )
        self._texts = jax.jit(
            lambda params, batch: embed(params, batch).text, out_shardings=everywhere
        )

    def images(self, params: PyTree, images: np.ndarray) -> Float32[np.ndarray, "n D"]:
        """Unit-norm embeddings of uint8 images."""
        return self._all(self._images, params, "image", images)

    def texts(self, params: PyTree, tokens: np.ndarray) -> Float32[np.ndarray, "n D"]:
        """Unit-norm embeddings of token ids."""
        return self._all(self._texts, params, "tokens", tokens.astype(np.int32))

    def _all(self, embed, params: PyTree, name: str, values: np.ndarray) -> np.ndarray:
        here, out = mine(self.placement, self.size), []
        for start in range(0, len(values), self.size):
            rows = np.minimum(np.arange(start, start + self.size), len(values) - 1)[here]
            out.append(embed(params, put({name: values[rows]}, self.placement, self.size)))
        return np.concatenate(jax.device_get(out))[: len(values)]
