"""The shadow: trained uniformly on the same super-batches, and of no influence on the rest."""

from functools import partial

import jax
import numpy as np
import pytest

import active_learning as al
from active_learning.core import policies
from active_learning.cost import flops, ledger
from tests import toy


def one_step(**changes):
    recipe = toy.recipe(**changes)
    state, (metrics, chosen) = jax.jit(partial(al.train_step, recipe))(
        toy.state(recipe), toy.batch(32)
    )
    return state, metrics, chosen


def test_it_starts_as_the_online_model_and_takes_every_fourth_row():
    batch = toy.batch(32)
    recipe = toy.recipe(shadow=True)
    state = toy.state(recipe)
    jax.tree.map(np.testing.assert_array_equal, state.shadow.params, state.online.params)
    after, metrics, _ = one_step(shadow=True)
    rows = {name: values[::4] for name, values in batch.items()}
    mean = lambda params: toy.loss(toy.apply(params, rows, True), rows).mean()
    loss, grads = jax.value_and_grad(mean)(toy.params(2))
    expected = jax.tree.map(lambda p, g: p - toy.ONLINE_RATE * g, toy.params(2), grads)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), after.shadow.params, expected
    )
    assert float(metrics["shadow_loss"]) == pytest.approx(float(loss), rel=1e-5)


def test_nothing_else_changes():
    with_it, metrics, chosen = one_step(shadow=True)
    without, _, same = one_step()
    np.testing.assert_array_equal(chosen.ids, same.ids)
    for model in ("learner", "online", "reference"):
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7),
            getattr(with_it, model).params,
            getattr(without, model).params,
        )
    assert without.shadow is None
    assert "shadow_loss" in metrics


def test_eight_devices_train_it_alike():
    mesh = toy.mesh_of(8)
    recipe = toy.recipe(shadow=True, mesh=mesh)
    batch, state = toy.on(mesh, toy.batch(32), toy.state(recipe))
    after, _ = jax.jit(partial(al.train_step, recipe))(state, batch)
    alone, _, _ = one_step(shadow=True)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        toy.host(after.shadow.params),
        toy.host(alone.shadow.params),
    )


def test_after_the_window_it_stands_still():
    recipe = toy.recipe(shadow=True)
    state = toy.state(recipe)
    after, _ = jax.jit(partial(al.uniform_step, recipe))(state, toy.batch(8))
    jax.tree.map(np.testing.assert_array_equal, after.shadow.params, state.shadow.params)


def test_without_an_online_model_there_is_nothing_to_compare():
    with pytest.raises(ValueError, match="'rho' with shadow=True: it trains no online model"):
        toy.recipe(policy=policies.rho, shadow=True)


def test_its_training_is_charged_as_the_online_models():
    learner, scorer = flops.Cost(100.0, 10.0), flops.Cost(5.0, 1.0)
    costs = partial(ledger.step_costs, learner, scorer, ("online", "reference"), 8, 4)
    assert costs(shadow=True)["online_train"] == 2 * 8 * 14.0
    assert costs()["online_train"] == 8 * 14.0
