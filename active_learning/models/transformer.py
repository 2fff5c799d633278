"""Transformer blocks of the image and text towers, their FLOPs and their stacked parameters."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from active_learning.cost import flops
from active_learning.models.layers import Dense

# "gelu" is the exact form (erf), "gelu_tanh" its tanh approximation. "swiglu" gates the MLP:
# silu(a) * b, with a and b the two halves of the first layer's output.
ACTIVATIONS = ("gelu_tanh", "gelu", "quick_gelu", "swiglu")
# Implementations of attention, see `jax.nn.dot_product_attention`.
Implementation = Literal["xla", "cudnn"]
# Which of query, key and value have a bias.
QKV_BIASES = ("qv", "qkv", "none")

_REMAT_POLICIES = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def activate(name: str, x: Float[Array, "*B D"]) -> Float[Array, "*B E"]:
    """Applies the activation `name`; "swiglu" halves the last axis."""
    if name == "gelu_tanh":
        return nn.gelu(x)
    if name == "gelu":
        return nn.gelu(x, approximate=False)
    if name == "quick_gelu":
        return x * nn.sigmoid(1.702 * x)
    gate, value = jnp.split(x, 2, axis=-1)
    return nn.silu(gate) * value


class Attention(nn.Module):
    """Multi-head attention of x to itself or to y.

    The key has no bias unless `qkv_bias` is "qkv" (published weights hold one): it shifts all
    logits of a query alike, so its gradient is zero.
    """

    heads: int
    dtype: str
    flat: bool
    attend: Implementation = "xla"
    qkv_bias: str = "qv"
    causal: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], y: Float[Array, "B M D"] | None = None
    ) -> Float[Array, "B N D"]:
        width = x.shape[-1]
        y = x if y is None else y

        def project(name, of):
            bias = self.qkv_bias != "none" and name[0] in self.qkv_bias
            dense = Dense(width, use_bias=bias, dtype=self.dtype, flat=self.flat, name=name)
            return dense(of).reshape(*of.shape[:2], self.heads, width // self.heads)

        query, key, value = project("query", x), project("key", y), project("value", y)
        out = jax.nn.dot_product_attention(
            query, key, value, is_causal=self.causal, implementation=self.attend
        )
        return Dense(width, dtype=self.dtype, flat=self.flat, name="out")(out.reshape(x.shape))


class Mlp(nn.Module):
    """Two dense layers with an activation between them."""

    mlp_dim: int
    dtype: str
    flat: bool
    activation: str = "gelu_tanh"

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        up = 2 * self.mlp_dim if self.activation == "swiglu" else self.mlp_dim
        hidden = Dense(up, dtype=self.dtype, flat=self.flat, name="up")(x)
        hidden = activate(self.activation, hidden)
        return Dense(x.shape[-1], dtype=self.dtype, flat=self.flat, name="down")(hidden)


class Block(nn.Module):
    """Pre-norm attention and MLP. Returns a pair so that it can be the body of a scan."""

    heads: int
    mlp_dim: int
    dtype: str
    flat: bool
    attend: Implementation = "xla"
    activation: str = "gelu_tanh"
    epsilon: float = 1e-6
    qkv_bias: str = "qv"
    layer_scale: bool = False
    causal: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], _=None) -> tuple[Float[Array, "B N D"], None]:
        norm_1 = nn.LayerNorm(self.epsilon, dtype=self.dtype, name="norm_1")
        norm_2 = nn.LayerNorm(self.epsilon, dtype=self.dtype, name="norm_2")
        attention = Attention(
            self.heads,
            self.dtype,
            self.flat,
            self.attend,
            self.qkv_bias,
            self.causal,
            name="attention",
        )
        mlp = Mlp(self.mlp_dim, self.dtype, self.flat, self.activation, name="mlp")
        x = x + self._scaled("scale_1", attention(norm_1(x)))
        x = x + self._scaled("scale_2", mlp(norm_2(x)))
        return x, None

    def _scaled(self, name: str, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        if not self.layer_scale:
            return x
        # 1e-5 is the initial value of CaiT and DINOv2.
        scale = self.param(name, nn.initializers.constant(1e-5), (x.shape[-1],))
        return x * scale.astype(x.dtype)[None, None]


def blocks(of: Any, x: Float[Array, "B N D"], flat: bool, causal: bool = False) -> Array:
    """Runs the Transformer described by a tower's fields; called within the tower's `__call__`.

    Args:
        of: A ViT or Text: depth, heads, width, mlp_dim, scan, remat and the fields of `Block`.
        x: Tokens.
        flat: Whether dense layers flatten the tokens to 2-D (faster backward pass on CPUs).
        causal: Whether a token attends only to itself and to earlier ones.
    """
    block = Block
    if of.remat != "off":
        block = nn.remat(Block, prevent_cse=not of.scan, policy=_REMAT_POLICIES[of.remat])
    fields = {
        "heads": of.heads,
        "mlp_dim": of.mlp_dim or 4 * of.width,
        "dtype": of.dtype,
        "flat": flat,
        "attend": of.attention,
        "activation": of.activation,
        "epsilon": of.epsilon,
        "qkv_bias": of.qkv_bias,
        "layer_scale": of.layer_scale,
        "causal": causal,
    }
    if not of.scan:
        for layer in range(of.depth):
            x, _ = block(**fields, name=f"block_{layer}")(x)
        return x
    scanned = nn.scan(
        block, variable_axes={"params": 0}, split_rngs={"params": True}, length=of.depth
    )
    return scanned(**fields, name="blocks")(x, None)[0]


def mlp_cost(of: Any, tokens: int) -> flops.Cost:
    """FLOPs of one MLP of the tower on so many tokens."""
    hidden = of.mlp_dim or 4 * of.width
    up = 2 * hidden if of.activation == "swiglu" else hidden
    return flops.dense(tokens, of.width, up) + flops.dense(tokens, hidden, of.width)


def block_cost(of: Any, tokens: int) -> flops.Cost:
    """FLOPs per example of one block on so many tokens, recomputation by remat included."""
    products = flops.dense(tokens, of.width, 4 * of.width) + mlp_cost(of, tokens)
    block = products + flops.attention(tokens, tokens, of.width)
    again = {"off": 0.0, "full": block.forward, "dots": block.forward - products.forward}
    return block + flops.Cost(recompute=again[of.remat])


def blocks_cost(of: Any, tokens: int) -> flops.Cost:
    """FLOPs per example of `blocks` on so many tokens."""
    return of.depth * block_cost(of, tokens)


def check_tower(of: Any) -> None:
    """Raises ValueError naming the field of a tower that has an unusable value."""
    if of.width % of.heads:
        raise ValueError(f"heads {of.heads} do not divide width {of.width}")
    for name, value, known in (
        ("remat", of.remat, ("off", *_REMAT_POLICIES)),
        ("attention", of.attention, get_args(Implementation)),
        ("activation", of.activation, ACTIVATIONS),
        ("qkv_bias", of.qkv_bias, QKV_BIASES),
    ):
        if value not in known:
            raise ValueError(f"{name} {value!r}: expected one of {', '.join(known)}")


def stack_blocks(params: dict) -> dict:
    """Converts parameters from the unrolled form (block_0, block_1, ...) to the scanned form.

    The scanned form has one entry, `blocks`, whose arrays have a leading axis of size depth.
    """
    names = sorted(
        (n for n in params if n.startswith("block_")), key=lambda n: int(n.removeprefix("block_"))
    )
    rest = {n: v for n, v in params.items() if n not in names}
    return rest | {
        "blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params[n] for n in names))
    }


def unstack_blocks(params: dict) -> dict:
    """The inverse of `stack_blocks`."""
    depth = jax.tree.leaves(params["blocks"])[0].shape[0]
    rest = {n: v for n, v in params.items() if n != "blocks"}
    return rest | {
        f"block_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"])
        for i in range(depth)
    }
