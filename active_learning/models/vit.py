"""Vision Transformer (arXiv 2010.11929, plain pre-norm form), sizes mu to So400m or any width and depth."""

from dataclasses import field

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from active_learning.cost import flops
from active_learning.models.layers import Dense

# "mu" stands for the paper's smallest scorer, whose shape is not published.
VARIANTS = {
    "mu": {"width": 64, "depth": 4, "heads": 2, "mlp_dim": 256},
    "Ti": {"width": 192, "depth": 12, "heads": 3, "mlp_dim": 768},
    "S": {"width": 384, "depth": 12, "heads": 6, "mlp_dim": 1536},
    "B": {"width": 768, "depth": 12, "heads": 12, "mlp_dim": 3072},
    "L": {"width": 1024, "depth": 24, "heads": 16, "mlp_dim": 4096},
    "So400m": {"width": 1152, "depth": 27, "heads": 16, "mlp_dim": 4304},
}

_POLICIES = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Attention(nn.Module):
    """Self-attention. The key has no bias: it shifts all logits of a query alike, so its gradient is zero."""

    heads: int
    dtype: str
    flat: bool
    attend: str = "xla"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], y: Float[Array, "B M D"] | None = None
    ) -> Float[Array, "B N D"]:
        width = x.shape[-1]
        y = x if y is None else y

        def project(name, of, bias=True):
            return Dense(width, use_bias=bias, dtype=self.dtype, flat=self.flat, name=name)(
                of
            ).reshape(*of.shape[:2], self.heads, width // self.heads)

        query, key, value = project("query", x), project("key", y, bias=False), project("value", y)
        out = jax.nn.dot_product_attention(query, key, value, implementation=self.attend)
        return Dense(width, dtype=self.dtype, flat=self.flat, name="out")(out.reshape(x.shape))


class Mlp(nn.Module):
    """Two dense layers with GELU between."""

    mlp_dim: int
    dtype: str
    flat: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        hidden = nn.gelu(Dense(self.mlp_dim, dtype=self.dtype, flat=self.flat, name="up")(x))
        return Dense(x.shape[-1], dtype=self.dtype, flat=self.flat, name="down")(hidden)


class Block(nn.Module):
    """Pre-norm attention and MLP. Returns a pair so that it can be the body of a scan."""

    heads: int
    mlp_dim: int
    dtype: str
    flat: bool
    attend: str = "xla"

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], _=None) -> tuple[Float[Array, "B N D"], None]:
        x = x + Attention(self.heads, self.dtype, self.flat, self.attend, name="attention")(
            nn.LayerNorm(dtype=self.dtype, name="norm_1")(x)
        )
        x = x + Mlp(self.mlp_dim, self.dtype, self.flat, name="mlp")(
            nn.LayerNorm(dtype=self.dtype, name="norm_2")(x)
        )
        return x, None


def blocks(of, x: Float[Array, "B N D"], flat: bool) -> Float[Array, "B N D"]:
    """The Transformer of a module with the fields depth, heads, mlp_dim, width, scan, remat and dtype; called within its `__call__`."""
    block = (
        Block
        if of.remat == "off"
        else nn.remat(Block, prevent_cse=not of.scan, policy=_POLICIES[of.remat])
    )
    fields = {
        "heads": of.heads,
        "mlp_dim": of.mlp_dim or 4 * of.width,
        "dtype": of.dtype,
        "flat": flat,
    }
    fields["attend"] = getattr(of, "attention", "xla")
    if not of.scan:
        for layer in range(of.depth):
            x, _ = block(**fields, name=f"block_{layer}")(x)
        return x
    scanned = nn.scan(
        block, variable_axes={"params": 0}, split_rngs={"params": True}, length=of.depth
    )
    return scanned(**fields, name="blocks")(x, None)[0]


def blocks_cost(of, tokens: int) -> flops.Cost:
    """FLOPs per example of `blocks` on so many tokens."""
    products = flops.dense(tokens, of.width, 4 * of.width) + 2 * flops.dense(
        tokens, of.width, of.mlp_dim or 4 * of.width
    )
    block = products + flops.attention(tokens, tokens, of.width)
    again = {"off": 0.0, "full": block.forward, "dots": block.forward - products.forward}[of.remat]
    return of.depth * (block + flops.Cost(recompute=again))


def check_width(of) -> None:
    """Raises ValueError for heads that do not divide the width, an unknown remat or attention."""
    if of.width % of.heads:
        raise ValueError(f"heads {of.heads} do not divide width {of.width}")
    if of.remat != "off" and of.remat not in _POLICIES:
        raise ValueError(f"remat {of.remat!r}: expected 'off', 'full' or 'dots'")
    if getattr(of, "attention", "xla") not in ("xla", "cudnn"):
        raise ValueError(f"attention {of.attention!r}: expected 'xla' or 'cudnn'")


