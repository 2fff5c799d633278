"""Contrastive losses of image-text pairs from embeddings: per example (B,) float32, unreduced.

Each loss compares its rows with all columns. `chunk` splits the columns; every chunk is a
`jax.checkpoint`, because differentiating a plain loop keeps the logits of all chunks. Within a
`shard_map`, `axis` names the mesh axes over which the rows are split: the columns are gathered
(B x D, never B x B), so a device only holds logits of its own rows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Axis = str | tuple[str, ...] | None


class Embeddings(NamedTuple):
    """Two-tower outputs for B pairs: logit of image i and text j = scale * image_i . text_j + bias.

    As a pytree it also holds partition specs and shapes, so array types are comments here.
    """

    image: Any  # (B, D) float32, unit norm
    text: Any  # (B, D) float32, unit norm
    scale: Any  # (B,) float32, the same value in each row (so that outputs all have B rows)
    bias: Any  # (B,) float32, the same value in each row


def l2_normalize(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Divides by the norm along the last axis, in float32.

    Finite, with a finite gradient, for x = 0.
    """
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-16))


def negative_dot(image: Float[Array, "B D"], text: Float[Array, "B D"]) -> Float[Array, "B"]:
    """-image_i . text_i of unit-norm embeddings, in [-1, 1]: l_act of ActiveCLIP.

    It is independent of the other pairs of the batch.
    """
    return -jnp.sum(image.astype(jnp.float32) * text.astype(jnp.float32), axis=-1)


def products(rows: Float[Array, "R D"], columns: Float[Array, "C D"]) -> Float[Array, "R C"]:
    """Inner products in full float32 on every backend, since the logit scale amplifies errors."""
    return jnp.matmul(
        rows.astype(jnp.float32), columns.astype(jnp.float32).T, precision=jax.lax.Precision.HIGHEST
    )


def _gather(x: Float[Array, "r D"], axis: Axis) -> Float[Array, "B D"]:
    return x if axis is None else jax.lax.all_gather(x, axis, tiled=True)


def _over_columns(
    block: Callable, rows: Float[Array, "R D"], columns: Float[Array, "C D"], chunk: int
) -> Any:
    """Maps `block(rows, chunk of columns) -> arrays (R,)` over the chunks of the columns.

    Returns:
      The results stacked, (chunks, R). Of each chunk only inputs and outputs are kept for the
      gradient.
    """
    count = columns.shape[0]
    if not chunk or chunk >= count:
        return jax.tree.map(lambda leaf: leaf[None], block(rows, columns))
    if count % chunk:
        raise ValueError(f"loss chunk {chunk} does not divide the {count} pairs of the batch")
    chunks = columns.reshape(count // chunk, chunk, -1)
    return jax.lax.map(jax.checkpoint(lambda part: block(rows, part), prevent_cse=False), chunks)


def info_nce(
    image: Float[Array, "B D"],
    text: Float[Array, "B D"],
    scale: Float[Array, ""],
    *,
    chunk: int = 0,
    axis: Axis = None,
) -> Float[Array, "B"]:
    """Softmax-contrastive loss of each pair in nats (CLIP, arXiv 2103.00020).

    l_i is the mean of -log p(text_i | image_i) and -log p(image_i | text_i).

    Args:
      image: Unit-norm image embeddings.
      text: Unit-norm text embeddings.
      scale: Factor of the logits (1 / temperature).
      chunk: Columns per block of logits; 0 computes all at once.
      axis: Mesh axes over which the rows are split, within a `shard_map`.

    Raises:
      ValueError: `chunk` does not divide the number of pairs.
    """

    def log_sum(rows, columns):
        def block(rows, part):
            return jax.nn.logsumexp(scale * products(rows, part), axis=1)

        return jax.nn.logsumexp(_over_columns(block, rows, _gather(columns, axis), chunk), axis=0)

    return 0.5 * (log_sum(image, text) + log_sum(text, image)) + scale * negative_dot(image, text)


def sigmoid(
    image: Float[Array, "B D"],
    text: Float[Array, "B D"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    *,
    chunk: int = 0,
    axis: Axis = None,
) -> Float[Array, "B"]:
    """Sigmoid loss of each image against all texts, in nats, summed over the texts.

    l_i = softplus(-x_ii) + sum over j != i of softplus(x_ij) with x = scale * image . text + bias.
    Its mean over images is the loss of SigLIP (arXiv 2303.15343). Arguments and errors as in
    `info_nce`.
    """

    def block(rows, part):
        return jnp.sum(jax.nn.softplus(scale * products(rows, part) + bias), axis=1)

    as_negatives = jnp.sum(_over_columns(block, image, _gather(text, axis), chunk), axis=0)
    own = bias - scale * negative_dot(image, text)
    return as_negatives - own  # softplus(-x) = softplus(x) - x


def soft_info_nce(
    image: Float[Array, "B D"],
    text: Float[Array, "B D"],
    teacher_image: Float[Array, "B E"],
    teacher_text: Float[Array, "B E"],
    scale: Float[Array, ""],
    teacher_scale: Float[Array, ""],
    *,
    temperature: float = 1.0,
    chunk: int = 0,
    axis: Axis = None,
) -> Float[Array, "B"]:
    """Cross-entropy of the in-batch matching distributions with a teacher's, in nats.

    The mean over both directions of T^2 * H(softmax(t_i / T), softmax(x_i / T)), where x_i are the
    logits of example i with all others and t_i the teacher's. Other arguments and errors as in
    `info_nce`.
    """
    width = image.shape[1]

    def cross_entropy(rows, columns):
        def logits(rows, part):
            student = scale * products(rows[:, :width], part[:, :width])
            teacher = teacher_scale * products(rows[:, width:], part[:, width:])
            return student / temperature, teacher / temperature

        def log_sums(rows, part):
            return jax.tree.map(lambda x: jax.nn.logsumexp(x, axis=1), logits(rows, part))

        columns = _gather(columns, axis)
        normalizers = _over_columns(log_sums, rows, columns, chunk)
        normalizer, teacher_normalizer = (jax.nn.logsumexp(n, axis=0) for n in normalizers)

        def expected_logit(rows, part):
            student, teacher = logits(rows, part)
            return jnp.sum(jnp.exp(teacher - teacher_normalizer[:, None]) * student, axis=1)

        return normalizer - jnp.sum(_over_columns(expected_logit, rows, columns, chunk), axis=0)

    images = jnp.concatenate([image, teacher_image], axis=1)
    texts = jnp.concatenate([text, teacher_text], axis=1)
    both = cross_entropy(images, texts) + cross_entropy(texts, images)
    return 0.5 * temperature**2 * both


def in_batch_accuracy(
    image: Float[Array, "B D"], text: Float[Array, "B D"], *, axis: Axis = None
) -> Float[Array, "B"]:
    """In-batch image-to-text top-1 accuracy: 1.0 where no other text is closer to the image."""
    others = products(image, _gather(text, axis))
    return (-negative_dot(image, text) >= jnp.max(others, axis=1) - 1e-6).astype(jnp.float32)
