"""Samplers, pure: `sampler(key, scores, b) -> Selection`.

Scores are already divided by the temperature. Indices are distinct and of static size b. Weights
are 1 unless the sampler corrects for its own sampling (`importance_gumbel_top_k`).
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


class Selection(NamedTuple):
    """Rows of the super-batch to train on, and the weight of each row's loss."""

    indices: Int[Array, "b"]
    weights: Float[Array, "b"]


def _check_count(scores: Float[Array, "B"], b: int) -> None:
    if not 1 <= b <= scores.shape[0]:
        raise ValueError(
            f"cannot select b={b} of B={scores.shape[0]} candidates: 1 <= b <= B is needed"
        )


def gumbel_top_k(key: Key[Array, ""], scores: Float[Array, "B"], b: int) -> Selection:
    """I ~ SoftMax(scores) without replacement, |I| = b (Algorithm 1 of arXiv 2312.05328).

    The b largest of scores + Gumbel noise are distributed as drawing one index after the other in
    proportion to exp(score) among those left (Kool et al. 2019, arXiv 1903.06059).

    Raises:
      ValueError: Unless 1 <= b <= B.
    """
    _check_count(scores, b)
    _, indices = jax.lax.top_k(scores + jax.random.gumbel(key, scores.shape, jnp.float32), b)
    return Selection(indices, jnp.ones((b,), jnp.float32))


def top_k(key: Key[Array, ""], scores: Float[Array, "B"], b: int) -> Selection:
    """The b largest scores, no sampling (RHO-LOSS, arXiv 2206.07137).

    Ties go to the lower index; the key is not used.
    """
    del key
    _check_count(scores, b)
    _, indices = jax.lax.top_k(scores, b)
    return Selection(indices, jnp.ones((b,), jnp.float32))


def inclusion(gap: Float[Array, "b"]) -> Float[Array, "b"]:
    """Inclusion probability q = P(Gumbel > -gap) = 1 - exp(-exp(gap)), gap = log p - kappa.

    Computed by expm1, since the plain form is 0 below a gap of -17.
    """
    return -jnp.expm1(-jnp.exp(gap))


def importance_gumbel_top_k(key: Key[Array, ""], scores: Float[Array, "B"], b: int) -> Selection:
    """Gumbel-top-k with importance weights.

    The sub-batch's weighted mean is an unbiased estimate of the super-batch's mean: weight =
    b / (B q) with q = P(log p + Gumbel > kappa), kappa the (b+1)-th largest perturbed
    log-probability (Kool et al. 2019). All weights are 1 when b = B.
    """
    _check_count(scores, b)
    size = scores.shape[0]
    if b == size:
        return Selection(jnp.arange(size), jnp.ones((size,), jnp.float32))
    log_p = jax.nn.log_softmax(scores)
    perturbed, order = jax.lax.top_k(
        log_p + jax.random.gumbel(key, scores.shape, jnp.float32), b + 1
    )
    indices = order[:b]
    return Selection(indices, b / (size * inclusion(log_p[indices] - perturbed[b])))


@runtime_checkable
class PairScores(Protocol):
    """Scores of all pairs (i, j) of a super-batch, without a (B, B) array."""

    def diag(self) -> Float[Array, "B"]:
        """Scores of the pairs (i, i)."""
        ...

    def gains(self, selected: int) -> Callable[[Int[Array, "n"]], Float[Array, "B"]]:
        """Returns new -> for each i the sum over j in new of S_ij + S_ji.

        Entries of i in new are unspecified. `selected`: how many will be new in all.
        """
        ...


def joint(
    key: Key[Array, ""],
    scores: PairScores,
    b: int,
    *,
    chunks: int = 16,
    first: float | None = None,
) -> Selection:
    """Selects the sub-batch as a whole (JEST, Algorithm 1 of arXiv 2406.17711).

    Chunk by chunk without replacement, each chunk sampled in proportion to exp of s_i = S_ii + sum
    over the selected j of (S_ij + S_ji), which is what i adds to the sum of S over the sub-batch.
    The sums are updated by the newly selected only: 2 B b products in all.

    Args:
      key: Key of this update.
      scores: Scores S of all pairs.
      b: Size of the sub-batch.
      chunks: Number of chunks.
      first: Fraction of b in the first chunk, which is sampled by the diagonal alone. None: as
        large as the others. The first chunk also gets the remainder of b / chunks.

    Raises:
      ValueError: Unless 1 <= b <= B, 1 <= chunks <= b and 0 < first <= 1.
    """
    own = scores.diag()
    _check_count(own, b)
    if not 1 <= chunks <= b:
        raise ValueError(f"joint selection with chunks={chunks}: expected 1 to b={b}")
    if first is not None and not 0 < first <= 1:
        raise ValueError(f"joint selection with first={first}: expected a fraction in (0, 1]")
    size = b // chunks if first is None else (b - max(1, round(first * b))) // max(1, chunks - 1)
    start = b - size * (chunks - 1)

    def draw(number, logits, count):
        noise = jax.random.gumbel(jax.random.fold_in(key, number), own.shape, jnp.float32)
        return jax.lax.top_k(logits + noise, count)[1].astype(jnp.int32)

    gains = scores.gains(b)

    def add(logits, new):
        """Logits once `new` is selected: -inf for it, plus the pairs with it for all others."""
        return (logits + gains(new)).at[new].set(-jnp.inf)

    def select_chunk(number, carry):
        logits, chosen = carry
        new = draw(number, logits, size)
        place = (start + (number - 1) * size,)
        return add(logits, new), jax.lax.dynamic_update_slice(chosen, new, place)

    new = draw(0, own, start)
    chosen = jnp.zeros((b,), jnp.int32).at[:start].set(new)
    if size and chunks > 1:
        carry = (add(own, new), chosen)
        logits, chosen = jax.lax.fori_loop(1, chunks - 1, select_chunk, carry)
        chosen = chosen.at[b - size :].set(draw(chunks - 1, logits, size))
    return Selection(chosen, jnp.ones((b,), jnp.float32))
