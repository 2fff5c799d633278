"""One forward pass for two uses: the losses of B candidates now, the gradient of the b that are chosen of them later.

Reverse-mode differentiation is a forward pass that keeps residuals, and a backward pass that reads them. Residuals belong to examples, so
the backward pass of a choice needs those of its rows and nothing else: what was computed to score is not computed again to train.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from active_learning.core.sharding import take_sharded

Losses = Callable[[PyTree, PyTree], Any]  # (params, batch) -> (B,), each of its own example only


def forward(losses: Losses, params: PyTree, batch: PyTree) -> tuple[Float[Array, "B"], Any]:
    """Losses of all candidates, and what their backward pass needs (memory: that of training on all B)."""
    return jax.vjp(lambda p: losses(p, batch), params)


def backward(
    losses: Losses,
    params: PyTree,
    pull: Any,
    batch: PyTree,
    indices: Int[Array, "b"],
    weights: Float[Array, "b"],
    mesh: Mesh | None = None,
) -> PyTree:
    """The gradient of sum(weights * losses) over the rows `indices`, from the residuals `pull` of `forward`.

    The forward pass on the chosen rows is traced to learn how their residuals lie, and never runs: nothing reads its numbers.
    """
    size, count = jax.tree.leaves(batch)[0].shape[0], indices.shape[0]
    chosen = jax.tree.map(lambda leaf: leaf[:count], batch)
    _, shape_of = jax.vjp(lambda p: losses(p, chosen), params)
    kept, places = jax.tree.leaves(pull), jax.tree.leaves(shape_of)
    rows = [
        _rows(leaf, place.shape, size, count, indices, mesh)
        for leaf, place in zip(kept, places, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(shape_of), rows)(weights)[0]


def _rows(
    leaf: Array, shape: tuple[int, ...], size: int, count: int, indices: Array, mesh: Mesh | None
) -> Array:
    """The chosen examples of a residual, which lie along the one axis whose length follows the batch (tokens of an example may be folded
    into it); a residual that is of no example, a parameter, stays whole.
    """
    differs = [
        axis for axis, (old, new) in enumerate(zip(leaf.shape, shape, strict=True)) if old != new
    ]
    if not differs:
        return leaf
    (axis,) = differs
    each = leaf.shape[axis] // size
    split = leaf.reshape(*leaf.shape[:axis], size, each, *leaf.shape[axis + 1 :])
    taken = take_sharded(jax.numpy.moveaxis(split, axis, 0), indices, mesh)
    return jax.numpy.moveaxis(taken, 0, axis).reshape(shape)
