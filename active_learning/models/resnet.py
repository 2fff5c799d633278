"""Residual networks with GroupNorm (arXiv 1512.03385, 1803.08494).

GroupNorm has no running statistics, so there is no mutable state.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from active_learning.config import setting
from active_learning.cost import flops
from active_learning.models.layers import DTYPES, MAX_WIDTH


class ResidualBlock(nn.Module):
    """Pre-activation block of two 3 x 3 convolutions.

    As a bottleneck: of 1 x 1, 3 x 3, 1 x 1, four times as wide outside.
    """

    width: int
    stride: int
    # Convolutions of 1 x 1, 3 x 3 and 1 x 1, four times as wide outside, instead of two 3 x 3.
    bottleneck: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        shortcut = x
        for i, (kernel, stride, width) in enumerate(
            _convolutions(self.width, self.stride, self.bottleneck)
        ):
            x = nn.relu(
                nn.GroupNorm(
                    num_groups=min(32, x.shape[-1] // 4), dtype=self.dtype, name=f"norm_{i}"
                )(x)
            )
            if i == 0 and (x.shape[-1] != _out(self.width, self.bottleneck) or self.stride > 1):
                out, strides = _out(self.width, self.bottleneck), (self.stride, self.stride)
                shortcut = nn.Conv(
                    out, (1, 1), strides, use_bias=False, dtype=self.dtype, name="shortcut"
                )(x)
            strides = (stride, stride)
            x = nn.Conv(
                width, (kernel, kernel), strides, use_bias=False, dtype=self.dtype, name=f"conv_{i}"
            )(x)
        return x + shortcut


def _out(width: int, bottleneck: bool) -> int:
    return 4 * width if bottleneck else width


def _convolutions(width: int, stride: int, bottleneck: bool) -> list[tuple[int, int, int]]:
    """(kernel, stride, filters) of a block's convolutions."""
    return (
        [(1, 1, width), (3, stride, width), (1, 1, 4 * width)]
        if bottleneck
        else [(3, stride, width), (3, 1, width)]
    )


class ResNet(nn.Module):
    """Maps images to logits and features (no logits with `num_classes` 0).

    The defaults are ResNet-18 for small images. Raises ValueError for an unknown stem, or a width
    that is not divisible by 4.

    Attributes:
      stages: Blocks of each stage. A stage has half the resolution and twice the width of the one
        before.
      stem: "small" (3 x 3 convolution), or "imagenet" (7 x 7 with stride 2, then a pool of
        stride 2).
    """

    num_classes: int = setting(0, at_least=0, at_most=2**24)
    # Channels of the first stage.
    width: int = setting(64, at_least=4, at_most=MAX_WIDTH)
    # Blocks of each stage; each has half the resolution and twice the width of the one before.
    stages: tuple[int, ...] = setting((2, 2, 2, 2), at_least=1, at_most=1000)
    bottleneck: bool = False
    # "small": a 3 x 3 convolution; "imagenet": 7 x 7 with stride 2, then a pool of stride 2.
    stem: str = "small"
    dtype: str = setting("float32", one_of=DTYPES)

    def _check(self) -> None:
        if self.stem not in ("small", "imagenet"):
            raise ValueError(f"stem {self.stem!r}: expected 'small' or 'imagenet'")
        if self.width % 4:
            raise ValueError(f"width {self.width} is not divisible by 4, as its groups need")

    @nn.compact
    def __call__(self, image: Float[Array, "B H W C"], *, train: bool = False) -> dict[str, Array]:
        del train  # the same function in both modes
        self._check()
        if self.stem == "small":
            x = nn.Conv(self.width, (3, 3), use_bias=False, dtype=self.dtype, name="stem")(image)
        else:
            x = nn.Conv(self.width, (7, 7), (2, 2), use_bias=False, dtype=self.dtype, name="stem")(
                image
            )
            x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for width, stride, name in self._blocks():
            x = ResidualBlock(width, stride, self.bottleneck, self.dtype, name=name)(x)
        x = nn.relu(
            nn.GroupNorm(num_groups=min(32, x.shape[-1] // 4), dtype=self.dtype, name="norm")(x)
        )
        features = jnp.mean(x, axis=(1, 2)).astype(jnp.float32)
        if not self.num_classes:
            return {"features": features}
        logits = nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="head")(
            features
        )
        return {"logits": logits, "features": features}

    def _blocks(self) -> list[tuple[int, int, str]]:
        """(width, stride, name) of every block."""
        return [
            (self.width * 2**s, 2 if s and not b else 1, f"stage_{s}_block_{b}")
            for s, blocks in enumerate(self.stages)
            for b in range(blocks)
        ]

    def cost(self, image_shape: tuple[int, int, int]) -> flops.Cost:
        """FLOPs per example on images of this shape.

        Padding counts as in a dense product (the usual convention).
        """
        self._check()
        height, width, channels = image_shape
        if self.stem == "imagenet":
            height, width = -(-height // 2), -(-width // 2)
        total = flops.conv(
            height, width, 7 if self.stem == "imagenet" else 3, channels, self.width, first=True
        )
        if self.stem == "imagenet":
            height, width = -(-height // 2), -(-width // 2)
        c_in = self.width
        for filters, stride, _ in self._blocks():
            out = _out(filters, self.bottleneck)
            low = (-(-height // stride), -(-width // stride))
            if c_in != out or stride > 1:
                total += flops.conv(*low, 1, c_in, out)
            c = c_in
            for kernel, step, c_out in _convolutions(filters, stride, self.bottleneck):
                height, width = -(-height // step), -(-width // step)
                total += flops.conv(height, width, kernel, c, c_out)
                c = c_out
            c_in = out
        return total + flops.dense(1, c_in, self.num_classes)
