"""Pure select functions: `select_fn(key, scores, b) -> Selection`. Scores are already divided by the temperature.

Indices are distinct and of static size b. Weights are 1 unless the function corrects for its own sampling (`importance_gumbel_top_k`).
"""

from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


class Selection(NamedTuple):
    """The rows of the super-batch to train on, and the weight of each row's loss."""

    indices: Int[Array, "b"]
    weights: Float[Array, "b"]


def _checked(scores: Float[Array, "B"], b: int) -> None:
    if not 1 <= b <= scores.shape[0]:
        raise ValueError(
            f"cannot select b={b} of B={scores.shape[0]} candidates: 1 <= b <= B is needed"
        )


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
    perturbed, order = jax.lax.top_k(
        log_p + jax.random.gumbel(key, scores.shape, jnp.float32), b + 1
    )
    indices = order[:b]
    return Selection(indices, b / (size * inclusion(log_p[indices] - perturbed[b])))


@runtime_checkable
class PairScores(Protocol):
    """Scores of all pairs (i, j) of a super-batch of which no (B, B) array exists."""

    def diag(self) -> Float[Array, "B"]:
        """Scores of the pairs (i, i)."""
        ...

    def block(
        self, rows: Int[Array, "R"] | None, columns: Int[Array, "C"] | None
    ) -> Float[Array, "R C"]:
        """Scores of the pairs (i, j), i in rows and j in columns (None: all); places with i = j hold what they like."""
        ...


def joint(
    key: Key[Array, ""],
    scores: PairScores,
    b: int,
    *,
    chunks: int = 16,
    first: float | None = None,
    tile: int = 64,
) -> Selection:
    """The sub-batch as a whole (JEST, Algorithm 1 of arXiv 2406.17711): chunk by chunk without replacement, each chunk drawn in proportion to
    exp of s_i = S_ii + sum over the chosen j of (S_ij + S_ji), what i adds to the sum of S over the sub-batch.

    first: share of b in the first chunk, which is drawn by the diagonal alone (None: as large as the others; what does not divide by `chunks`
    goes to it as well). The sums are updated by the newly chosen only, `tile` of them at a time: 2 B b products in all, (B, tile) of memory.
    Raises ValueError unless 1 <= b <= B, 1 <= chunks <= b and 0 < first <= 1.
    """
    own = scores.diag()
    _checked(own, b)
    if not 1 <= chunks <= b:
        raise ValueError(f"joint selection in chunks={chunks}: 1 .. b={b} are possible")
    if first is not None and not 0 < first <= 1:
        raise ValueError(f"joint selection with first={first}: expected a share in (0, 1]")
    size = b // chunks if first is None else (b - max(1, round(first * b))) // max(1, chunks - 1)
    start = b - size * (chunks - 1)

    def draw(number, logits, count):
        noise = jax.random.gumbel(jax.random.fold_in(key, number), own.shape, jnp.float32)
        return jax.lax.top_k(logits + noise, count)[1].astype(jnp.int32)

    def add(logits, new):
        """The logits once `new` is chosen: minus infinity for these, with their pairs for the others."""
        for at in range(0, new.shape[0], tile):
            part = new[at : at + tile]
            logits = (
                logits
                + jnp.sum(scores.block(None, part), axis=1)
                + jnp.sum(scores.block(part, None), axis=0)
            )
        return logits.at[new].set(-jnp.inf)

    def turn(number, carry):
        logits, chosen = carry
        new = draw(number, logits, size)
        return add(logits, new), jax.lax.dynamic_update_slice(
            chosen, new, (start + (number - 1) * size,)
        )

    new = draw(0, own, start)
    chosen = jnp.zeros((b,), jnp.int32).at[:start].set(new)
    if size and chunks > 1:
        _, chosen = jax.lax.fori_loop(1, chunks, turn, (add(own, new), chosen))
    return Selection(chosen, jnp.ones((b,), jnp.float32))
