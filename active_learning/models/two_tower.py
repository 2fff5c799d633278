"""Two towers, of images and of texts, that meet in one space (arXiv 2103.00020, 2303.15343)."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from active_learning.config import setting
from active_learning.core.contrastive import Embeddings, l2_normalize
from active_learning.cost import flops
from active_learning.models.layers import MAX_WIDTH, Dense


class TwoTower(nn.Module):
    """Maps images and texts to unit-norm `Embeddings` with a learned logit scale and bias.

    An input that is not given is not embedded. Raises ValueError when the towers do not end with
    the same width.
    """

    # A ViT.
    image: Any = None
    # A Text.
    text: Any = None
    # Width of the projection after each tower; 0: none.
    image_out: int = setting(64, at_least=0, at_most=MAX_WIDTH)
    text_out: int = setting(64, at_least=0, at_most=MAX_WIDTH)
    # Initial logit scale and bias; only the sigmoid loss reads the bias.
    scale: float = setting(10.0, above=0.0, at_most=1e4)
    bias: float = setting(-10.0, at_least=-1e4, at_most=1e4)
    # A bias of the projections (CLIP has none).
    head_bias: bool = True
    # A learned logit bias; without one it is 0 (CLIP).
    logit_bias: bool = True

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "B H W C"] | None = None,
        tokens: Int[Array, "B L"] | None = None,
        *,
        train: bool = False,
    ) -> Embeddings:
        self.check()
        given = tokens if image is None else image
        if given is None:
            raise ValueError("a TwoTower needs images, tokens or both")
        size = given.shape[0]
        scale = jnp.exp(self.param("t", lambda _: jnp.log(jnp.float32(self.scale))))
        bias = jnp.float32(0.0)
        if self.logit_bias:
            bias = self.param("b", lambda _: jnp.float32(self.bias))
        images = (
            None
            if image is None
            else self._end("image_head", self.image_out, self.image(image, train=train))
        )
        texts = (
            None
            if tokens is None
            else self._end("text_head", self.text_out, self.text(tokens, train=train))
        )
        return Embeddings(
            images, texts, jnp.broadcast_to(scale, (size,)), jnp.broadcast_to(bias, (size,))
        )

    def _end(self, name: str, width: int, outputs: dict[str, Array]) -> Float[Array, "B D"]:
        features = outputs["features"]
        if width:
            features = Dense(width, use_bias=self.head_bias, name=name)(features)
        return l2_normalize(features)

    def check(self) -> None:
        """Raises ValueError when the towers do not end with the same width."""
        ends = [
            out or tower.width
            for out, tower in ((self.image_out, self.image), (self.text_out, self.text))
        ]
        if ends[0] != ends[1]:
            raise ValueError(
                f"the image tower ends with {ends[0]} features, the text tower with {ends[1]}"
            )

    def cost(self, image_shape: tuple[int, int, int]) -> flops.Cost:
        """FLOPs per pair, both towers.

        The loss's B products of D numbers a pair are left out: 0.1 % of a ViT-B at B = 32,768.
        """
        return self.image_cost(image_shape) + self.text_cost()

    def image_cost(self, image_shape: tuple[int, int, int]) -> flops.Cost:
        """FLOPs of embedding an image."""
        head = flops.dense(1, self.image.width, self.image_out)
        return self.image.cost(image_shape) + head

    def text_cost(self) -> flops.Cost:
        """FLOPs of embedding a text."""
        return self.text.cost() + flops.dense(1, self.text.width, self.text_out)
