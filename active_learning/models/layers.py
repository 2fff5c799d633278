"""Layers shared by the models, and how they read parameters that devices share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, PyTree

# Largest sizes that a config may ask for; far above any published model.
MAX_WIDTH, MAX_DEPTH = 2**16, 1000
# Compute types.
DTYPES = ("float32", "bfloat16", "float16")


class Dense(nn.Module):
    """A dense layer over the last axis.

    `flat`: computed as one 2-D product, whose backward pass is faster on CPUs than that of a 3-D
    one.
    """

    features: int
    use_bias: bool = True
    # Compute type; parameters are float32.
    dtype: str = "float32"
    # Flatten the input to 2-D: the backward pass is faster on CPUs than that of a 3-D product.
    flat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d_in"]) -> Float[Array, "*batch d_out"]:
        kernel = self.param(
            "kernel", nn.initializers.xavier_uniform(), (x.shape[-1], self.features)
        )
        rows = x.reshape(-1, x.shape[-1]) if self.flat else x
        out = jnp.dot(rows.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            out = out + bias.astype(self.dtype).reshape((1,) * (out.ndim - 1) + (-1,))
        return out.reshape((*x.shape[:-1], self.features))


class Shared(struct.PyTreeNode, nn.meta.AxisMetadata):
    """A parameter that is gathered when a layer asks for it.

    Within a scan or a rematerialized block that is one layer at a time.
    """

    value: Any
    path: str = struct.field(pytree_node=False)
    gather: Callable[[Array, str], Array] = struct.field(pytree_node=False)

    def unbox(self) -> Array:
        return self.gather(self.value, self.path)

    def replace_boxed(self, val: Any) -> "Shared":
        return self.replace(value=val)

    def add_axis(self, index: int, params: dict) -> "Shared":
        return self

    def remove_axis(self, index: int, params: dict) -> "Shared":
        return self


def shared(params: PyTree, gather: Callable[[Array, str], Array]) -> PyTree:
    """Parameters of which a Flax module reads `gather(array, path)`."""

    def of(path: tuple, leaf: Array) -> Shared:
        return Shared(leaf, jax.tree_util.keystr(path, simple=True, separator="/"), gather)

    return jax.tree_util.tree_map_with_path(of, params)
