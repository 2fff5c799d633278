"""A batch at two resolutions: which rows are seen how, the step by hand, and devices."""

from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import active_learning as al
from active_learning.core import policies, resolution, sharding
from tests import toy

CLOSE = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)


def blurred(batch):
    """The images without their left half."""
    return batch | {"image": batch["image"].at[:, :, : toy.SIDE // 2].set(0)}


def low(params, batch, train):
    return toy.apply(params, blurred(batch), train)


def learner(fraction=Fraction(1, 4)) -> al.Model:
    full = toy.model(toy.LEARNER_RATE)
    return resolution.mixed(full, al.Model(low, *full_losses(full), full.optimizer), fraction)


def full_losses(model):
    return model.learn_loss, model.act_loss


def by_hand(params, batch, coarse):
    """Logits of a batch whose rows `coarse` are blurred."""
    sharp, dull = (f(params, batch, True)["logits"] for f in (toy.apply, low))
    return jnp.where(coarse[:, None], dull, sharp)


def test_every_fourth_row_is_coarse_in_training_and_none_in_evaluation():
    batch, params, model = toy.batch(8), toy.params(1), learner()
    coarse = jnp.arange(8) % 4 == 3
    CLOSE(model.apply(params, batch, True)["logits"], by_hand(params, batch, coarse))
    evaluated = model.apply(params, batch, False)["logits"]
    np.testing.assert_array_equal(evaluated, toy.apply(params, batch, False)["logits"])
    scored = model.score_outputs(params, batch)["logits"]
    np.testing.assert_array_equal(scored, low(params, batch, False)["logits"])


@pytest.mark.parametrize("devices", [1, 4])
def test_the_step_scores_coarsely_and_trains_on_both(devices):
    """The hardest two of each four ranks are seen sharply, whatever the number of devices."""
    fraction = Fraction(1, 2)
    mesh = toy.mesh_of(devices) if devices > 1 else None
    recipe = toy.recipe(learner=learner(fraction), policy=policies.hard_learner, mesh=mesh)
    batch, state = toy.batch(32), al.init_state(toy.recipe(), jax.random.key(0), toy.params(1))
    placed = (batch, state) if mesh is None else toy.on(mesh, batch, state)
    after, (metrics, chosen) = jax.jit(partial(al.train_step, recipe))(*placed[::-1])
    ranked = jnp.argsort(-toy.loss(low(state.learner.params, batch, False), batch))[:8]
    np.testing.assert_array_equal(np.sort(chosen.indices), np.sort(ranked))
    np.testing.assert_array_equal(np.sort(chosen.indices[1::2]), np.sort(ranked[1::2]))
    rows = {name: values[ranked] for name, values in batch.items()}

    def loss(params):
        logits = by_hand(params, rows, jnp.arange(8) % 2 == 1)
        return jnp.mean(toy.loss({"logits": logits}, rows))

    expected, grads = jax.value_and_grad(loss)(state.learner.params)
    CLOSE(metrics["loss"], expected)
    moved = jax.tree.map(lambda p, g: p - toy.LEARNER_RATE * g, state.learner.params, grads)
    jax.tree.map(CLOSE, jax.device_get(after.learner.params), moved)


def test_places_keep_their_rank_modulo_the_period():
    indices = jax.random.permutation(jax.random.key(0), 64)[:24]
    placed = np.asarray(al.home_first(indices, 64, 4, 3))
    for rank in range(3):
        np.testing.assert_array_equal(np.sort(placed[rank::3]), np.sort(indices[rank::3]))
    stays = (placed // 16) == (np.arange(24) // 6)
    assert stays.mean() > 0.6


def test_pairs_are_joined_in_order():
    full = toy.pair_model()

    def coarse(params, batch, train):
        return full.apply(params, blurred(batch), train)

    low_model = al.Model(coarse, full.learn_loss, full.act_loss, full.optimizer, pairwise=True)
    mixed = resolution.mixed(full, low_model, Fraction(1, 2))
    batch, params = toy.batch(8), toy.pair_params()
    outputs = mixed.apply(params, batch, True)
    sharp, dull = full.apply(params, batch, True), coarse(params, batch, True)
    CLOSE(outputs.image[0::2], sharp.image[0::2])
    CLOSE(outputs.image[1::2], dull.image[1::2])
    assert mixed.pairwise and outputs.scale.shape == (8,)


def test_no_image_is_gathered():
    mesh = toy.mesh_of(8)
    recipe = toy.recipe(
        learner=learner(Fraction(1, 2)), policy=policies.hard_learner, mesh=mesh, sub_batch_size=16
    )
    state = al.init_state(toy.recipe(), jax.random.key(0), toy.params(1))
    batch, state = toy.on(mesh, toy.batch(64), state)
    text = sharding.aot_compile(partial(al.train_step, recipe), state, batch).as_text()
    gathers = [line for line in text.splitlines() if "all-gather" in line or "all-reduce" in line]
    assert not [line for line in gathers if f",{toy.SIDE},{toy.SIDE},3]" in line.split("=")[1]]


@pytest.mark.parametrize("fraction", [0.3, 0.01, 0.99])
def test_a_fraction_that_is_no_number_of_rows_is_refused(fraction):
    with pytest.raises(ValueError, match="a whole number of a device's 8 examples"):
        resolution.rows_at_low(fraction, 8)


def test_what_changes_the_places_is_refused():
    for changes in ({"policy": policies.hard_learner_fused}, {"grad_accum_steps": 2}):
        with pytest.raises(ValueError, match="both change the places"):
            toy.recipe(learner=learner(), **changes)
