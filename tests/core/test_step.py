"""The step against a NumPy oracle written from the four lines of Algorithm 1, and its contracts."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import active_learning as al
from tests import toy


def np_losses(params, batch):
    batch = jax.device_get(batch)
    x = batch["image"].reshape(len(batch["label"]), -1) / np.float64(255)
    logits = x @ np.asarray(params["w"], np.float64) + np.asarray(params["b"], np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -log_p[np.arange(len(x)), batch["label"]], np.exp(log_p), x


def np_sgd(params, batch, rate):
    _, p, x = np_losses(params, batch)
    batch = jax.device_get(batch)
    error = (p - np.eye(toy.CLASSES)[batch["label"]]) / len(x)
    return {"w": params["w"] - rate * x.T @ error, "b": params["b"] - rate * error.sum(axis=0)}


def np_algorithm_1(learner, online, reference, batch, gumbel, b, temperature):
    score = np_losses(online, batch)[0] - np_losses(reference, batch)[0]
    chosen = np.argsort(-(score / temperature + gumbel))[:b]
    y = {name: rows[chosen] for name, rows in batch.items()}
    return (
        np_sgd(learner, y, toy.LEARNER_RATE),
        np_sgd(online, y, toy.ONLINE_RATE),
        set(chosen.tolist()),
        score,
    )


def test_five_steps_equal_the_numpy_oracle():
    recipe = toy.recipe()
    state, step = toy.state(recipe), jax.jit(partial(al.train_step, recipe))
    learner, online, reference = (jax.device_get(toy.params(seed)) for seed in (1, 2, 3))
    for n in range(5):
        batch = toy.batch(32, seed=n)
        key = jax.random.fold_in(jax.random.fold_in(state.key, n), 0)
        gumbel = np.asarray(jax.random.gumbel(key, (32,), jnp.float32))
        learner, online, chosen, score = np_algorithm_1(
            learner, online, reference, batch, gumbel, 8, 0.5
        )
        state, (_, metrics) = step(state, batch)
        assert set(metrics.indices.tolist()) == chosen
        np.testing.assert_allclose(metrics.scores, score, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(metrics.ids, batch["id"][np.asarray(metrics.indices)])
        for ours, oracle in (
            (state.learner, learner),
            (state.online, online),
            (state.reference, reference),
        ):
            for name in ("w", "b"):
                np.testing.assert_allclose(ours.params[name], oracle[name], rtol=1e-4, atol=1e-5)
    assert int(state.step) == 5


def test_train_step_is_the_composition_of_its_parts():
    recipe, batch = toy.recipe(), toy.batch(32)
    state = toy.state(recipe)
    fused, (metrics, chosen) = jax.jit(partial(al.train_step, recipe))(state, batch)
    middle, alone = jax.jit(partial(al.select_step, recipe))(state, batch)
    sub_batch = {name: rows[np.asarray(alone.indices)] for name, rows in batch.items()}
    parts, figures = jax.jit(partial(al.update_step, recipe))(middle, sub_batch, alone.weights)
    np.testing.assert_array_equal(chosen.ids, alone.ids)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), toy.host(fused), toy.host(parts)
    )
    assert float(metrics["loss"]) == pytest.approx(float(figures["loss"]), rel=1e-6)


def test_selecting_changes_no_model_and_no_step():
    recipe = toy.recipe()
    state = toy.state(recipe)
    after, _ = al.select_step(recipe, state, toy.batch(32))
    jax.tree.map(np.testing.assert_array_equal, toy.host(after), toy.host(state))


def test_uniform_step_leaves_the_scorers_alone_and_trains_the_learner_on_everything():
    recipe, batch = toy.recipe(), toy.batch(8)
    state = toy.state(recipe)
    after, metrics = jax.jit(partial(al.uniform_step, recipe))(state, batch)
    oracle = np_sgd(jax.device_get(toy.params(1)), batch, toy.LEARNER_RATE)
    np.testing.assert_allclose(after.learner.params["w"], oracle["w"], rtol=1e-4, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, toy.host(after.online), toy.host(state.online))
    assert set(metrics) == {"loss", "grad_norm"}


@pytest.mark.parametrize("chunk", [4, 16, 32])
def test_scoring_in_chunks_changes_nothing(chunk):
    batch = toy.batch(32)
    whole, cut = toy.recipe(), toy.recipe(score_chunk=chunk)
    expected = al.select_step(whole, toy.state(whole), batch)[1]
    chosen = al.select_step(cut, toy.state(cut), batch)[1]
    np.testing.assert_allclose(chosen.scores, expected.scores, rtol=1e-6, atol=1e-6)
    assert set(chosen.indices.tolist()) == set(expected.indices.tolist())


def test_a_chunk_that_does_not_divide_is_refused():
    recipe = toy.recipe(score_chunk=5)
    with pytest.raises(ValueError, match="score_chunk=5 does not divide a device's 32"):
        al.select_step(recipe, toy.state(recipe), toy.batch(32))


def test_a_reference_that_copies_the_online_model_scores_zero_and_includes_every_row_b_of_B_times():
    recipe = toy.recipe(reference_params=lambda state: state.online.params, temperature=1e-3)
    state, step = toy.state(recipe), jax.jit(partial(al.train_step, recipe))
    counts, rounds = np.zeros(32), 600
    for n in range(rounds):
        state, (_, chosen) = step(state, toy.batch(32, seed=n % 7))
        np.testing.assert_array_equal(chosen.scores, np.zeros(32))
        counts[np.asarray(chosen.indices)] += 1
    q = 8 / 32
    np.testing.assert_allclose(counts / rounds, q, atol=5 * np.sqrt(q * (1 - q) / rounds))


def test_weights_follow_their_rows_through_the_permutation():
    mesh = toy.mesh_of(8)
    importance = dataclasses.replace(
        al.policies.learnability, select=al.select.importance_gumbel_top_k
    )
    alone, spread = toy.recipe(policy=importance), toy.recipe(policy=importance, mesh=mesh)
    batch = toy.batch(32)
    one = jax.jit(partial(al.select_step, alone))(toy.state(alone), batch)[1]
    sharded, state = toy.on(mesh, batch, toy.state(spread))
    eight = jax.jit(partial(al.select_step, spread))(state, sharded)[1]

    def by_row(chosen):
        return dict(zip(chosen.indices.tolist(), np.asarray(chosen.weights).tolist(), strict=True))

    assert by_row(one).keys() == by_row(eight).keys()
    for row, weight in by_row(one).items():
        assert by_row(eight)[row] == pytest.approx(weight, rel=1e-4)
    assert len(set(by_row(one).values())) > 1


def test_loss_weights_scale_the_update():
    recipe, batch = toy.recipe(policy=al.policies.uniform), toy.batch(8)
    state = toy.state(recipe)
    weights = jnp.array([2.0, 0, 0, 0, 0, 0, 0, 0])
    after, _ = al.update_step(recipe, state, batch, weights)
    lonely = {name: rows[:1] for name, rows in batch.items()}
    oracle = np_sgd(jax.device_get(toy.params(1)), lonely, toy.LEARNER_RATE * 2 / 8)
    np.testing.assert_allclose(after.learner.params["w"], oracle["w"], rtol=1e-4, atol=1e-6)


def test_standardized_and_cooled_logits_reach_the_selection():
    seen = []

    def spy(key, logits, b):
        seen.append(np.asarray(logits))
        return al.select.top_k(key, logits, b)

    policy = dataclasses.replace(al.policies.learnability, select=spy)
    for changes in ({"temperature": 0.25}, {"temperature": 2.0, "standardize": True}):
        recipe = toy.recipe(policy=policy, **changes)
        _, chosen = al.select_step(recipe, toy.state(recipe), toy.batch(32))
    scores = np.asarray(chosen.scores)
    np.testing.assert_allclose(seen[0], scores / 0.25, rtol=1e-5)
    np.testing.assert_allclose(
        seen[1], (scores - scores.mean()) / scores.std() / 2.0, rtol=1e-4, atol=1e-5
    )


def test_every_step_draws_anew_and_the_same_seed_draws_the_same():
    recipe, batch = toy.recipe(temperature=100.0), toy.batch(32)
    state, select = toy.state(recipe), jax.jit(partial(al.select_step, recipe))
    first = select(state, batch)[1].indices
    np.testing.assert_array_equal(first, select(state, batch)[1].indices)
    later = select(dataclasses.replace(state, step=jnp.int32(1)), batch)[1].indices
    assert set(first.tolist()) != set(later.tolist())


def test_the_policy_state_is_carried():
    counting = dataclasses.replace(
        al.policies.learnability,
        init=lambda: jnp.int32(0),
        score=lambda inputs, n: (inputs.online - inputs.reference, n + 1),
    )
    recipe = toy.recipe(policy=counting)
    state, step = toy.state(recipe), jax.jit(partial(al.train_step, recipe))
    for n in range(3):
        state, _ = step(state, toy.batch(32, seed=n))
    assert int(state.policy_state) == 3


def test_augmentation_reaches_both_trained_models_but_not_the_scores():
    calls = []

    def blacken(batch, key):
        calls.append(key)
        return batch | {"image": jnp.zeros_like(batch["image"])}

    plain, dark = toy.recipe(), toy.recipe(augment=blacken)
    expected, chosen = al.train_step(plain, toy.state(plain), toy.batch(32))
    after, (_, darkly) = al.train_step(dark, toy.state(dark), toy.batch(32))
    np.testing.assert_array_equal(chosen[1].scores, darkly.scores)
    for name in ("learner", "online"):
        start = {"learner": 1, "online": 2}[name]
        np.testing.assert_array_equal(
            getattr(after, name).params["w"], toy.params(start)["w"]
        )  # black images: no gradient
        assert not np.array_equal(getattr(expected, name).params["w"], toy.params(start)["w"])
    assert len(calls) == 1


def test_the_three_models_share_no_buffer_and_the_callers_arrays_survive_donation():
    recipe, shared = toy.recipe(), toy.params(1)
    key = jax.random.key(0)
    state = al.init_state(recipe, key, shared, shared, shared)
    step = jax.jit(partial(al.train_step, recipe), donate_argnums=0)
    state, _ = step(state, toy.batch(32))
    assert np.isfinite(shared["w"]).all()
    assert not key.is_deleted()
    pointers = [
        m.params["w"].unsafe_buffer_pointer()
        for m in (state.learner, state.online, state.reference)
    ]
    assert len(set(pointers)) == 3


def test_learner_and_online_keep_their_own_optimizer_state():
    adam = lambda rate: al.Model(toy.apply, toy.loss, toy.loss, optax.adam(rate))
    recipe = toy.recipe(learner=adam(1e-2), scorer=adam(1e-3))
    state = al.train_step(recipe, toy.state(recipe), toy.batch(32))[0]
    assert not np.array_equal(state.learner.opt_state[0].mu["w"], state.online.opt_state[0].mu["w"])
    assert state.reference.opt_state is None


def np_ema(learners, half_life):
    """Average by hand: decays .1, 2/11, 3/12 of the warm start, then the half-life's."""
    average, decays = np.float64(learners[0]), []
    for step, weights in enumerate(learners[1:]):
        decays.append(min(0.5 ** (1 / half_life), (1 + step) / (10 + step)))
        average = decays[-1] * average + (1 - decays[-1]) * np.float64(weights)
    return average, decays


