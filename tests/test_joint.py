"""Joint selection: against the formula in NumPy, in law, on planted scores against Gibbs sampling,
and two known fakes.
"""

from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import active_learning as al
from active_learning.core import contrastive, pair_scores, select, sharding
from active_learning.plan import hlo
from tests import toy

B, D = 64, 8


class Dense(NamedTuple):
    """Pair scores as a matrix, for tests only."""

    matrix: jax.Array

    def diag(self):
        return jnp.diagonal(self.matrix)

    def gains(self, selected):
        del selected
        return lambda new: self.matrix[:, new].sum(axis=1) + self.matrix[new].sum(axis=0)


def embeddings_of(seed: int, size: int = B, width: int = D) -> contrastive.Embeddings:
    keys = jax.random.split(jax.random.key(seed))
    image, text = (contrastive.l2_normalize(jax.random.normal(key, (size, width))) for key in keys)
    return contrastive.Embeddings(image, text, jnp.full((size,), 5.0), jnp.full((size,), -2.0))


def matrix_of(one: contrastive.Embeddings) -> np.ndarray:
    """Every term of the sigmoid loss, in float64.

    Embeddings of different pairs meet rounded to float16.
    """
    pairs = [np.asarray(tower, np.float64) for tower in (one.image, one.text)]
    rounded = [np.asarray(tower.astype(jnp.float16), np.float64) for tower in (one.image, one.text)]
    x = rounded[0] @ rounded[1].T
    np.fill_diagonal(x, np.sum(pairs[0] * pairs[1], axis=1))
    x = float(one.scale[0]) * x + float(one.bias[0])
    return np.log1p(np.exp(-(2 * np.eye(len(x)) - 1) * x))


def slow_joint(key, matrix: np.ndarray, b: int, chunks: int, start: int) -> list[int]:
    """Algorithm 1 from the formula: the sums are made anew for every chunk."""
    chosen: list[int] = []
    for number in range(chunks):
        logits = np.diag(matrix) + matrix[:, chosen].sum(axis=1) + matrix[chosen].sum(axis=0)
        logits = logits + np.asarray(
            jax.random.gumbel(jax.random.fold_in(key, number), (len(matrix),), jnp.float32)
        )
        logits[chosen] = -np.inf
        count = start if number == 0 else (b - start) // (chunks - 1)
        chosen += np.argsort(-logits, kind="stable")[:count].tolist()
    return chosen


def test_pair_scores_are_the_terms_of_the_sigmoid_loss():
    online, reference = embeddings_of(0), embeddings_of(1)
    pairs, _ = pair_scores.joint_learnability(
        al.ScoreInputs(online=online, reference=reference), ()
    )
    expected = matrix_of(online) - matrix_of(reference)
    np.testing.assert_allclose(pairs.diag(), np.diag(expected), rtol=1e-4, atol=1e-5)
    loss = contrastive.sigmoid(online.image, online.text, online.scale[0], online.bias[0])
    hard = replace(pairs, easy=None)
    # All but one as new: what they add to that one is its loss as an image, and as a text.
    others = jnp.arange(1, B)
    as_text = contrastive.sigmoid(online.text, online.image, online.scale[0], online.bias[0])
    both = loss[0] + as_text[0] - 2 * hard.diag()[0]
    np.testing.assert_allclose(hard.gains(B - 1)(others)[0], both, rtol=1e-3)
    np.testing.assert_allclose(
        pair_scores.per_example(pair_scores.tempered(pairs, 0.5)), 2 * pairs.diag(), rtol=1e-6
    )


