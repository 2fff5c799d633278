"""Embeddings of whole sets, padded last batch included."""

import jax
import numpy as np
from jaxtyping import Float32, PyTree

from active_learning.step import Model


class Embedder:
    """Images or texts of any number to embeddings; each kind compiles once."""

    def __init__(self, model: Model, batch_size: int):
        self.batch_size = batch_size
        self._images = jax.jit(lambda params, image: model.apply(params, {"image": image}, False).image)
        self._texts = jax.jit(lambda params, tokens: model.apply(params, {"tokens": tokens}, False).text)

    def images(self, params: PyTree, images: np.ndarray) -> Float32[np.ndarray, "n D"]:
        """Unit-norm embeddings of uint8 images."""
        return self._all(self._images, params, images)

    def texts(self, params: PyTree, tokens: np.ndarray) -> Float32[np.ndarray, "n D"]:
        """Unit-norm embeddings of token ids."""
        return self._all(self._texts, params, tokens.astype(np.int32))

    def _all(self, embed, params: PyTree, rows: np.ndarray) -> np.ndarray:
        out = []
        for start in range(0, len(rows), self.batch_size):
            these = np.minimum(np.arange(start, start + self.batch_size), len(rows) - 1)
            out.append(embed(params, rows[these]))
        return np.concatenate(jax.device_get(out))[: len(rows)]