@pytest.mark.parametrize(
    ("half_life", "decays"), [(100.0, [0.1, 2 / 11, 0.25]), (0.45, [0.1, 2 / 11, 0.2143109957])]
)
def test_the_average_of_the_learners_weights_by_hand(half_life, decays):
    """Three updates: selecting, uniform, and by a replayed batch."""
    recipe = toy.recipe(ema_half_life=half_life)
    state, plain = toy.state(recipe), toy.state(toy.recipe())
    learners = [np.asarray(state.learner.params["w"])]
    replayed = toy.batch(8) | {"weight": jnp.linspace(0.5, 1.5, 8)}
    steps = (al.train_step, toy.batch(32)), (al.uniform_step, toy.batch(8)), (None, replayed)
    for step, batch in steps:
        step = step or al.uniform_step
        state, _ = jax.jit(partial(step, recipe))(state, batch)
        plain, _ = jax.jit(partial(step, toy.recipe()))(plain, batch)
        learners.append(np.asarray(state.learner.params["w"]))
    average, used = np_ema(learners, half_life)
    np.testing.assert_allclose(used, decays, rtol=1e-6)
    np.testing.assert_allclose(state.ema.params["w"], average, rtol=1e-5, atol=1e-6)
    assert np.abs(average - learners[-1]).max() > 1e-3
    jax.tree.map(np.testing.assert_array_equal, toy.host(state.learner), toy.host(plain.learner))
    assert state.ema.opt_state is None and plain.ema is None


