"""Train states that are sharded over several processes, as whole arrays on the first one.

Leaf by leaf, so that a device holds no more than two whole leaves besides its own shards. Of a
random key the first process has the key data.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from active_learning.distributed.processes import is_primary


def gathered(tree: PyTree[jax.Array]) -> PyTree[np.ndarray] | None:
    """The arrays in the memory of the first process; None on the others, which must call it too."""
    leaves, shape = jax.tree.flatten(tree)
    whole = [_whole(leaf) for leaf in leaves]
    return shape.unflatten(whole) if is_primary() else None


def is_key(leaf: Any) -> bool:
    """Whether an array, or its description, is of random keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _whole(leaf: jax.Array) -> np.ndarray | None:
    leaf = jax.random.key_data(leaf) if is_key(leaf) else leaf
    if leaf.is_fully_replicated:
        return np.asarray(leaf.addressable_data(0)) if is_primary() else None
    values = multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(values) if is_primary() else None


def scattered(whole: PyTree[np.ndarray] | None, like: PyTree[jax.Array]) -> PyTree[jax.Array]:
    """The inverse of `gathered`.

    Args:
      whole: The arrays, on the first process; the others need not have them.
      like: Arrays of these shapes and types, with the shardings of the result.
    """
    targets, shape = jax.tree.flatten(like)
    leaves = [None] * len(targets) if whole is None else shape.flatten_up_to(whole)
    return shape.unflatten([_placed(*pair) for pair in zip(leaves, targets, strict=True)])


def _placed(leaf: np.ndarray | None, target: jax.Array) -> jax.Array:
    data = jax.eval_shape(jax.random.key_data, target) if is_key(target) else target
    value = np.zeros(data.shape, data.dtype) if leaf is None else np.asarray(leaf)
    value = np.asarray(multihost_utils.broadcast_one_to_all(value), data.dtype)
    placed = jax.make_array_from_callback(data.shape, target.sharding, lambda index: value[index])
    if is_key(target):
        return jax.random.wrap_key_data(placed, impl=jax.random.key_impl(target))
    return placed
