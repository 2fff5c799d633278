"""Pure select functions: `select_fn(key, scores, b) -> Selection`. Scores are already divided by the temperature.

Indices are distinct and of static size b. Weights are 1 unless the function corrects for its own sampling (`importance_gumbel_top_k`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


class Selection(NamedTuple):
    """The rows of the super-batch to train on, and the weight of each row's loss."""

    indices: Int[Array, "b"]
    weights: Float[Array, "b"]


def _checked(scores: Float[Array, "B"], b: int) -> None:
    if not 1 <= b <= scores.shape[0]:
        raise ValueError(f"cannot select b={b} of B={scores.shape[0]} candidates: 1 <= b <= B is needed")


def gumbel_top_k(key: Key[Array, ""], scores: Float[Array, "B"], b: int) -> Selection:
    """I ~ SoftMax(scores) without replacement, |I| = b (Algorithm 1 of arXiv 2312.05328).

    The b largest of scores + Gumbel noise follow the law of drawing one index after the other in proportion to exp(score)
    among those left (Kool et al. 2019, arXiv 1903.06059). Raises ValueError unless 1 <= b <= B.
    """
    _checked(scores, b)
    _, indices = jax.lax.top_k(scores + jax.random.gumbel(key, scores.shape, jnp.float32), b)
    return Selection(indices, jnp.ones((b,), jnp.float32))


def top_k(key: Key[Array, ""], scores: Float[Array, "B"], b: int) -> Selection:
    """The b largest scores, no sampling (RHO-LOSS, arXiv 2206.07137). Ties go to the lower index; the key is not used."""
    del key
    _checked(scores, b)
    _, indices = jax.lax.top_k(scores, b)
    return Selection(indices, jnp.ones((b,), jnp.float32))


def inclusion(gap: Float[Array, "b"]) -> Float[Array, "b"]:
    """q = P(Gumbel > -gap) = 1 - exp(-exp(gap)) with gap = log p - kappa, by expm1: the plain form is 0 below a gap of -17."""
    return -jnp.expm1(-jnp.exp(gap))


def importance_gumbel_top_k(key: Key[Array, ""], scores: Float[Array, "B"], b: int) -> Selection:
    """Gumbel-top-k with weights that make the sub-batch's weighted mean an unbiased estimate of the super-batch's mean.

    weight = b / (B q) with q = P(log p + Gumbel > kappa), kappa the (b+1)-th largest perturbed log-probability (Kool et al. 2019).
    All weights are 1 when b = B.
    """
    _checked(scores, b)
    size = scores.shape[0]
    if b == size:
        return Selection(jnp.arange(size), jnp.ones((size,), jnp.float32))
    log_p = jax.nn.log_softmax(scores)
    perturbed, order = jax.lax.top_k(log_p + jax.random.gumbel(key, scores.shape, jnp.float32), b + 1)
    indices = order[:b]
    return Selection(indices, b / (size * inclusion(log_p[indices] - perturbed[b])))