def test_a_fused_step_averages_too():
    recipe = toy.recipe(policy=al.policies.hard_learner_fused, ema_half_life=100.0)
    state = toy.state(recipe)
    after, _ = al.train_step(recipe, state, toy.batch(32))
    expected = 0.1 * state.learner.params["b"] + 0.9 * after.learner.params["b"]
    np.testing.assert_allclose(after.ema.params["b"], expected, rtol=1e-6)


def test_the_average_shares_no_buffer_with_the_learner():
    recipe = toy.recipe(ema_half_life=100.0)
    step = jax.jit(partial(al.train_step, recipe), donate_argnums=0)
    state, _ = step(toy.state(recipe), toy.batch(32))
    models = state.learner, state.ema
    assert len({m.params["w"].unsafe_buffer_pointer() for m in models}) == 2


def test_devices_do_not_change_the_average():
    mesh, averages = toy.mesh_of(8), []
    for recipe in (toy.recipe(ema_half_life=5.0), toy.recipe(ema_half_life=5.0, mesh=mesh)):
        state, batch = toy.state(recipe), toy.batch(32)
        if recipe.mesh is not None:
            batch, state = toy.on(mesh, batch, state)
        for _ in range(3):
            state, _ = jax.jit(partial(al.train_step, recipe))(state, batch)
        averages.append(jax.device_get(state.ema.params))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), *averages)
