"""Gradients from micro-batches are those of the whole batch, for losses of single examples and of
pairs, on one and on eight devices.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import active_learning as al
from active_learning.core import gradients, sharding
from tests import toy

CASES = {
    "single": (toy.model(0.1), lambda: toy.params(1)),
    "pairs": (toy.pair_model(), toy.pair_params),
}


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("name", CASES)
def test_accumulated_gradients_are_the_big_batch(name, devices):
    model, fresh = CASES[name]
    batch, weights = toy.batch(32), jnp.linspace(0.5, 1.5, 32)
    expected = gradients.value_and_grad(model, fresh(), batch, weights)
    if devices > 1:
        batch, weights = jax.device_put(
            (batch, weights), sharding.batch_sharding(toy.mesh_of(devices))
        )
    result = jax.jit(partial(gradients.value_and_grad, model, parts=4))(fresh(), batch, weights)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6), jax.device_get(result), expected
    )
    assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(expected))


def test_a_pairwise_loss_by_micro_batches_alone_would_be_another_gradient():
    model, batch, ones = toy.pair_model(), toy.batch(32), jnp.ones(32)
    alone = al.Model(model.apply, model.learn_loss, model.act_loss, model.optimizer)
    wrong, right = (
        gradients.value_and_grad(m, toy.pair_params(), batch, ones, 4)[1]["image"]
        for m in (alone, model)
    )
    assert np.abs(wrong - right).max() > 0.1 * np.abs(right).max()


def test_a_step_with_accumulation_is_the_step_without():
    states = []
    for parts in (1, 4):
        recipe = toy.recipe(grad_accum_steps=parts)
        states.append(toy.host(al.train_step(recipe, toy.state(recipe), toy.batch(32))[0]))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6), *states)
