"""Scores by hand, from three models whose losses differ: a swapped model or sign cannot pass."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import active_learning.settings  # noqa: F401  (registers what stored configs name)
from active_learning.config import from_json, to_json
from active_learning.core import contrastive, policies, scores
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


LABELS = jnp.array([7, -1, 7])


def test_class_centred_scores_by_hand():
    """Learnability [.75, -.5, .375]: class 7 has the mean .5625, class -1 its only example."""
    inputs = INPUTS._replace(label=LABELS)
    values, state = scores.class_centred(inputs, "kept")
    np.testing.assert_allclose(values, [0.1875, 0.0, -0.1875], rtol=1e-6)
    assert state == "kept"
    weighted, _ = policies.class_centred_learnability.score(inputs, ())
    np.testing.assert_allclose(weighted, [0.125, 0.0, -0.125], rtol=1e-6)  # [.5, -3.5, .25]
    of_hard, _ = scores.class_centred(inputs, (), score=scores.hard, model="learner")
    np.testing.assert_allclose(of_hard, [-10.0, 0.0, 10.0], rtol=1e-6)


def test_concept_balanced_scores_by_hand():
    """Three candidates of one concept lose log 3, the single one nothing."""
    concept = jnp.array([7, 2, 7, 7])
    inputs = scores.ScoreInputs(
        online=jnp.array([1.0, 2.0, 3.0, 4.0]), reference=jnp.zeros(4), concept=concept
    )
    values, state = scores.concept_balanced(inputs, "kept", weight=0.5)
    less = 0.5 * np.log(3)
    np.testing.assert_allclose(values, [1 - less, 2, 3 - less, 4 - less], rtol=1e-6)
    assert state == "kept"
    with pytest.raises(ValueError, match="neither 'concept' nor 'label'"):
        scores.concept_balanced(inputs._replace(concept=None), ())


def test_equal_scores_draw_every_concept_equally_often():
    """Law at T = 1: 90 candidates of one concept and 10 of another, one drawn: half and half."""
    concept = (jnp.arange(100) < 10).astype(jnp.int32)
    inputs = scores.ScoreInputs(online=jnp.zeros(100), reference=jnp.zeros(100), concept=concept)
    p = jax.nn.softmax(scores.concept_balanced(inputs, ())[0])
    np.testing.assert_allclose([p[:10].sum(), p[10:].sum()], [0.5, 0.5], rtol=1e-5)


def test_class_centred_scores_need_labels():
    with pytest.raises(ValueError, match="class_centred: the super-batch has no 'label'"):
        scores.class_centred(INPUTS, ())


def test_s_cliploss_by_hand():
    """Similarities of three pairs; a text that fits all images lowers the pairs it is in."""
    scale = 2.0
    image = jnp.array([[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]])
    text = jnp.array([[0.8, 0.6], [0.0, 1.0], [0.6, 0.8]])
    similarity = np.array([[0.8, 0.0, 0.6], [0.96, 0.8, 1.0], [-0.6, -1.0, -0.8]])
    rows, columns = (np.log(np.exp(scale * similarity).sum(axis=axis)) for axis in (1, 0))
    expected = np.diag(similarity) - (rows + columns) / (2 * scale)
    outputs = contrastive.Embeddings(image, text, jnp.full(3, scale), jnp.zeros(3))
    inputs = ScoreInputs(online="not read", reference=outputs)
    values, _ = policies.s_cliploss.score(inputs, ())
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    # The pairs 0 and 1 are equally similar, but text 0 fits image 1 as well.
    assert similarity[0, 0] == similarity[1, 1] and not np.isclose(values[0], values[1])


def function_of(value):
    return value.func if isinstance(value, functools.partial) else value


def test_policies_are_registered_by_the_names_of_their_attributes():
    named = {n: v for n, v in vars(policies).items() if isinstance(v, policies.Policy)}
    assert named == policies.POLICIES
    assert all(name == policy.name for name, policy in named.items())


def test_every_function_of_a_policy_has_a_name():
    for policy in policies.POLICIES.values():
        assert function_of(policy.score) in policies.SCORES.values(), policy.name
        assert function_of(policy.select) in policies.SAMPLERS.values(), policy.name
        assert policy.observe in (None, *policies.OBSERVERS.values()), policy.name


@pytest.mark.parametrize("policy", policies.POLICIES.values(), ids=lambda policy: policy.name)
def test_a_changed_policy_is_read_back_from_a_stored_config(policy):
    """It has no name of its own, so that each of its functions must have one."""
    changed = dataclasses.replace(policy, pool_fraction=0.25)
    stored = json.loads(json.dumps(to_json(changed)))
    assert "kind" in stored and stored["pool_fraction"] == 0.25
    assert to_json(from_json(stored)) == stored
