"""The gradient of a batch's weighted mean loss, in one pass or from micro-batches that fit in memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


def value_and_grad(
    model: Any, params: PyTree, batch: PyTree, weights: Float[Array, "b"], parts: int = 1
) -> tuple[Float[Array, ""], PyTree]:
    """Mean of weights * l_learn over the batch and its gradient; `model`: a `recipe.Model`.

    With `parts` > 1 the activations of one part of the batch are held at a time and the result is the same up to rounding. A pairwise loss needs
    two passes: outputs of all parts without gradient, the loss's gradient with respect to them, then part by part again, pulled back
    (arXiv 2101.06983). Parts take every `parts`-th row, so that each device's rows stay where they are.
    """

    def mean(outputs: PyTree, batch: PyTree, weights: Float[Array, "m"]) -> Float[Array, ""]:
        return jnp.mean(weights * model.learn_loss(outputs, batch))

    def whole(params: PyTree, batch: PyTree, weights: Float[Array, "m"]) -> Float[Array, ""]:
        return mean(model.apply(params, batch, True), batch, weights)

    if parts == 1:
        return jax.value_and_grad(whole)(params, batch, weights)
    cut = lambda tree: jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0), tree
    )  # noqa: E731
    add = lambda total, more: jax.tree.map(jnp.add, total, more)  # noqa: E731
    nothing = jax.tree.map(jnp.zeros_like, params)
    if not model.pairwise:

        def one(total, part):
            return add(total, jax.value_and_grad(whole)(params, *part)), None

        sums, _ = jax.lax.scan(one, (jnp.float32(0.0), nothing), cut((batch, weights)))
        return jax.tree.map(lambda x: x / parts, sums)
    said = jax.lax.map(lambda rows: model.apply(params, rows, True), cut(batch))
    said = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), said)
    loss, towards = jax.value_and_grad(mean)(said, batch, weights)

    def back(total, part):
        rows, pulled = part
        return add(total, jax.vjp(lambda p: model.apply(p, rows, True), params)[1](pulled)[0]), None

    return loss, jax.lax.scan(back, nothing, cut((batch, towards)))[0]
