"""One forward pass for two uses: it scores B candidates, and the b selected of them train on it.

Reverse-mode differentiation is a forward pass that keeps residuals, and a backward pass that reads
them. Residuals belong to examples, so a selection's backward pass needs those of its rows only.
The loss is evaluated on the outputs of the selected rows, so it may depend on their whole batch.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from active_learning.core import gradients
from active_learning.core.recipe import Model
from active_learning.core.sharding import take_sharded


class Forward(NamedTuple):
    """A forward pass over all candidates."""

    # Outputs of the model, arrays with leading axis B.
    outputs: Any
    # The pull-back with its residuals; None where the selected rows are computed again.
    pull: Any


def forward(model: Model, params: PyTree, batch: PyTree, parts: int = 1) -> Forward:
    """Runs the model in training mode on all candidates.

    Args:
      model: The model.
      params: Its parameters.
      batch: Arrays with leading axis B.
      parts: 1 keeps the residuals of all B rows: the memory of training on B, or of remat's inputs
        where the model rematerializes. More cut the pass into that many parts and keep none.
    """
    if parts == 1:
        return Forward(*jax.vjp(lambda p: model.apply(p, batch, True), params))
    return Forward(gradients.outputs_of(model, params, batch, parts), None)


def value_and_grad(
    model: Model,
    params: PyTree,
    batch: PyTree,
    passed: Forward,
    indices: Int[Array, "b"],
    weights: Float[Array, "b"],
    mesh: Mesh | None = None,
    parts: int = 1,
) -> tuple[Float[Array, ""], PyTree]:
    """Mean of weights * l_learn among the rows `indices` of the batch, and its gradient.

    Args:
      model: The model.
      params: Its parameters.
      batch: All candidates, as given to `forward`.
      passed: What `forward` returned.
      indices: Selected rows; fewer than B.
      weights: Weight of each selected row's loss.
      mesh: Devices over which the rows are split; None for one.
      parts: Micro-batches in which the selected rows are computed again, where no residuals were
        kept.
    """
    selected, outputs = take_sharded((batch, passed.outputs), indices, mesh)
    loss, cotangents = jax.value_and_grad(gradients.weighted_mean, 1)(
        model, outputs, selected, weights
    )
    if passed.pull is None:
        return loss, gradients.pull_back(model, params, selected, cotangents, parts)
    return loss, _pull_selected(model, params, batch, passed.pull, indices, mesh)(cotangents)[0]


def _pull_selected(
    model: Model, params: PyTree, batch: PyTree, pull: Any, indices: Array, mesh: Mesh | None
) -> Any:
    """The pull-back of the selected rows, from the residuals of all rows.

    The forward pass over b rows is traced to learn how their residuals lie. It never runs, since
    nothing reads its values.
    """
    size, count = jax.tree.leaves(batch)[0].shape[0], indices.shape[0]
    rows = jax.tree.map(lambda leaf: leaf[:count], batch)
    _, traced = jax.vjp(lambda p: model.apply(p, rows, True), params)
    residuals, targets = jax.tree.leaves(pull), jax.tree.leaves(traced)
    taken = [
        _take_rows(residual, target.shape, size, indices, mesh)
        for residual, target in zip(residuals, targets, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(traced), taken)


def _take_rows(
    residual: Array, shape: tuple[int, ...], size: int, indices: Array, mesh: Mesh | None
) -> Array:
    """The selected examples of a residual.

    They lie along the one axis whose length depends on the batch size (an example's tokens may be
    folded into it). A residual without such an axis, a parameter, is returned whole.
    """
    differs = [
        axis
        for axis, (old, new) in enumerate(zip(residual.shape, shape, strict=True))
        if old != new
    ]
    if not differs:
        return residual
    (axis,) = differs
    each = residual.shape[axis] // size
    split = residual.reshape(*residual.shape[:axis], size, each, *residual.shape[axis + 1 :])
    taken = take_sharded(jnp.moveaxis(split, axis, 0), indices, mesh)
    return jnp.moveaxis(taken, 0, axis).reshape(shape)
