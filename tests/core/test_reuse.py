"""Scoring's forward pass serves the backward pass: the two-pass gradient, at the cost of one
pass.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import active_learning as al
from active_learning.core import contrastive, gradients, losses, policies, reuse, sharding
from active_learning.cost import ledger
from active_learning.models import MLP, ResNet, Text, TwoTower, ViT
from tests import toy
from tests.hlo import product_flops

SHAPE = (8, 8, 3)
VIT = ViT(num_classes=4, width=8, depth=2, heads=2, patch=4)
MODELS = {
    "mlp": MLP(num_classes=4, width=8, depth=1),
    "vit": VIT,
    "vit-scan": dataclasses.replace(VIT, scan=True),
    "vit-remat": dataclasses.replace(VIT, scan=True, remat="full"),
    "resnet": ResNet(num_classes=4, width=4, stages=(1,)),
}
TEXT = Text(vocab=32, context=4, width=8, depth=1, heads=2)
PAIRS = {
    "mlp": TwoTower(MLP(width=8, depth=1), TEXT, 8, 8, bias=-2.0),
    "vit": TwoTower(ViT(num_classes=0, width=8, depth=2, heads=2, patch=4), TEXT, 8, 8, bias=-2.0),
    "vit-remat": TwoTower(
        ViT(num_classes=0, width=8, depth=2, heads=2, patch=4, scan=True, remat="full"),
        dataclasses.replace(TEXT, scan=True, remat="full"),
        8,
        8,
        bias=-2.0,
    ),
}


def labels(module) -> al.Model:
    def apply(params, batch, train):
        return module.apply({"params": params}, batch["image"], train=train)

    def loss(outputs, batch):
        return losses.softmax_xent(outputs["logits"], batch["label"])

    return al.Model(apply, loss, loss, optax.sgd(0.1))


def pairs(module, mesh=None, name: str = "sigmoid") -> al.Model:
    def apply(params, batch, train):
        return module.apply({"params": params}, batch["image"], batch["tokens"], train=train)

    def loss(outputs, batch):
        scalars = (outputs.scale[0], outputs.bias[0])[: 1 + (name == "sigmoid")]
        loss = sharding.shard_map_rows(getattr(contrastive, name), mesh, rows=2)
        return loss(outputs.image, outputs.text, *scalars)

    return al.Model(apply, loss, loss, optax.sgd(0.1), pairwise=True)


def world(module, size: int = 12):
    """Parameters and a batch; no parameter is 0, so that every gradient can be wrong."""
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.normal(size=(size, *SHAPE)), jnp.float32),
        "label": jnp.arange(size) % 4,
        "tokens": jnp.asarray(rng.integers(0, 32, (size, 4)), jnp.int32),
        "id": jnp.stack([jnp.zeros(size, jnp.uint32), jnp.arange(size, dtype=jnp.uint32)], axis=1),
    }
    inputs = [batch["image"], batch["tokens"]][: 1 + isinstance(module, TwoTower)]
    params = jax.tree.map(
        lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape),
        module.init(jax.random.key(1), *inputs)["params"],
    )
    return params, batch


def reusing(model, batch, indices, weights, mesh=None, parts=(1, 1)):
    def gradient(params):
        passed = reuse.forward(model, params, batch, parts[0])
        return reuse.value_and_grad(model, params, batch, passed, indices, weights, mesh, parts[1])

    return gradient


def two_passes(model, batch, indices, weights):
    selected = jax.tree.map(lambda leaf: leaf[indices], batch)
    return lambda params: gradients.value_and_grad(model, params, selected, weights)


close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
CASES = [
    *(pytest.param(labels, module, id=f"labels-{name}") for name, module in MODELS.items()),
    *(pytest.param(pairs, module, id=f"sigmoid-{name}") for name, module in PAIRS.items()),
    pytest.param(partial(pairs, name="info_nce"), PAIRS["mlp"], id="softmax-mlp"),
]


@pytest.mark.parametrize("parts", [(1, 1), (6, 2)], ids=["residuals", "micro-batches"])
@pytest.mark.parametrize(("kind", "module"), CASES)
def test_loss_and_gradient_are_those_of_a_second_pass_over_the_selected(kind, module, parts):
    model, (params, batch) = kind(module), world(module)
    indices, weights = jnp.array([7, 0, 10, 3]), jnp.array([0.5, 1.0, 2.0, 0.25])
    one = jax.jit(reusing(model, batch, indices, weights, parts=parts))(params)
    two = jax.jit(two_passes(model, batch, indices, weights))(params)
    jax.tree.map(close, one, two)
    largest = [float(np.abs(leaf).max()) for leaf in jax.tree.leaves(one[1])]
    assert sorted(largest)[1] > 1e-3  # The bias has no gradient in the softmax loss.


def test_a_loss_of_pairs_among_all_candidates_would_be_another_gradient():
    """The loss among the selected must be evaluated again: that of the super-batch is not it."""
    model, params, batch = toy.pair_model(), toy.pair_params(), toy.batch(32)
    indices = jnp.array([7, 0, 10, 3])
    among_all = jax.grad(
        lambda p: jnp.mean(model.learn_loss(model.apply(p, batch, True), batch)[indices])
    )(params)
    among_selected = two_passes(model, batch, indices, jnp.ones(4))(params)[1]
    wrong, right = among_all["text"], among_selected["text"]
    assert np.abs(wrong - right).max() > 0.1 * np.abs(right).max()


@pytest.mark.parametrize(("kind", "module"), [(labels, VIT), (pairs, PAIRS["vit"])])
def test_nothing_is_computed_twice(kind, module):
    """Products of the compiled gradient: forward on B, backward on b, no forward on b."""
    size, count = 12, 4
    model, (params, batch) = kind(module), world(module, size)
    step = reusing(model, batch, jnp.arange(count) * 3, jnp.ones(count))
    cost = module.cost(SHAPE)
    wanted = size * cost.forward + count * (cost.train - cost.forward)
    if kind is pairs:  # logits of the loss and both gradients of them
        wanted += 3 * 2 * count * count * 8
    text = jax.jit(step).lower(params).compile().as_text()
    assert product_flops(text) == pytest.approx(wanted, rel=5e-3)


@pytest.mark.parametrize("parts", [(1, 1), (8, 2)], ids=["residuals", "micro-batches"])
@pytest.mark.parametrize("name", ["labels", "pairs"])
def test_on_eight_devices(name, parts):
    model = {"labels": toy.model(0.1), "pairs": toy.pair_model()}[name]
    params = {"labels": toy.params, "pairs": toy.pair_params}[name](1)
    batch, mesh = toy.batch(64), al.make_mesh()
    indices, weights = jnp.arange(16) * 3 % 40, jnp.linspace(0.5, 1.5, 16)
    wanted = jax.jit(reusing(model, batch, indices, weights))(params)
    split = jax.device_put(batch, sharding.batch_sharding(mesh))
    step = lambda p, b: reusing(model, b, indices, weights, mesh, parts)(p)
    jax.tree.map(close, jax.jit(step)(params, split), wanted)


def temporaries(module, parts, size: int = 64, count: int = 8) -> int:
    model, (params, batch) = pairs(module), world(module, size)
    step = reusing(model, batch, jnp.arange(count), jnp.ones(count), parts=parts)
    return jax.jit(step).lower(params).compile().memory_analysis().temp_size_in_bytes


def test_memory_is_bounded_by_remat_or_by_micro_batches():
    """All residuals of B; the inputs of B's blocks; the activations of one micro-batch."""
    kept = temporaries(PAIRS["vit"], (1, 1))
    remat = temporaries(PAIRS["vit-remat"], (1, 1))
    cut = temporaries(PAIRS["vit"], (16, 2))
    assert remat < 0.5 * kept
    assert cut < 0.2 * kept


