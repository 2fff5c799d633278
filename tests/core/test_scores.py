"""Scores by hand, from three models whose losses differ: a swapped model or sign cannot pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from active_learning.core import policies, scores
from active_learning.core.scores import ScoreInputs

INPUTS = ScoreInputs(
    learner=jnp.array([10.0, 20.0, 30.0]),
    online=jnp.array([1.0, 2.5, 0.5]),
    reference=jnp.array([0.25, 3.0, 0.125]),
)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (scores.learnability, [0.75, -0.5, 0.375]),
        (scores.hard, [1.0, 2.5, 0.5]),
        (scores.easy_reference, [-0.25, -3.0, -0.125]),
    ],
)
def test_score_of_three_models_by_hand(score, expected):
    values, state = score(INPUTS, "kept")
    np.testing.assert_array_equal(values, expected)
    assert values.dtype == jnp.float32
    assert state == "kept"


@pytest.mark.parametrize("policy", [policies.learnability, policies.hard, policies.easy_reference])
def test_policy_reads_only_the_models_it_names(policy):
    given = ScoreInputs(**{name: getattr(INPUTS, name) for name in policy.needs})
    np.testing.assert_array_equal(policy.score(given, ())[0], policy.score(INPUTS, ())[0])


@pytest.mark.parametrize("score", [scores.learnability, scores.hard, scores.easy_reference])
def test_no_gradient_reaches_the_models_through_a_score(score):
    grads = jax.grad(lambda inputs: jnp.sum(score(inputs, ())[0]))(INPUTS)
    for leaf in jax.tree.leaves(grads):
        np.testing.assert_array_equal(leaf, np.zeros(3))


def test_scores_are_float32_whatever_the_losses_are():
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), INPUTS)
    assert scores.learnability(half, ())[0].dtype == jnp.float32


def test_standardize_by_hand():
    np.testing.assert_allclose(
        scores.standardize(jnp.array([1.0, 2.0, 3.0])),
        np.array([-1, 0, 1]) * np.sqrt(1.5),
        rtol=1e-6,
    )
    np.testing.assert_array_equal(scores.standardize(jnp.full((4,), 7.0)), np.zeros(4))


def test_ess_fraction_is_one_for_flat_scores_and_one_over_b_for_a_spike():
    assert float(scores.ess_fraction(jnp.full((8,), 3.0))) == pytest.approx(1.0)
    assert float(scores.ess_fraction(jnp.array([100.0] + [0.0] * 7))) == pytest.approx(1 / 8)
    p = np.array([0.5, 0.25, 0.25])
    assert float(scores.ess_fraction(jnp.log(jnp.array(p)))) == pytest.approx(
        1 / (3 * (p**2).sum()), rel=1e-6
    )
