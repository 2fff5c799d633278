"""Whether parameters are finite, wherever they lie."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree


def nonfinite(tree: PyTree) -> str | None:
    """Returns the path of the first parameter with a value that is not finite, else None.

    Optimizer states and whatever else lies outside of `params` is not looked at.
    """
    named = [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    named = [
        (name, leaf)
        for name, leaf in named
        if "params" in name.split("/") and jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    if not named:
        return None
    leaves = [leaf for _, leaf in named]
    if all(isinstance(leaf, np.ndarray) for leaf in leaves):
        finite = np.array([np.isfinite(leaf).all() for leaf in leaves])
    else:
        finite = _finite_on_devices(leaves)
    return None if finite.all() else named[int(np.argmin(finite))][0]


def _finite_on_devices(leaves: list) -> np.ndarray:
    """Whether each array is finite: one program for each mesh, which all processes run.

    An array may be spread over processes, and actors have devices of their own.
    """
    meshes: dict[frozenset, list[int]] = {}
    for number, leaf in enumerate(leaves):
        devices = leaf.sharding.device_set if isinstance(leaf, jax.Array) else ()
        meshes.setdefault(frozenset(devices), []).append(number)
    finite = np.ones(len(leaves), bool)
    for numbers in meshes.values():
        finite[numbers] = np.asarray(jax.jit(_all_finite)([leaves[n] for n in numbers]))
    return finite


def _all_finite(leaves: list) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves])