@pytest.mark.parametrize("count", [1, 5, 70])
def test_gains_are_the_rows_and_columns_of_the_new_pairs(count):
    size = 128
    online, reference = embeddings_of(0, size), embeddings_of(1, size)
    pairs, _ = pair_scores.joint_learnability(
        al.ScoreInputs(online=online, reference=reference), ()
    )
    matrix = matrix_of(online) - matrix_of(reference)
    new = np.random.default_rng(0).permutation(size)[:count]
    others = np.setdiff1d(np.arange(size), new)
    expected = (matrix[:, new].sum(axis=1) + matrix[new].sum(axis=0))[others]
    for scores, factor in ((pairs, 1), (pair_scores.tempered(pairs, 0.5), 2)):
        added = jax.jit(scores.gains(count))(jnp.asarray(new))
        np.testing.assert_allclose(added[others], factor * expected, rtol=1e-4, atol=1e-5)


def test_rounding_changes_scores_of_pairs_little():
    """The matrix above rounds as the code does, so that ids can be compared; this one does not."""
    for width, most in ((8, 2e-3), (512, 1e-4)):
        one = embeddings_of(0, 256, width)
        image, text = (np.asarray(tower, np.float64) for tower in (one.image, one.text))
        exact = np.log1p(np.exp(5.0 * image @ text.T - 2.0))
        pairs = pair_scores.SigmoidPairScores(one, None)
        for new in range(3):
            added = pairs.gains(1)(jnp.array([new]))
            expected = exact[:, new] + exact[new]
            others = np.arange(256) != new
            assert np.abs(added - expected)[others].max() < most


@pytest.mark.parametrize(
    ("b", "chunks", "first", "start"),
    [(32, 16, None, 2), (30, 4, None, 9), (32, 5, 0.5, 16), (7, 1, None, 7)],
)
def test_joint_selection_is_the_formula(b, chunks, first, start):
    pairs, _ = pair_scores.joint_learnability(
        al.ScoreInputs(online=embeddings_of(0), reference=embeddings_of(1)), ()
    )
    key = jax.random.key(3)
    result = jax.jit(partial(select.joint, b=b, chunks=chunks, first=first))(key, pairs)
    expected = slow_joint(
        key, matrix_of(embeddings_of(0)) - matrix_of(embeddings_of(1)), b, chunks, start
    )
    assert result.indices.tolist() == expected
    assert len(set(expected)) == b


@pytest.mark.parametrize("changes", [{"chunks": 0}, {"chunks": 9}, {"first": 0.0}, {"b": 65}])
def test_impossible_options_are_refused(changes):
    with pytest.raises(ValueError, match=r"joint selection|cannot select"):
        select.joint(jax.random.key(0), Dense(jnp.zeros((B, B))), **{"b": 8, **changes})


def test_with_a_diagonal_matrix_it_is_independent_sampling_in_law():
    scores, b, draws = np.array([0.0, 1.0, -1.0, 0.5, 0.2]), 3, 20_000
    keys = jax.random.split(jax.random.key(0), draws)
    dense = Dense(jnp.diag(jnp.asarray(scores, jnp.float32)))
    chosen = jax.jit(jax.vmap(lambda key: select.joint(key, dense, b, chunks=3).indices))(keys)
    sets = [tuple(row) for row in np.sort(np.asarray(chosen), axis=1).tolist()]
    p = np.exp(scores)

    def law(values):  # of an unordered set, drawn one after the other without replacement
        if not values:
            return 1.0
        return sum(
            p[i] / (p.sum() - sum(p[j] for j in values if j != i)) * law(values - {i})
            for i in values
        )

    expected = np.array([law(frozenset(values)) for values in combinations(range(5), b)])
    counts = np.array([sets.count(values) for values in combinations(range(5), b)])
    assert expected.sum() == pytest.approx(1)
    assert (
        np.sum((counts - draws * expected) ** 2 / (draws * expected)) < 27.9
    )  # chi-square, 9 degrees of freedom, 0.1 %