def recipe(policy, model=None, **changes) -> al.Recipe:
    model = model or toy.pair_model()
    policy = dataclasses.replace(policy, select=partial(al.select.joint, chunks=2))
    return al.Recipe(model, model, policy, 16, temperature=0.5, **changes)


@pytest.mark.parametrize(("devices", "accum"), [(1, 1), (1, 2), (8, 1), (8, 2)])
def test_jest_with_one_forward_pass_takes_the_step_of_two(devices, accum):
    """No augmentation: what scores is what is trained on, so ids are equal and parameters close."""
    mesh, after = toy.mesh_of(devices) if devices > 1 else None, []
    for policy, parts in ((policies.joint_learner, 1), (policies.joint_learner_fused, accum)):
        of, rows = recipe(policy, mesh=mesh, grad_accum_steps=parts), toy.batch(64)
        state = al.init_state(
            of, jax.random.key(0), toy.pair_params(1), reference=toy.pair_params(2)
        )
        if mesh is not None:
            rows, state = toy.on(mesh, rows, state)
        state, (metrics, chosen) = jax.jit(partial(al.train_step, of))(state, rows)
        ids = np.sort(np.asarray(chosen.ids)[:, 1])
        after.append(toy.host((state.learner, state.step, metrics, chosen.scores, ids)))
    jax.tree.map(close, *after)


def test_the_ledger_charges_jest_what_it_runs():
    """Ratio 5, reference live: 5 F + 5 F + 2 F; with stored scores 7 F of uniform's 3 F (233 %)."""
    cost = PAIRS["vit"].cost(SHAPE)
    model = pairs(PAIRS["vit"])
    of = recipe(policies.joint_learner_fused, model)
    # One chunk: the products of more would be in a loop, where this count cannot see them.
    policy = dataclasses.replace(of.policy, select=partial(al.select.joint, chunks=1))
    of = dataclasses.replace(of, policy=policy, sub_batch_size=4)
    params, batch = world(PAIRS["vit"], 20)
    state = al.init_state(of, jax.random.key(0), params, reference=params)
    text = jax.jit(partial(al.train_step, of)).lower(state, batch).compile().as_text()
    costs = ledger.step_costs(cost, cost, of.policy.needs, 4, 5, reuse=True)
    assert product_flops(text) == pytest.approx(sum(costs.values()), rel=0.01)
    stored = ledger.step_costs(cost, cost, of.policy.needs, 4, 5, references=0, reuse=True)
    uniform = ledger.step_costs(cost, cost, (), 4, 5)
    first = 4 * cost.first
    assert sum(stored.values()) + first == pytest.approx(7 * 4 * cost.forward)
    assert sum(uniform.values()) + first == pytest.approx(3 * 4 * cost.forward)


def test_a_cotrained_reference_is_trained_beside_a_fused_step():
    model, params, batch = toy.pair_model(), toy.pair_params(), toy.batch(64)
    of = recipe(policies.joint_learner_fused, reference=model)
    state = al.init_state(of, jax.random.key(0), params, reference=params)
    after, (metrics, _) = jax.jit(partial(al.train_step, of))(state, batch)
    loss, grads = gradients.value_and_grad(model, params, batch, jnp.ones(64))
    close(metrics["reference_loss"], loss)
    moved = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    jax.tree.map(close, after.reference.params, moved)


def test_reuse_with_the_online_model_is_refused():
    with pytest.raises(ValueError, match=r"'x': reuse_forward=True .* must name 'learner'"):
        dataclasses.replace(policies.learnability, name="x", reuse_forward=True)
