"""Selection against exact laws: enumerated draws without replacement, inclusion frequencies,
unbiased weights.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from active_learning.core import select

SCORES = np.array([0.0, 1.0, -0.5, 2.0], np.float32)
DRAWS = 40_000


def exact_law(scores: np.ndarray, b: int) -> dict[tuple[int, ...], float]:
    """P(ordered draw) when one index after the other is drawn in proportion to exp(score) among
    those left.
    """
    weight = np.exp(scores.astype(np.float64))
    law = {}
    for draw in itertools.permutations(range(len(scores)), b):
        left, p = weight.sum(), 1.0
        for i in draw:
            p *= weight[i] / left
            left -= weight[i]
        law[draw] = p
    return law


def draws(select_fn, scores: np.ndarray, b: int, count: int = DRAWS, seed: int = 0):
    keys = jax.random.split(jax.random.key(seed), count)
    return jax.jit(jax.vmap(lambda key: select_fn(key, jnp.asarray(scores), b)))(keys)


def test_gumbel_top_k_follows_the_law_of_sampling_without_replacement():
    law = exact_law(SCORES, 2)
    assert math.isclose(sum(law.values()), 1.0)
    seen = np.asarray(draws(select.gumbel_top_k, SCORES, 2).indices)
    for draw, p in law.items():
        frequency = np.mean((seen == np.array(draw)).all(axis=1))
        assert abs(frequency - p) < 5 * math.sqrt(p * (1 - p) / DRAWS), (draw, frequency, p)


def test_equal_scores_include_every_candidate_b_of_B_times():
    seen = np.asarray(draws(select.gumbel_top_k, np.zeros(10, np.float32), 3).indices)
    frequency = np.bincount(seen.ravel(), minlength=10) / DRAWS
    np.testing.assert_allclose(frequency, 0.3, atol=5 * math.sqrt(0.21 / DRAWS))


@pytest.mark.parametrize(
    "select_fn", [select.gumbel_top_k, select.top_k, select.importance_gumbel_top_k]
)
@pytest.mark.parametrize("b", [1, 7, 32])
def test_indices_are_distinct_static_in_size_and_valid(select_fn, b):
    scores = jax.random.normal(jax.random.key(1), (32,)) * 50
    chosen = select_fn(jax.random.key(2), scores, b)
    assert chosen.indices.shape == chosen.weights.shape == (b,)
    assert len(set(chosen.indices.tolist())) == b
    assert 0 <= int(chosen.indices.min()) <= int(chosen.indices.max()) < 32


def test_top_k_takes_the_largest_and_ignores_the_key():
    scores = jnp.array([3.0, -1.0, 9.0, 4.0])
    for seed in (0, 1):
        assert select.top_k(jax.random.key(seed), scores, 2).indices.tolist() == [2, 3]


@pytest.mark.parametrize("b", [0, 5])
def test_b_outside_the_super_batch_is_refused(b):
    with pytest.raises(ValueError, match=rf"b={b} of B=4"):
        select.gumbel_top_k(jax.random.key(0), jnp.zeros(4), b)


def test_gumbel_weights_are_one():
    assert select.gumbel_top_k(jax.random.key(0), jnp.arange(6.0), 3).weights.tolist() == [
        1.0,
        1.0,
        1.0,
    ]


def _mean_estimates(weights, indices, values):
    return np.mean(np.asarray(weights) * values[np.asarray(indices)], axis=1)


def test_importance_weights_are_unbiased_and_the_plain_ones_are_not():
    scores = np.array([0.0, 4.0, 1.0, 2.5, 0.5, 3.0], np.float32)
    values = np.array([5.0, 1.0, 3.0, 2.0, 8.0, 1.5])
    chosen = draws(select.importance_gumbel_top_k, scores, 3, count=20_000)
    estimates = _mean_estimates(chosen.weights, chosen.indices, values)
    error = estimates.std() / math.sqrt(len(estimates))
    assert error < 0.02 * values.mean()
    assert abs(estimates.mean() - values.mean()) < 4 * error
    p = np.exp(scores) / np.exp(scores).sum()
    plain = 1 / (len(scores) * p[np.asarray(chosen.indices)])
    wrong = _mean_estimates(plain, chosen.indices, values)
    assert abs(wrong.mean() - values.mean()) > 4 * wrong.std() / math.sqrt(len(wrong))


def test_inclusion_probabilities_do_not_underflow():
    gaps = np.array([-40.0, -20.0, -1.0, 3.0])
    np.testing.assert_allclose(
        select.inclusion(jnp.asarray(gaps)), -np.expm1(-np.exp(gaps)), rtol=1e-5
    )


def test_importance_weights_survive_tiny_probabilities_and_are_one_for_the_whole_super_batch():
    scores = jnp.array([0.0, -60.0, -80.0, -100.0])
    assert np.isfinite(select.importance_gumbel_top_k(jax.random.key(0), scores, 2).weights).all()
    whole = select.importance_gumbel_top_k(jax.random.key(0), scores, 4)
    assert whole.weights.tolist() == [1.0] * 4
    assert sorted(whole.indices.tolist()) == [0, 1, 2, 3]
