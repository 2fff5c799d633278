"""Gradient of a batch's weighted mean loss, at once or from micro-batches that fit in memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

# A `Model` (recipe.py) is annotated as Any here, so that this module imports nothing of ours.


def split(tree: PyTree, parts: int) -> PyTree:
    """Splits the leading axis into micro-batches: (b, ...) -> (parts, b / parts, ...).

    A micro-batch takes every `parts`-th row, so that rows stay on their devices.
    """
    return jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0), tree
    )  # fmt: skip


def merge(tree: PyTree) -> PyTree:
    """Inverse of `split`."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), tree)


def weighted_mean(
    model: Any, outputs: PyTree, batch: PyTree, weights: Float[Array, "b"]
) -> Float[Array, ""]:
    """Mean over the batch of weights * l_learn, from the model's outputs."""
    return jnp.mean(weights * model.learn_loss(outputs, batch))


def outputs_of(model: Any, params: PyTree, batch: PyTree, parts: int) -> PyTree:
    """Outputs of the model in training mode, one micro-batch at a time."""
    return merge(jax.lax.map(lambda rows: model.apply(params, rows, True), split(batch, parts)))


def pull_back(
    model: Any, params: PyTree, batch: PyTree, cotangents: PyTree, parts: int = 1
) -> PyTree:
    """Gradient for the parameters of sum(cotangents * outputs), one micro-batch at a time.

    Each micro-batch runs forward and backward, so only its activations are live.
    """

    def add(total, rows_and_cotangents):
        rows, cotangent = rows_and_cotangents
        _, vjp = jax.vjp(lambda p: model.apply(p, rows, True), params)
        return jax.tree.map(jnp.add, total, vjp(cotangent)[0]), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    return jax.lax.scan(add, zeros, split((batch, cotangents), parts))[0]


def value_and_grad(
    model: Any, params: PyTree, batch: PyTree, weights: Float[Array, "b"], parts: int = 1
) -> tuple[Float[Array, ""], PyTree]:
    """Mean of weights * l_learn over the batch, and its gradient; see `losses_and_grad`."""
    (loss, _), grads = losses_and_grad(model, params, batch, weights, parts)
    return loss, grads


def losses_and_grad(
    model: Any, params: PyTree, batch: PyTree, weights: Float[Array, "b"], parts: int = 1
) -> tuple[tuple[Float[Array, ""], Float[Array, "b"]], PyTree]:
    """Mean of weights * l_learn over the batch, l_learn of each example, and the mean's gradient.

    A pairwise loss needs two passes over the micro-batches: the outputs of all of them without
    gradient, then the gradient of the loss with respect to the outputs, pulled back part by part
    (GradCache, arXiv 2101.06983).

    Args:
      model: A `recipe.Model`.
      params: Its parameters.
      batch: Arrays with leading axis b.
      weights: Weight of each example's loss.
      parts: Micro-batches. Only one micro-batch's activations are live at a time; the result is
        equal up to floating-point rounding.
    """

    def mean(params: PyTree, batch: PyTree, weights: Float[Array, "m"]) -> tuple[Array, Array]:
        losses = model.learn_loss(model.apply(params, batch, True), batch)
        return jnp.mean(weights * losses), losses

    with_losses = jax.value_and_grad(mean, has_aux=True)
    if parts == 1:
        return with_losses(params, batch, weights)
    if not model.pairwise:

        def add(total, part):
            (loss, losses), grads = with_losses(params, *part)
            return jax.tree.map(jnp.add, total, (loss, grads)), losses

        zeros = (jnp.float32(0.0), jax.tree.map(jnp.zeros_like, params))
        sums, losses = jax.lax.scan(add, zeros, split((batch, weights), parts))
        loss, grads = jax.tree.map(lambda x: x / parts, sums)
        return (loss, merge(losses)), grads
    outputs = outputs_of(model, params, batch, parts)
    loss, cotangents = jax.value_and_grad(weighted_mean, 1)(model, outputs, batch, weights)
    losses = model.learn_loss(outputs, batch)
    return (loss, losses), pull_back(model, params, batch, cotangents, parts)
