"""Layers shared by the models."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


class Dense(nn.Module):
    """A dense layer over the last axis. `flat`: as one 2-D product, whose backward pass is faster on CPUs than that of a 3-D one."""

    features: int
    use_bias: bool = True
    dtype: str = "float32"
    flat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d_in"]) -> Float[Array, "*batch d_out"]:
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), (x.shape[-1], self.features))
        rows = x.reshape(-1, x.shape[-1]) if self.flat else x
        out = jnp.dot(rows.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            out = out + bias.astype(self.dtype).reshape((1,) * (out.ndim - 1) + (-1,))
        return out.reshape((*x.shape[:-1], self.features))