def test_a_reference_that_copies_the_online_model_is_uniform_sampling():
    pairs, _ = pair_scores.joint_learnability(
        al.ScoreInputs(online=embeddings_of(0), reference=embeddings_of(0)), ()
    )
    assert not np.asarray(pairs.diag()).any()
    assert not np.asarray(pairs.gains(B)(jnp.arange(B))).any()
    keys = jax.random.split(jax.random.key(1), 4000)
    chosen = jax.jit(jax.vmap(lambda key: select.joint(key, pairs, 16, chunks=4).indices))(keys)
    counts = np.bincount(np.asarray(chosen).ravel(), minlength=B)
    deviation = (counts - 4000 / 4) / np.sqrt(4000 * 0.25 * 0.75)
    assert np.abs(deviation).max() < 4.2
    assert deviation.std() == pytest.approx(1, abs=0.3)


WIDTH = 64


def over(pairs: pair_scores.SigmoidPairScores, mesh) -> pair_scores.SigmoidPairScores:
    """The pairs with their embeddings split over a mesh."""
    split = jax.device_put((pairs.hard, pairs.easy), sharding.batch_sharding(mesh))
    return replace(pairs, hard=split[0], easy=split[1], mesh=mesh)


@pytest.mark.parametrize(
    ("devices", "fsdp", "b", "chunks", "models"),
    [(8, 2, 256, 3, 2), (8, 1, 64, 4, 1), (6, 1, 36, 5, 2)],
)
def test_devices_change_nothing(devices, fsdp, b, chunks, models):
    size = 2304
    online, reference = embeddings_of(0, size, WIDTH), embeddings_of(1, size, WIDTH)
    pairs = pair_scores.SigmoidPairScores(online if models == 2 else None, reference)
    choose = jax.jit(partial(select.joint, b=b, chunks=chunks))
    alone = choose(jax.random.key(0), pairs).indices
    mesh = toy.mesh_of(devices) if fsdp == 1 else sharding.make_mesh(jax.devices()[:devices], fsdp)
    np.testing.assert_array_equal(choose(jax.random.key(0), over(pairs, mesh)).indices, alone)


