"""Distillation by hand, through the step, in chunks and over devices."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import active_learning as al
from active_learning.core import contrastive, distillation, losses, policies, sharding
from active_learning.cost import ledger
from tests import toy

CLOSE = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)


def test_soft_cross_entropy_by_hand():
    """Teacher (.8, .2), learner (.5, .5) and the reverse, at T = 1; T = 2 takes square roots."""
    teacher, logits = jnp.log(jnp.array([[0.8, 0.2]])), jnp.log(jnp.array([[0.25, 0.75]]))
    expected = -(0.8 * np.log(0.25) + 0.2 * np.log(0.75))
    CLOSE(losses.soft_xent(logits, teacher), [expected])
    roots = [np.sqrt(p) / np.sqrt(p).sum() for p in ([0.8, 0.2], [0.25, 0.75])]
    CLOSE(losses.soft_xent(logits, teacher, 2.0), [-4 * (roots[0] * np.log(roots[1])).sum()])


def embeddings(seed: int, width: int, size: int = 16):
    keys = jax.random.split(jax.random.key(seed))
    return tuple(contrastive.l2_normalize(jax.random.normal(k, (size, width))) for k in keys)


STUDENT, TEACHER = embeddings(0, 6), embeddings(1, 4)
SCALES = jnp.float32(3.0), jnp.float32(5.0)


def np_soft_info_nce(temperature):
    x, t = (
        float(s) * np.float64(i) @ np.float64(text).T / temperature
        for s, (i, text) in zip(SCALES, (STUDENT, TEACHER), strict=True)
    )
    total = 0.0
    for logits, teacher in ((x, t), (x.T, t.T)):
        p = np.exp(teacher) / np.exp(teacher).sum(axis=1, keepdims=True)
        log_q = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        total = total - (p * log_q).sum(axis=1)
    return temperature**2 * total / 2


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(("devices", "chunk"), [(1, 0), (1, 4), (8, 0), (8, 8)])
def test_soft_contrastive_loss_is_its_formula(temperature, devices, chunk):
    mesh, inputs = toy.mesh_of(devices), (*STUDENT, *TEACHER)
    inputs = jax.device_put(inputs, sharding.batch_sharding(mesh))
    function = partial(contrastive.soft_info_nce, temperature=temperature, chunk=chunk)
    loss = jax.jit(sharding.shard_map_rows(function, mesh, rows=4))(*inputs, *SCALES)
    CLOSE(loss, np_soft_info_nce(temperature))


def test_chunks_do_not_change_the_gradient_of_the_soft_loss():
    def gradient(chunk):
        loss = lambda *pair: jnp.mean(
            contrastive.soft_info_nce(*pair, *TEACHER, *SCALES, chunk=chunk)
        )
        return jax.jit(jax.grad(loss, (0, 1)))(*STUDENT)

    jax.tree.map(CLOSE, gradient(4), gradient(0))


def soft_loss(outputs, teacher):
    return losses.soft_xent(outputs["logits"], teacher["logits"], 2.0)


def negative(batch, key):
    return batch | {"image": 255 - batch["image"]}


@pytest.mark.parametrize(("devices", "accum"), [(1, 1), (1, 2), (8, 1)])
def test_the_step_trains_the_learner_towards_the_reference_and_the_online_model_plainly(
    devices, accum
):
    mesh = toy.mesh_of(devices) if devices > 1 else None
    learner = distillation.distilled(toy.model(toy.LEARNER_RATE), soft_loss, 0.3)
    options = {"grad_accum_steps": accum, "mesh": mesh, "augment": negative}
    recipe = toy.recipe(learner=learner, distill=True, **options)
    batch, state = toy.batch(32), toy.state(recipe)
    placed = (batch, state) if mesh is None else toy.on(mesh, batch, state)
    after, (metrics, chosen) = jax.jit(partial(al.train_step, recipe))(*placed[::-1])
    plain, _ = jax.jit(partial(al.train_step, toy.recipe(augment=negative)))(state, batch)
    jax.tree.map(CLOSE, toy.host(after.online), toy.host(plain.online))
    rows = {name: values[np.asarray(chosen.indices)] for name, values in batch.items()}
    rows = negative(rows, state.key)
    teacher = toy.apply(state.reference.params, rows, False)

    def loss(params):
        outputs = toy.apply(params, rows, True)
        soft = losses.soft_xent(outputs["logits"], teacher["logits"], 2.0)
        return jnp.mean(0.7 * toy.loss(outputs, rows) + 0.3 * soft)

    expected, grads = jax.value_and_grad(loss)(state.learner.params)
    CLOSE(metrics["loss"], expected)
    moved = jax.tree.map(lambda p, g: p - toy.LEARNER_RATE * g, state.learner.params, grads)
    jax.tree.map(CLOSE, jax.device_get(after.learner.params), moved)


def test_after_the_window_no_reference_runs():
    learner = distillation.distilled(toy.model(toy.LEARNER_RATE), soft_loss, 0.3)
    recipe = toy.recipe(learner=learner, distill=True)
    state = dataclasses.replace(toy.state(recipe), reference=None)
    after, _ = al.uniform_step(recipe, state, toy.batch(8))
    plain, _ = al.uniform_step(toy.recipe(), state, toy.batch(8))
    jax.tree.map(CLOSE, after.learner.params, plain.learner.params)


def test_distillation_is_charged():
    class Cost:
        forward, train, recompute = 10.0, 30.0, 0.0

    plain, more = (
        ledger.step_costs(Cost, Cost, policies.learnability.needs, 4, 5, distill=distill)
        for distill in (False, True)
    )
    assert more == plain | {"reference_score": plain["reference_score"] + 4 * 10.0}


def test_what_cannot_be_distilled_is_refused():
    with pytest.raises(ValueError, match=r"weight=1\.5: expected 0 to 1"):
        distillation.distilled(toy.model(0.1), soft_loss, 1.5)
    with pytest.raises(ValueError, match="'hard_learner_fused' with distill=True"):
        toy.recipe(policy=policies.hard_learner_fused, distill=True)
