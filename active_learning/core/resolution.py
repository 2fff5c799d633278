"""A learner that sees part of each batch at a low resolution, and scores there (Flexi-JEST).

Both resolutions read one set of parameters. Which rows are seen how follows from their place in the
batch, so shapes are static; `home_first` deals the selected rows to the places by their rank, the
same on any number of devices.
"""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from active_learning.core.recipe import Batch, Model


def rows_at_low(fraction: float, batch_size: int) -> Fraction:
    """`fraction` of the rows of each device as a reduced fraction, its denominator the period.

    Raises:
      ValueError: That is no whole number of rows, or none or all of them.
    """
    count = round(fraction * batch_size)
    if not 0 < count < batch_size or abs(count - fraction * batch_size) > 1e-6 * batch_size:
        raise ValueError(
            f"{fraction}: expected a whole number of a device's {batch_size} examples, and not all"
        )
    return Fraction(count, batch_size)


def mixed(full: Model, low: Model, fraction: Fraction) -> Model:
    """`full`, which trains on a fixed fraction of each batch as `low`, and scores as `low`.

    In every run of `fraction.denominator` rows the last `fraction.numerator` are seen as `low`.
    Evaluation is that of `full`.

    Args:
      full: The model at its own resolution.
      low: The same parameters at the low resolution.
      fraction: Of the rows trained on at the low resolution, in (0, 1).
    """
    period = fraction.denominator
    first = period - fraction.numerator

    def of(batch: PyTree, start: int, stop: int) -> PyTree:
        def rows(leaf: jax.Array) -> jax.Array:
            split = jnp.reshape(leaf, (-1, period, *leaf.shape[1:]))[:, start:stop]
            return split.reshape(-1, *leaf.shape[1:])

        return jax.tree.map(rows, batch)

    def apply(params: PyTree, batch: Batch, train: bool) -> Any:
        if not train:
            return full.apply(params, batch, False)

        def join(sharp: jax.Array, coarse: jax.Array) -> jax.Array:
            shape = sharp.shape[1:]
            parts = sharp.reshape(-1, first, *shape), coarse.reshape(-1, period - first, *shape)
            return jnp.concatenate(parts, axis=1).reshape(-1, *shape)

        sharp = full.apply(params, of(batch, 0, first), True)
        return jax.tree.map(join, sharp, low.apply(params, of(batch, first, period), True))

    return replace(full, apply=apply, score_apply=low.apply, period=period)