def test_few_embeddings_move_between_devices():
    mesh, size, width, b, chunks = toy.mesh_of(8), 4096, 256, 1024, 16
    both = (embeddings_of(seed, size, width) for seed in (0, 1))
    pairs = over(pair_scores.SigmoidPairScores(*both), mesh)
    choose = jax.jit(partial(select.joint, b=b, chunks=chunks))
    text = choose.lower(jax.random.key(0), pairs).compile().as_text()
    moved = sum(one.wire * max(1, one.times) for one in hlo.collectives(text))
    # The selected ones of 15 chunks in float32 on every device, by all-reduces of masked rows.
    everywhere = 2 * 7 / 8 * 4 * width * 4 * (b - b // chunks)
    assert moved < everywhere / 3


# Planted: pairs of one half of the blocks are worth more, those of the other less, and the diagonal
# says nothing of it.
SIZE, CHOSEN, CHUNKS, SEEDS, SWEEPS = 256, 64, 16, 20, 2000


def planted(seed: int) -> np.ndarray:
    """Pair scores of rank 6 off the diagonal: worth of both blocks, and some more within a block;
    every block has the same diagonal.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(SIZE)
    block, diagonal = np.empty(SIZE, int), np.empty(SIZE)
    block[order], diagonal[order] = np.arange(SIZE) % 4, np.repeat(rng.normal(0, 0.2, SIZE // 4), 4)
    worth = (rng.permutation([0.3, 0.3, -0.3, -0.3]) * rng.uniform(0.7, 1.3))[block]
    matrix = worth[:, None] + worth[None] + 0.02 * (block[:, None] == block[None])
    np.fill_diagonal(matrix, diagonal)
    return matrix


@partial(jax.jit, static_argnames="sweeps", compiler_options={"xla_backend_optimization_level": 3})
def gibbs(matrix, key, sweeps: int):
    """Mean of the sum over the sub-batch in the later half of a chain that redraws one member after
    the other, given all others: chains of all (n, B, B) matrices at once.
    """
    n, rows = matrix.shape[0], jnp.arange(matrix.shape[0])
    own = jnp.diagonal(matrix, axis1=1, axis2=2)
    both = (matrix + jnp.swapaxes(matrix, 1, 2)) * (1 - jnp.eye(SIZE))[None]
    factor = jnp.exp(both)
    members = jax.vmap(lambda k: jax.random.permutation(k, SIZE)[:CHOSEN])(jax.random.split(key, n))
    outside = jnp.ones((n, SIZE)).at[rows[:, None], members].set(0.0)

    def redraw(carry, now):
        (members, outside, odds), (slot, uniform) = (
            carry,
            now,
        )  # odds: exp of what each would add, up to a factor
        out = members[:, slot]
        odds, outside = odds / factor[rows, out], outside.at[rows, out].set(1.0)
        p = (odds * outside).reshape(n, 16, 16)
        sums = p.sum(axis=2)
        blocks = jnp.cumsum(sums, axis=1)  # the inverse of the distribution function, in two levels
        at = uniform * blocks[:, -1]
        k = jnp.minimum(jnp.sum(blocks <= at[:, None], axis=1), 15)
        rest = at - (blocks - sums)[rows, k]
        m = jnp.minimum(jnp.sum(jnp.cumsum(p[rows, k], axis=1) <= rest[:, None], axis=1), 15)
        new = 16 * k + m
        return (
            members.at[:, slot].set(new),
            outside.at[rows, new].set(0.0),
            odds * factor[rows, new],
        ), None

    def sweep(carry, key):
        members, outside = carry
        inside = 1 - outside
        adds = own + jnp.einsum("nij,nj->ni", both, inside)
        odds = jnp.exp(adds - jnp.max(adds, axis=1, keepdims=True))
        draws = (jnp.arange(CHOSEN), jax.random.uniform(key, (CHOSEN, n)))
        (members, outside, _), _ = jax.lax.scan(redraw, (members, outside, odds), draws)
        return (members, outside), 0.5 * jnp.sum(inside * (own + adds), axis=1)

    _, sums = jax.lax.scan(
        sweep, (members, outside), jax.random.split(jax.random.fold_in(key, 1), sweeps)
    )
    return jnp.mean(sums[sweeps // 2 :], axis=0)


def test_joint_selection_gains_what_gibbs_sampling_gains_and_the_fake_does_not():
    matrices = np.stack([planted(seed) for seed in range(SEEDS)])
    scores, keys = jnp.asarray(matrices, jnp.float32), jax.random.split(jax.random.key(5), 16)

    def gains(choose):
        """Mean over 16 draws of the true sum over the sub-batch that `choose(key, matrix)` picks,
        for each seed.
        """
        chosen = np.asarray(
            jax.jit(jax.vmap(lambda m: jax.vmap(lambda k: choose(k, m))(keys)))(scores)
        )
        return np.array(
            [[m[np.ix_(c, c)].sum() for c in of] for m, of in zip(matrices, chosen, strict=True)]
        ).mean(axis=1)

    def outer_difference(matrix):
        """The fake: per-example losses of online and reference, 2 d and d, whose difference is the
        diagonal d.
        """
        d = jnp.diagonal(matrix)
        return Dense(2 * d[:, None] - d[None])

    chains = np.asarray(
        gibbs(jnp.concatenate([scores, scores]), jax.random.key(0), SWEEPS)
    ).reshape(2, SEEDS)
    np.testing.assert_allclose(
        chains[0], chains[1], rtol=0.001
    )  # they have forgotten where they started
    uniform = gains(lambda k, m: select.gumbel_top_k(k, jnp.zeros(SIZE), CHOSEN).indices)
    share = lambda result: (result - uniform) / (chains.mean(axis=0) - uniform)
    together = gains(lambda k, m: select.joint(k, Dense(m), CHOSEN, chunks=CHUNKS).indices)
    alone = gains(lambda k, m: select.gumbel_top_k(k, jnp.diagonal(m), CHOSEN).indices)
    fake = gains(lambda k, m: select.joint(k, outer_difference(m), CHOSEN, chunks=CHUNKS).indices)
    assert share(together).min() >= 0.9
    assert (together > alone).all()
    assert share(fake).max() < 0.1