class ViT(nn.Module):
    """Images -> logits and features (no logits with `num_classes` 0). Raises ValueError when the patch does not divide the image, or the
    heads the width.

    keep: share of the patches that enter the blocks, spread evenly and the same for all images: a cheap scorer. pool: "gap" (mean), "cls" (a
    class token) or "map" (attention pooling). scan: one traced block instead of `depth`. remat: "off", "full" or "dots" (keep the products).
    attention: "xla", or "cudnn" (fused; NVIDIA GPUs, 16-bit compute types). Training flattens tokens to 2-D before each dense layer, which is
    faster on CPUs; the numbers are the same.
    """

    num_classes: int = 0
    width: int = 192
    depth: int = 12
    heads: int = 3
    mlp_dim: int = 0  # 0: 4 * width
    patch: int = 16
    pool: str = "gap"
    scan: bool = False
    remat: str = "off"
    dtype: str = "float32"
    keep: float = field(default=1.0, metadata={"late": True})
    attention: str = field(default="xla", metadata={"late": True})

    def _kept(self, patches: int) -> np.ndarray:
        """Numbers of the patches that are kept."""
        return np.unique(
            np.linspace(0, patches - 1, max(1, round(self.keep * patches))).round().astype(np.int32)
        )

    def _check(self, image_shape: tuple[int, ...]) -> None:
        height, width, _ = image_shape
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep {self.keep}: expected a share of the patches in (0, 1]")
        if height % self.patch or width % self.patch:
            raise ValueError(f"patch {self.patch} does not divide the {height} x {width} image")
        check_width(self)
        if self.pool not in ("gap", "cls", "map"):
            raise ValueError(f"pool {self.pool!r}: expected 'gap', 'cls' or 'map'")

    @nn.compact
    def __call__(self, image: Float[Array, "B H W C"], *, train: bool = False) -> dict[str, Array]:
        self._check(image.shape[1:])
        x = self._embed(image, train)
        x = blocks(self, x, flat=train)
        x = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
        features = self._pool(x, flat=train).astype(jnp.float32)
        if not self.num_classes:
            return {"features": features}
        logits = nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="head")(
            features
        )
        return {"logits": logits, "features": features}

    def _embed(self, image: Array, train: bool) -> Array:
        size, p = image.shape[0], self.patch
        rows, columns = image.shape[1] // p, image.shape[2] // p
        x = (
            image.reshape(size, rows, p, columns, p, -1)
            .transpose(0, 1, 3, 2, 4, 5)
            .reshape(size, rows * columns, -1)
        )
        position = self.param(
            "position", nn.initializers.normal(self.width**-0.5), (rows * columns, self.width)
        )
        if self.keep < 1:
            kept = self._kept(rows * columns)
            x, position = x[:, kept], position[kept]
        x = Dense(self.width, dtype=self.dtype, flat=train, name="embed")(x)
        x = x + position[None].astype(x.dtype)
        if self.pool == "cls":
            token = self.param("cls", nn.initializers.zeros, (1, 1, self.width))
            x = jnp.concatenate(
                [jnp.broadcast_to(token.astype(x.dtype), (size, 1, self.width)), x], axis=1
            )
        return x

    def _pool(self, x: Array, flat: bool) -> Array:
        if self.pool == "gap":
            return jnp.mean(x, axis=1)
        if self.pool == "cls":
            return x[:, 0]
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, self.width))
        probe = jnp.broadcast_to(probe.astype(x.dtype), (x.shape[0], 1, self.width))
        out = Attention(self.heads, self.dtype, flat, name="pool_attention")(probe, x)
        out = out + Mlp(self.mlp_dim or 4 * self.width, self.dtype, flat, name="pool_mlp")(
            nn.LayerNorm(dtype=self.dtype, name="pool_norm")(out)
        )
        return out[:, 0]

    def cost(self, image_shape: tuple[int, int, int]) -> flops.Cost:
        """FLOPs per example on images of this shape."""
        self._check(image_shape)
        height, width, _ = image_shape
        patches = len(self._kept((height // self.patch) * (width // self.patch)))
        tokens, hidden = patches + (self.pool == "cls"), self.mlp_dim or 4 * self.width
        total = flops.dense(patches, self.patch**2 * image_shape[2], self.width, first=True)
        total = total + blocks_cost(self, tokens) + flops.dense(1, self.width, self.num_classes)
        if self.pool == "map":
            total += flops.dense(tokens, self.width, 2 * self.width) + flops.dense(
                1, self.width, 2 * self.width
            )
            total += flops.attention(1, tokens, self.width) + 2 * flops.dense(1, self.width, hidden)
        return total


def stack_blocks(params: dict) -> dict:
    """Parameters of the unrolled form (block_0, block_1, ...) in the layout of the scanned form (blocks, leading axis depth)."""
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
