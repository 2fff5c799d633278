"""Tasks: what is learnt. A task turns a Flax module into a `step.Model` and says how it is evaluated; a new objective is a new value."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from active_learning import losses
from active_learning.data.transforms import normalize, view
from active_learning.step import Batch, Model


@dataclass(frozen=True)
class Classification:
    """Single-label classification: softmax cross-entropy, smoothed in training (l_learn), plain for scores (l_act).

    `image_shape` is the view that its modules see (a small one is resized on the device where the batch brings none); `mean` and `std` are
    per channel of its uint8 images / 255.
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: str = "float32"
    label_smoothing: float = 0.0

    def prepare(self, batch: Batch) -> Array:
        """The module's input: the view of `image_shape`, normalised, in the compute type."""
        return normalize(view(batch, self.image_shape), self.mean, self.std, jnp.dtype(self.dtype))

    def model(self, module: Any, optimizer: optax.GradientTransformation) -> Model:
        """The module as functions of its parameters."""

        def apply(params: PyTree, batch: Batch, train: bool) -> dict[str, Array]:
            return module.apply({"params": params}, self.prepare(batch), train=train)

        def loss(outputs: dict[str, Array], batch: Batch, smoothing: float = 0.0) -> Array:
            return losses.softmax_xent(outputs["logits"], batch["label"], smoothing)

        return Model(apply, partial(loss, smoothing=self.label_smoothing), loss, optimizer)

    def init(self, module: Any, key: Key[Array, ""]) -> PyTree:
        """Fresh parameters of the module."""
        image = jnp.zeros((1, *self.image_shape), jnp.dtype(self.dtype))
        return jax.jit(module.init)(key, image)["params"]
