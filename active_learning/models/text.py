"""A Transformer over token ids, of the same blocks as the ViT."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from active_learning.config import setting
from active_learning.cost import flops
from active_learning.models.layers import DTYPES, MAX_DEPTH, MAX_WIDTH
from active_learning.models.transformer import blocks, blocks_cost, check_tower

POOLS = ("mean", "last", "end")


class Text(nn.Module):
    """Maps token ids (below `vocab`, of length `context`) to features.

    Raises ValueError for another length, another pool, or heads that do not divide the width.
    """

    vocab: int = setting(4096, at_least=1, at_most=2**24)
    context: int = setting(32, at_least=1, at_most=2**16)
    width: int = setting(192, at_least=1, at_most=MAX_WIDTH)
    depth: int = setting(6, at_least=0, at_most=MAX_DEPTH)
    heads: int = setting(3, at_least=1, at_most=MAX_WIDTH)
    # 0: 4 * width.
    mlp_dim: int = setting(0, at_least=0, at_most=4 * MAX_WIDTH)
    # "mean" of what is not `pad`; "last": the last position (SigLIP); "end": the first position
    # with the token `end` (CLIP).
    pool: str = setting("mean", one_of=POOLS)
    pad: int = setting(0, at_least=0, at_most=2**24)
    scan: bool = False
    remat: str = "off"
    dtype: str = setting("float32", one_of=DTYPES)
    # Token that ends a text; -1: the largest id of each text, as in OpenAI's CLIP.
    end: int = setting(-1, at_least=-1, at_most=2**24)
    # Each token attends only to itself and to earlier ones; else to all, padding included.
    causal: bool = False
    attention: str = "xla"
    activation: str = "gelu_tanh"
    epsilon: float = setting(1e-6, above=0.0, at_most=1.0)
    qkv_bias: str = "qv"
    layer_scale: bool = False

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "B L"], *, train: bool = False
    ) -> dict[str, Float[Array, "B D"]]:
        check_tower(self)
        if tokens.shape[1] != self.context:
            raise ValueError(f"{tokens.shape[1]} tokens, but context {self.context}")
        if self.pool not in POOLS:
            raise ValueError(f"pool {self.pool!r}: expected one of {', '.join(POOLS)}")
        table = self.param(
            "embed", nn.initializers.normal(self.width**-0.5), (self.vocab, self.width)
        )
        position = self.param(
            "position", nn.initializers.normal(self.width**-0.5), (self.context, self.width)
        )
        x = table.astype(self.dtype)[tokens] + position[None].astype(self.dtype)
        x = blocks(self, x, flat=train, causal=self.causal)
        x = nn.LayerNorm(self.epsilon, dtype=self.dtype, name="norm")(x)
        return {"features": self._pool(x.astype(jnp.float32), tokens)}

    def _pool(self, x: Float[Array, "B L D"], tokens: Int[Array, "B L"]) -> Float[Array, "B D"]:
        if self.pool == "last":
            return x[:, -1]
        if self.pool == "end":
            place = jnp.argmax(tokens if self.end < 0 else tokens == self.end, axis=1)
            return jnp.take_along_axis(x, place[:, None, None], axis=1)[:, 0]
        kept = (tokens != self.pad).astype(jnp.float32)[:, :, None]
        return jnp.sum(x * kept, axis=1) / jnp.maximum(kept.sum(axis=1), 1.0)

    def cost(self) -> flops.Cost:
        """FLOPs per text; looking up embeddings is no product."""
        check_tower(self)
        return blocks_cost(self, self.context)
