"""A multi-layer perceptron on flattened pixels: the cheapest scorer."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from active_learning.config import setting
from active_learning.cost import flops
from active_learning.models.layers import DTYPES, MAX_DEPTH, MAX_WIDTH, Dense


class MLP(nn.Module):
    """Maps images to logits and features (no logits with `num_classes` 0).

    It has `depth` hidden layers of `width` units with GELU.
    """

    num_classes: int = setting(0, at_least=0, at_most=2**24)
    # Width and number of the hidden layers.
    width: int = setting(256, at_least=1, at_most=MAX_WIDTH)
    depth: int = setting(2, at_least=0, at_most=MAX_DEPTH)
    dtype: str = setting("float32", one_of=DTYPES)

    @nn.compact
    def __call__(self, image: Float[Array, "B H W C"], *, train: bool = False) -> dict[str, Array]:
        del train  # the same function in both modes
        x = image.reshape(image.shape[0], -1)
        for layer in range(self.depth):
            x = nn.gelu(Dense(self.width, dtype=self.dtype, name=f"layer_{layer}")(x))
        features = x.astype(jnp.float32)
        if not self.num_classes:
            return {"features": features}
        logits = nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="head")(
            features
        )
        return {"logits": logits, "features": features}

    def cost(self, image_shape: tuple[int, int, int]) -> flops.Cost:
        """FLOPs per example on images of this shape."""
        height, width, channels = image_shape
        sizes = [height * width * channels, *[self.width] * self.depth]
        total = flops.Cost()
        for layer in range(self.depth):
            total += flops.dense(1, sizes[layer], sizes[layer + 1], first=layer == 0)
        return total + flops.dense(1, sizes[-1], self.num_classes, first=self.depth == 0)
