"""Every policy by hand on three models that differ, unbiased weights, DivBS against its formula,
and what the ledger charges.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import active_learning as al
from active_learning.core import policies, scores
from active_learning.core.scores import ScoreInputs
from active_learning.cost import flops, ledger
from active_learning.models import MLP
from active_learning.tasks import Labels, View
from tests import toy
from tests.hlo import product_flops

LOSSES = ScoreInputs(
    learner=jnp.array([10.0, 20.0, 30.0]),
    online=jnp.array([1.0, 2.5, 0.5]),
    reference=jnp.array([0.25, 3.0, 0.125]),
)
LOGITS = np.log(np.array([[0.5, 0.25, 0.25], [0.8, 0.1, 0.1], [1 / 3, 1 / 3, 1 / 3]]))
OUTPUTS = {
    "logits": jnp.asarray(LOGITS, jnp.float32),
    "features": jnp.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]),
}
LABELS = {"label": jnp.array([0, 1, 2])}


def test_policies_of_losses_by_hand():
    np.testing.assert_array_equal(policies.hard_learner.score(LOSSES, ())[0], [10.0, 20.0, 30.0])
    np.testing.assert_array_equal(
        policies.hard_learner_fused.score(LOSSES, ())[0], [10.0, 20.0, 30.0]
    )
    np.testing.assert_array_equal(
        policies.cautious_learnability.score(LOSSES, ())[0], [0.5, -3.5, 0.25]
    )
    np.testing.assert_array_equal(policies.rho.score(LOSSES, ())[0], [9.75, 17.0, 29.875])
    chosen = policies.rho.select(jax.random.key(0), policies.rho.score(LOSSES, ())[0], 2)
    assert chosen.indices.tolist() == [2, 1]  # the largest, no sampling
    np.testing.assert_array_equal(chosen.weights, 1.0)


def test_rho_takes_exactly_the_candidates_that_the_learner_is_furthest_behind_on():
    """Through the step, at any temperature: the b largest of learner loss minus reference loss."""
    recipe, batch = toy.recipe(policy=policies.rho, temperature=50.0), toy.batch(32)
    state = toy.state(recipe)
    learner, reference = (
        toy.loss(toy.apply(one.params, batch, False), batch)
        for one in (state.learner, state.reference)
    )
    chosen = al.select_step(recipe, state, batch)[1]
    assert (
        chosen.indices.tolist()
        == np.argsort(-(np.asarray(learner) - np.asarray(reference)))[:8].tolist()
    )


def test_uncertainty_by_hand():
    online = scores.logits(OUTPUTS, LABELS)
    inputs = ScoreInputs(learner=online[::-1], online=online)
    expected = [1.5 * np.log(2), -0.8 * np.log(0.8) - 0.2 * np.log(0.1), np.log(3)]
    np.testing.assert_allclose(policies.entropy.score(inputs, ())[0], expected, rtol=1e-6)
    np.testing.assert_allclose(policies.margin.score(inputs, ())[0], [-0.25, -0.7, 0.0], atol=1e-6)
    np.testing.assert_allclose(
        scores.entropy(inputs, (), model="learner")[0], expected[::-1], rtol=1e-6
    )


def test_gradient_norm_by_hand():
    bound = policies.gradient_norm.observe(OUTPUTS, LABELS)
    expected = np.sqrt([0.375, 0.64 + 0.81 + 0.01, 2 / 3])
    np.testing.assert_allclose(bound, expected, rtol=1e-6)
    np.testing.assert_allclose(
        policies.gradient_norm.score(ScoreInputs(learner=bound), ())[0], np.log(expected), atol=1e-6
    )


def last_layer_gradients(outputs, labels):
    """(B, C D) by automatic differentiation of the last layer."""

    def loss(weights, logits, features, label):
        return -jax.nn.log_softmax(logits + features @ weights)[label]

    zero = jnp.zeros((outputs["features"].shape[1], outputs["logits"].shape[1]))
    grads = jax.vmap(jax.grad(loss), (None, 0, 0, 0))(
        zero, outputs["logits"], outputs["features"], labels
    )
    return np.asarray(grads, np.float64).reshape(len(labels), -1)


def matching_pursuit(gradients, b):
    """The formula in NumPy: explicit gradients, explicit Gram-Schmidt."""
    residual, basis, picked = gradients.mean(axis=0), [], []
    for _ in range(b):
        products = np.abs(gradients @ residual)
        products[picked] = -1
        picked.append(int(products.argmax()))
        new = gradients[picked[-1]] - sum(
            (u * (u @ gradients[picked[-1]]) for u in basis), np.zeros_like(residual)
        )
        basis.append(new / np.linalg.norm(new))
        residual = residual - basis[-1] * (basis[-1] @ residual)
    return picked


@pytest.mark.parametrize("seed", range(5))
def test_divbs_is_matching_pursuit_of_the_mean_gradient(seed):
    rng = np.random.default_rng(seed)
    outputs = {
        "logits": jnp.asarray(rng.normal(size=(24, 4)), jnp.float32),
        "features": jnp.asarray(rng.normal(size=(24, 6)), jnp.float32),
    }
    labels = {"label": jnp.asarray(rng.integers(0, 4, 24))}
    inputs = ScoreInputs(learner=policies.divbs.observe(outputs, labels), b=10)
    values = policies.divbs.score(inputs, ())[0]
    expected = matching_pursuit(last_layer_gradients(outputs, labels["label"]), 10)
    assert policies.divbs.select(jax.random.key(0), values, 10).indices.tolist() == expected
    np.testing.assert_array_equal(values[np.array(expected)], np.arange(10, 0, -1))


def test_divbs_takes_no_copy_of_what_it_has_and_survives_a_full_span():
    outputs = jax.tree.map(lambda x: jnp.concatenate([x, x]), OUTPUTS)
    labels = {"label": jnp.concatenate([LABELS["label"]] * 2)}
    inputs = ScoreInputs(learner=scores.last_layer(outputs, labels), b=5)
    values = scores.divbs(inputs, ())[0]
    assert {int(i) % 3 for i in np.argsort(-values)[:3]} == {0, 1, 2}
    assert sorted(values.tolist()) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("plain", [False, True])
def test_importance_weights_make_the_gradient_unbiased(plain):
    """B = 6, b = 3, scores in a range of 4: the sub-batch's weighted mean estimates the mean, and
    weights of 1 / (B p) do not.
    """
    values = jnp.array([0.3, -1.0, 2.0, 0.5, 1.5, -0.7])
    logits = jnp.array([0.0, 4.0, 1.0, 2.0, 3.0, 0.5])

    def estimate(key):
        chosen = policies.gradient_norm.select(key, logits, 3)
        weights = 1 / (6 * jax.nn.softmax(logits)[chosen.indices]) if plain else chosen.weights
        return jnp.mean(weights * values[chosen.indices])

    draws = np.asarray(
        jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(0), 20_000)), np.float64
    )
    error = draws.std() / np.sqrt(len(draws))
    within = abs(draws.mean() - float(values.mean())) < 4 * error
    assert within != plain
    assert plain or error < 0.02 * float(jnp.std(values))


def test_the_weights_reach_the_update():
    recipe = toy.recipe(policy=dataclasses.replace(policies.gradient_norm, observe=toy_norm))
    state, batch = toy.state(recipe), toy.batch(32)
    after, (_, chosen) = al.train_step(recipe, state, batch)
    assert len(set(np.asarray(chosen.weights).tolist())) > 1
    rows = {name: values[chosen.indices] for name, values in batch.items()}
    by_hand, _ = al.update_step(recipe, state, rows, chosen.weights)
    np.testing.assert_allclose(after.learner.params["w"], by_hand.learner.params["w"], rtol=1e-6)


def toy_norm(outputs, batch):
    return scores.error_norm(outputs, batch)


SHAPE, B, RATIO = (16, 16, 3), 4, 3
TASK = Labels()
VIEW = View(SHAPE, (0.5,) * 3, (0.25,) * 3, 10)
LEARNER, SCORER = MLP(num_classes=10, width=128, depth=2), MLP(num_classes=10, width=32, depth=1)


def images(size: int):
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (size, *SHAPE)), jnp.uint8),
        "label": jnp.asarray(rng.integers(0, 10, size), jnp.int32),
        "id": jnp.zeros((size, 2), jnp.uint32),
    }


def step_and_state(policy, **changes):
    models = {
        "learner": TASK.model(LEARNER, VIEW, optax.sgd(0.1)),
        "scorer": TASK.model(SCORER, VIEW, optax.sgd(0.1)),
    }
    recipe = al.Recipe(**models, policy=policy, sub_batch_size=B, **changes)
    fresh = [TASK.init(m, VIEW, jax.random.key(n)) for n, m in enumerate((LEARNER, SCORER, SCORER))]
    return partial(al.train_step, recipe), al.init_state(recipe, jax.random.key(0), *fresh)


@pytest.mark.parametrize(
    "name", ["hard_learner", "hard_learner_fused", "rho", "gradient_norm", "margin", "divbs"]
)
def test_the_ledger_charges_what_each_policy_runs(name):
    policy = getattr(policies, name)
    step, state = step_and_state(policy)
    text = jax.jit(step).lower(state, images(RATIO * B)).compile().as_text()
    costs = ledger.step_costs(
        LEARNER.cost(SHAPE), SCORER.cost(SHAPE), policy.needs, B, RATIO, reuse=policy.reuse_forward
    )
    picking = (
        2 * 2 * RATIO * B * 10 * 128 if name == "divbs" else 0
    )  # the mean gradient: arithmetic of the choice is not charged
    assert product_flops(text) - picking == pytest.approx(sum(costs.values()), rel=0.005)
    forward = (
        LEARNER.cost(SHAPE).forward * B * (RATIO - policy.reuse_forward)
        if "learner" in policy.needs
        else 0.0
    )
    assert costs["learner_train"] == B * LEARNER.cost(SHAPE).train + forward


def test_a_hard_learner_costs_the_share_that_its_docstring_says():
    cost = flops.Cost(1.0)  # no first layer: the paper's convention
    costs = ledger.step_costs(cost, cost, policies.hard_learner.needs, 4, 2)
    assert sum(costs.values()) / (3 * 8) == pytest.approx((1 + 3 * 0.5) / 3)
    once = ledger.step_costs(cost, cost, policies.hard_learner_fused.needs, 4, 2, reuse=True)
    assert sum(once.values()) / (3 * 8) == pytest.approx((1 + 2 * 0.5) / 3)


@pytest.mark.parametrize("devices", [1, 8])
def test_one_forward_pass_takes_the_step_of_two(devices):
    """No augmentation, no smoothing: what is scored is what is trained on, so only the arithmetic
    differs.
    """
    mesh = toy.mesh_of(devices) if devices > 1 else None
    after = []
    for policy in (policies.hard_learner, policies.hard_learner_fused):
        recipe = toy.recipe(policy=policy, mesh=mesh)
        batch, state = toy.batch(32), toy.state(recipe)
        if mesh is not None:
            batch, state = toy.on(mesh, batch, state)
        state, (metrics, chosen) = jax.jit(partial(al.train_step, recipe))(state, batch)
        after.append(
            toy.host((state.learner, state.step, metrics["loss"], chosen.ids, chosen.scores))
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), *after)


@pytest.mark.parametrize("devices", [1, 8])
def test_class_centred_scores_through_the_step(devices):
    mesh = toy.mesh_of(devices) if devices > 1 else None
    recipe = toy.recipe(policy=policies.class_centred_learnability, mesh=mesh)
    batch, state = toy.batch(32), toy.state(recipe)
    online, reference = (
        np.asarray(toy.loss(toy.apply(one.params, batch, False), batch))
        for one in (state.online, state.reference)
    )
    values, label = online - 2 * reference, np.asarray(batch["label"])
    means = np.array([values[label == n].mean() for n in range(toy.CLASSES)])
    if mesh is not None:
        batch, state = toy.on(mesh, batch, state)
    chosen = jax.jit(partial(al.select_step, recipe))(state, batch)[1]
    np.testing.assert_allclose(chosen.scores, values - means[label], rtol=1e-4, atol=1e-5)
