"""A Transformer over token ids, of the same blocks as the ViT."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from active_learning.cost import flops
from active_learning.models.vit import blocks, blocks_cost, check_width


class Text(nn.Module):
    """Token ids (below `vocab`, of length `context`) -> features. Every position attends to every other, padding included.

    pool: "mean" (over what is not `pad`) or "last" (the last position, as SigLIP). scan, remat: as in the ViT. Raises ValueError for another
    length, another pool, or heads that do not divide the width.
    """

    vocab: int = 4096
    context: int = 32
    width: int = 192
    depth: int = 6
    heads: int = 3
    mlp_dim: int = 0  # 0: 4 * width
    pool: str = "mean"
    pad: int = 0
    scan: bool = False
    remat: str = "off"
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "B L"], *, train: bool = False
    ) -> dict[str, Float[Array, "B D"]]:
        check_width(self)
        if tokens.shape[1] != self.context:
            raise ValueError(f"{tokens.shape[1]} tokens, but context {self.context}")
        if self.pool not in ("mean", "last"):
            raise ValueError(f"pool {self.pool!r}: expected 'mean' or 'last'")
        table = self.param(
            "embed", nn.initializers.normal(self.width**-0.5), (self.vocab, self.width)
        )
        position = self.param(
            "position", nn.initializers.normal(self.width**-0.5), (self.context, self.width)
        )
        x = table.astype(self.dtype)[tokens] + position[None].astype(self.dtype)
        x = nn.LayerNorm(dtype=self.dtype, name="norm")(blocks(self, x, flat=train))
        if self.pool == "last":
            return {"features": x[:, -1].astype(jnp.float32)}
        said = (tokens != self.pad).astype(jnp.float32)[:, :, None]
        return {
            "features": jnp.sum(x.astype(jnp.float32) * said, axis=1)
            / jnp.maximum(said.sum(axis=1), 1.0)
        }

    def cost(self) -> flops.Cost:
        """FLOPs per text; looking up embeddings is no product."""
        check_width(self)
        return blocks_cost(self, self.context)
