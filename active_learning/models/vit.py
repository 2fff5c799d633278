"""Vision Transformer (arXiv 2010.11929, pre-norm form), in the variants of published weights."""

from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from active_learning.config import setting
from active_learning.cost import flops
from active_learning.models import resize
from active_learning.models.layers import DTYPES, MAX_DEPTH, MAX_WIDTH, Dense
from active_learning.models.transformer import (
    Attention,
    Mlp,
    blocks,
    blocks_cost,
    check_tower,
    mlp_cost,
)

# "mu" stands for the paper's smallest scorer, whose shape is not published.
VARIANTS = {
    "mu": {"width": 64, "depth": 4, "heads": 2, "mlp_dim": 256},
    "Ti": {"width": 192, "depth": 12, "heads": 3, "mlp_dim": 768},
    "S": {"width": 384, "depth": 12, "heads": 6, "mlp_dim": 1536},
    "B": {"width": 768, "depth": 12, "heads": 12, "mlp_dim": 3072},
    "L": {"width": 1024, "depth": 24, "heads": 16, "mlp_dim": 4096},
    "So400m": {"width": 1152, "depth": 27, "heads": 16, "mlp_dim": 4304},
}
POOLS = ("gap", "cls", "map", "cls_gap")


class ViT(nn.Module):
    """Maps images to logits and features (no logits with `num_classes` 0).

    Raises ValueError when the patch does not divide the image or the heads the width.
    Intermediate values named "tokens" hold the tokens before pooling, for `capture`.
    """

    num_classes: int = setting(0, at_least=0, at_most=2**24)
    width: int = setting(192, at_least=1, at_most=MAX_WIDTH)
    depth: int = setting(12, at_least=1, at_most=MAX_DEPTH)
    heads: int = setting(3, at_least=1, at_most=MAX_WIDTH)
    # 0: 4 * width. With "swiglu" the width after gating.
    mlp_dim: int = setting(0, at_least=0, at_most=4 * MAX_WIDTH)
    patch: int = setting(16, at_least=1, at_most=4096)
    # "gap": mean of the patches; "cls": class token; "map": attention pooling; "cls_gap": class
    # token and mean of the patches, concatenated.
    pool: str = setting("gap", one_of=POOLS)
    # Trace one block instead of `depth`; parameters then have a leading axis.
    scan: bool = False
    # "off", "full", or "dots" (keeps the products).
    remat: str = "off"
    dtype: str = setting("float32", one_of=DTYPES)
    # Fraction of the patches that enter the blocks, spread evenly: a cheap scorer.
    keep: float = setting(1.0, above=0.0, at_most=1.0)
    # "xla", or "cudnn": fused, for NVIDIA GPUs and 16-bit compute types.
    attention: str = "xla"
    activation: str = "gelu_tanh"
    # Of every LayerNorm.
    epsilon: float = setting(1e-6, above=0.0, at_most=1.0)
    # Which of query, key and value have a bias: "qv", "qkv" or "none".
    qkv_bias: str = "qv"
    # Learned per-channel scale of each residual branch (DINOv2).
    layer_scale: bool = False
    # A class token beside "gap" or "map" pooling; the other pools have one anyway.
    class_token: bool = False
    # Register tokens, after the class token.
    registers: int = setting(0, at_least=0, at_most=1024)
    # How many of the class token and registers have a position of their own.
    prefix_positions: int = setting(0, at_least=0, at_most=1025)
    # A bias of the patch embedding (CLIP has none).
    embed_bias: bool = True
    # A LayerNorm before the blocks (CLIP).
    pre_norm: bool = False
    # Where the last LayerNorm is: of the "tokens", or of the "pooled" features (timm's fc_norm).
    norm: str = "tokens"
    # Width of a tanh layer before the head (ImageNet-21k checkpoints of the JAX ViT); 0: none.
    pre_logits: int = setting(0, at_least=0, at_most=4 * MAX_WIDTH)
    # Side of the patches that the parameters are for, where it is not `patch`: FlexiViT
    # (arXiv 2212.08013). 0: `patch`.
    weights_patch: int = setting(0, at_least=0, at_most=4096)

    @property
    def resampled(self) -> bool:
        """Whether the parameters are for patches of another side."""
        return self.weights_patch not in (0, self.patch)

    @property
    def has_class_token(self) -> bool:
        return self.class_token or self.pool in ("cls", "cls_gap")

    @property
    def prefix(self) -> int:
        """Number of tokens before the patches."""
        return self.has_class_token + self.registers

    def kept_patches(self, patches: int) -> np.ndarray:
        """Indices of the patches that enter the blocks."""
        return np.unique(
            np.linspace(0, patches - 1, max(1, round(self.keep * patches))).round().astype(np.int32)
        )

    def check(self, image_shape: tuple[int, ...]) -> None:
        """Raises ValueError naming what does not fit."""
        height, width, _ = image_shape
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep {self.keep}: expected a fraction of the patches in (0, 1]")
        for side in (self.patch, self.weights_patch or self.patch):
            if height % side or width % side:
                raise ValueError(f"patch {side} does not divide the {height} x {width} image")
        check_tower(self)
        if self.pool not in POOLS:
            raise ValueError(f"pool {self.pool!r}: expected one of {', '.join(POOLS)}")
        if self.norm not in ("tokens", "pooled"):
            raise ValueError(f"norm {self.norm!r}: expected 'tokens' or 'pooled'")
        if self.prefix_positions not in (0, int(self.has_class_token), self.prefix):
            raise ValueError(
                f"prefix_positions {self.prefix_positions}: expected 0, 1 or {self.prefix}, "
                "one for each class token and register"
            )

    @nn.compact
    def __call__(self, image: Float[Array, "B H W C"], *, train: bool = False) -> dict[str, Array]:
        self.check(image.shape[1:])
        x = self._embed(image, train)
        if self.pre_norm:
            x = self._layer_norm("norm_pre")(x)
        x = blocks(self, x, flat=train)
        if self.norm == "tokens":
            x = self._layer_norm("norm")(x)
        self.sow("intermediates", "tokens", x)
        x = self._pool(x, flat=train)
        if self.norm == "pooled":
            x = self._layer_norm("norm")(x)
        features = x.astype(jnp.float32)
        if not self.num_classes:
            return {"features": features}
        hidden = features
        if self.pre_logits:
            hidden = jnp.tanh(Dense(self.pre_logits, name="pre_logits")(features))
        logits = nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="head")(hidden)
        return {"logits": logits, "features": features}

    def _layer_norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(self.epsilon, dtype=self.dtype, name=name)

    def _embed(self, image: Array, train: bool) -> Array:
        size, p = image.shape[0], self.patch
        rows, columns = image.shape[1] // p, image.shape[2] // p
        x = image.reshape(size, rows, p, columns, p, -1).transpose(0, 1, 3, 2, 4, 5)
        if self.resampled:
            x = self._resampled(x)
        x = x.reshape(size, rows * columns, -1)
        first, position = self._positions(image.shape[1], image.shape[2])
        if self.keep < 1:
            kept = self.kept_patches(rows * columns)
            x, position = x[:, kept], position[kept]
        x = Dense(self.width, use_bias=self.embed_bias, dtype=self.dtype, flat=train, name="embed")(
            x
        )
        x = x + position[None].astype(x.dtype)
        return jnp.concatenate([*self._prefix(first, size, x.dtype), x], axis=1)

    def _resampled(self, patches: Float[Array, "B Y X p p C"]) -> Float[Array, "B Y X q q C"]:
        """The patches at the side that the embedding is for.

        Resizing the embedding by the pseudoinverse is the same function, and costs more.
        """
        matrix = resize.patch_resampler(self.weights_patch, self.patch).astype(np.float32)
        sides = partial(jnp.einsum, "ai,bj,nyxijc->nyxabc", matrix, matrix, optimize="optimal")
        return sides(patches.astype(jnp.float32)).astype(patches.dtype)

    def _positions(self, height: int, width: int) -> tuple[Array, Array]:
        """Positions of the prefix, and of the patches of an image."""
        side = self.weights_patch or self.patch
        rows, columns = height // side, width // side
        shape = (self.prefix_positions + rows * columns, self.width)
        position = self.param("position", nn.initializers.normal(self.width**-0.5), shape)
        first, grid = position[: self.prefix_positions], position[self.prefix_positions :]
        if not self.resampled:
            return first, grid
        vertical, horizontal = (
            resize.bilinear_antialias(old, new // self.patch).astype(np.float32)
            for old, new in ((rows, height), (columns, width))
        )
        grid = grid.reshape(rows, columns, self.width)
        grid = jnp.einsum("Yy,Xx,yxd->YXd", vertical, horizontal, grid, optimize="optimal")
        return first, grid.reshape(-1, self.width)

    def _prefix(self, position: Array, size: int, dtype) -> list[Array]:
        """The class token and the registers, those that have a position with it."""
        tokens = []
        if self.has_class_token:
            tokens.append(self.param("cls", nn.initializers.zeros, (1, 1, self.width)))
        if self.registers:
            shape = (1, self.registers, self.width)
            tokens.append(self.param("registers", nn.initializers.normal(1e-6), shape))
        if not tokens:
            return []
        joined = jnp.concatenate(tokens, axis=1).astype(dtype)
        joined = joined.at[:, : self.prefix_positions].add(position[None].astype(dtype))
        return [jnp.broadcast_to(joined, (size, *joined.shape[1:]))]

    def _pool(self, x: Array, flat: bool) -> Array:
        if self.pool == "gap":
            return jnp.mean(x[:, self.prefix :], axis=1)
        if self.pool == "cls":
            return x[:, 0]
        if self.pool == "cls_gap":
            return jnp.concatenate([x[:, 0], jnp.mean(x[:, self.prefix :], axis=1)], axis=-1)
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, self.width))
        probe = jnp.broadcast_to(probe.astype(x.dtype), (x.shape[0], 1, self.width))
        attention = Attention(
            self.heads, self.dtype, flat, qkv_bias=self.qkv_bias, name="pool_attention"
        )
        out = attention(probe, x)
        mlp_dim = self.mlp_dim or 4 * self.width
        mlp = Mlp(mlp_dim, self.dtype, flat, self.activation, name="pool_mlp")
        out = out + mlp(self._layer_norm("pool_norm")(out))
        return out[:, 0]

    def tokens(self, image_shape: tuple[int, int, int]) -> int:
        """Number of tokens that an image of this shape brings into the blocks."""
        height, width, _ = image_shape
        patches = (height // self.patch) * (width // self.patch)
        return len(self.kept_patches(patches)) + self.prefix

    def embed_cost(self, image_shape: tuple[int, int, int]) -> flops.Cost:
        """FLOPs per example of the patch embedding."""
        patches, channels = self.tokens(image_shape) - self.prefix, image_shape[2]
        if not self.resampled:
            return flops.dense(patches, self.patch**2 * channels, self.width, first=True)
        old, new = self.weights_patch, self.patch
        every = (image_shape[0] // new) * (image_shape[1] // new)
        # All patches are resized, along one axis and then along the other; nothing is learnt there,
        # so the backward pass has no product.
        resizing = 2.0 * every * channels * old * new * (old + new)
        embedding = flops.dense(patches, old**2 * channels, self.width, first=True)
        return embedding + flops.Cost(resizing, 2 * resizing)

    def pool_cost(self, image_shape: tuple[int, int, int]) -> flops.Cost:
        """FLOPs per example of attention pooling; nothing for the other pools."""
        if self.pool != "map":
            return flops.Cost()
        tokens = self.tokens(image_shape)
        projections = flops.dense(tokens, self.width, 2 * self.width)
        projections += flops.dense(1, self.width, 2 * self.width)
        return projections + flops.attention(1, tokens, self.width) + mlp_cost(self, 1)

    def head_cost(self) -> flops.Cost:
        """FLOPs per example of the layers that map features to logits."""
        width = self.width * (2 if self.pool == "cls_gap" else 1)
        if not (self.pre_logits and self.num_classes):
            return flops.dense(1, width, self.num_classes)
        return flops.dense(1, width, self.pre_logits) + flops.dense(
            1, self.pre_logits, self.num_classes
        )

    def cost(self, image_shape: tuple[int, int, int]) -> flops.Cost:
        """FLOPs per example on images of this shape."""
        self.check(image_shape)
        total = self.embed_cost(image_shape) + blocks_cost(self, self.tokens(image_shape))
        return total + self.pool_cost(image_shape) + self.head_cost()
