"""Fits a kernel classifier to rows that are read in blocks, once for each fold left out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float, Int64, Integer

from active_learning.curation.kernel import Landmarks, exact

BLOCK = 2048  # rows at a time
# Places among the rows -> their features.
Read = Callable[[Int64[np.ndarray, "b"]], Float[np.ndarray, "b d"]]


@dataclass(frozen=True, eq=False)
class KernelFit:
    """Kernel classifiers with the same landmarks."""

    landmarks: Landmarks
    # One for each fold left out, and at last the one that is fitted to all rows.
    weights: Float[Array, "k m C"]

    def outputs(
        self, read: Read, count: int, fold: Integer[np.ndarray, "n"] | None = None
    ) -> Float[np.ndarray, "n C"]:
        """Outputs for rows, about 0 .. 1.

        Args:
          read: Reads their features.
          count: How many there are.
          fold: Of each row, whose classifier did not see it; None: that of all rows.
        """
        which = np.full(count, len(self.weights) - 1) if fold is None else fold
        blocks = []
        for at, valid in _blocks(np.arange(count)):
            phi = self.landmarks.map(read(at))
            blocks.append(np.asarray(_outputs(self.weights, phi, jnp.asarray(which[at])))[:valid])
        return np.concatenate(blocks)


def fit_kernel(
    read: Read,
    labels: Integer[np.ndarray, "n"],
    fold: Integer[np.ndarray, "n"],
    classes: int,
    landmarks: Landmarks,
    ridge: float,
) -> KernelFit:
    """Fits to the labels of rows 0 .. n - 1; folds without rows are left out.

    Args:
      read: Reads the features of rows.
      labels: Of the rows.
      fold: Of the rows, 0 .. folds - 1; a classifier is fitted without each, where there are
        several.
      classes: Number of classes.
      landmarks: Of the kernel.
      ridge: Added to the kernel's diagonal.
    """
    m, folds = len(landmarks.points), int(fold.max()) + 1
    sums = [(jnp.zeros((m, m)), jnp.zeros((m, classes))) for _ in range(folds)]
    for f in range(folds):
        for at, valid in _blocks(np.flatnonzero(fold == f)):
            weight = (np.arange(len(at)) < valid).astype(np.float32)
            phi = landmarks.map(read(at))
            sums[f] = _added(*sums[f], phi, jnp.asarray(labels[at]), jnp.asarray(weight), classes)
    whole = jax.tree.map(lambda *parts: sum(parts), *sums)
    left = [jax.tree.map(jnp.subtract, whole, one) for one in sums] if folds > 1 else []
    return KernelFit(landmarks, jnp.stack([_solved(*one, ridge) for one in (*left, whole)]))


def _blocks(rows: Int64[np.ndarray, "n"]) -> Iterator[tuple[Int64[np.ndarray, "b"], int]]:
    """Blocks of one size, and how many of each are real; the last one repeats its last row."""
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        yield np.pad(block, (0, BLOCK - len(block)), mode="edge"), len(block)


@partial(jax.jit, static_argnames="classes")
@exact
def _added(
    gram: Float[Array, "m m"],
    right: Float[Array, "m C"],
    phi: Float[Array, "b m"],
    labels: Integer[Array, "b"],
    weight: Float[Array, "b"],
    classes: int,
) -> tuple[Float[Array, "m m"], Float[Array, "m C"]]:
    real = phi * weight[:, None]
    targets = jax.nn.one_hot(labels, classes) - 1.0 / classes
    return gram + real.T @ real, right + real.T @ targets


@jax.jit
@exact
def _solved(
    gram: Float[Array, "m m"], right: Float[Array, "m C"], ridge: float | Float[Array, ""]
) -> Float[Array, "m C"]:
    return cho_solve(cho_factor(gram + ridge * jnp.eye(len(gram))), right)


@jax.jit
@exact
def _outputs(
    weights: Float[Array, "k m C"], phi: Float[Array, "b m"], which: Integer[Array, "b"]
) -> Float[Array, "b C"]:
    every = jnp.einsum("bm,kmc->bkc", phi, weights)
    own = jnp.take_along_axis(every, which[:, None, None], axis=1)[:, 0]
    return own + 1.0 / weights.shape[-1]
