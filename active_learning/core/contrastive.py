"""Losses of image-text pairs from their embeddings: per example (B,) float32, never reduced; and the paper's dot-product l_act.

Each loss runs over its rows against all columns. `chunk` cuts the columns; every chunk is a `jax.checkpoint`, because differentiating a
plain loop keeps all of its blocks and saves nothing. Within a `shard_map`, `axis` names the mesh axes over which the rows are split: the
columns are gathered (B x D, no B x B), so a device holds a block of its own rows only.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Embeddings(NamedTuple):
    """What a two-tower model says of pairs: embeddings of unit norm, and the scale and bias of its logits.

    image, text: (B, D); scale, bias: (), logit of image i and text j = scale * image_i . text_j + bias. (As a pytree it also holds specs
    and shapes, so the types are said here.)
    """

    image: Any
    text: Any
    scale: Any
    bias: Any


def normalize(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """x / |x| along the last axis in float32; finite, with a finite gradient, for x = 0."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-16))


def dot(image: Float[Array, "B D"], text: Float[Array, "B D"]) -> Float[Array, "B"]:
    """- image_i . text_i of unit-norm embeddings, in [-1, 1]: l_act of ActiveCLIP, independent of the rest of the batch."""
    return -jnp.sum(image.astype(jnp.float32) * text.astype(jnp.float32), axis=-1)


def products(rows: Float[Array, "R D"], columns: Float[Array, "C D"]) -> Float[Array, "R C"]:
    """rows . columns in full float32 on every backend: what loses bits here is multiplied by the scale."""
    return jnp.matmul(
        rows.astype(jnp.float32), columns.astype(jnp.float32).T, precision=jax.lax.Precision.HIGHEST
    )


def _all(x: Float[Array, "r D"], axis: str | tuple[str, ...] | None) -> Float[Array, "B D"]:
    return x if axis is None else jax.lax.all_gather(x, axis, tiled=True)


def _over_columns(
    block: Callable, rows: Float[Array, "R D"], columns: Float[Array, "C D"], chunk: int
) -> Float[Array, "n R"]:
    """block(rows, chunk of columns) -> (R,), for each chunk; of each only inputs and outputs are kept for the gradient."""
    count = columns.shape[0]
    if not chunk or chunk >= count:
        return block(rows, columns)[None]
    if count % chunk:
        raise ValueError(f"loss chunk {chunk} does not divide the {count} pairs of the batch")
    cut = columns.reshape(count // chunk, chunk, -1)
    return jax.lax.map(jax.checkpoint(lambda part: block(rows, part), prevent_cse=False), cut)


def info_nce(
    image: Float[Array, "B D"],
    text: Float[Array, "B D"],
    scale: Float[Array, ""],
    *,
    chunk: int = 0,
    axis: str | tuple[str, ...] | None = None,
) -> Float[Array, "B"]:
    """Softmax-contrastive loss of each pair in nats: mean of -log p(text_i | image_i) and -log p(image_i | text_i) (arXiv 2103.00020).

    Raises ValueError when `chunk` does not divide the number of pairs.
    """

    def log_sum(rows, columns):
        block = lambda rows, part: jax.nn.logsumexp(scale * products(rows, part), axis=1)  # noqa: E731
        return jax.nn.logsumexp(_over_columns(block, rows, _all(columns, axis), chunk), axis=0)

    return 0.5 * (log_sum(image, text) + log_sum(text, image)) + scale * dot(image, text)


def sigmoid(
    image: Float[Array, "B D"],
    text: Float[Array, "B D"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    *,
    chunk: int = 0,
    axis: str | tuple[str, ...] | None = None,
) -> Float[Array, "B"]:
    """Sigmoid loss of each image against all texts in nats, summed over the texts; its mean over images is SigLIP's (arXiv 2303.15343).

    l_i = softplus(-x_ii) + sum over j != i of softplus(x_ij) with x = scale * image . text + bias. Raises ValueError when `chunk` does not
    divide the number of pairs.
    """

    def block(rows, part):
        return jnp.sum(jax.nn.softplus(scale * products(rows, part) + bias), axis=1)

    as_negatives = jnp.sum(_over_columns(block, image, _all(text, axis), chunk), axis=0)
    own = bias - scale * dot(image, text)
    return as_negatives - own  # softplus(-x) = softplus(x) - x


def in_batch_accuracy(
    image: Float[Array, "B D"],
    text: Float[Array, "B D"],
    *,
    axis: str | tuple[str, ...] | None = None,
) -> Float[Array, "B"]:
    """1.0 where no other text of the batch is closer to the image than its own: is it learning at all?"""
    others = products(image, _all(text, axis))
    return (-dot(image, text) >= jnp.max(others, axis=1) - 1e-6).astype(jnp.float32)
