"""Scoring's forward pass serves the backward pass: same gradient, and the products of (1 + 2p) / 3 of full training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from active_learning import make_mesh
from active_learning.core import losses, reuse, sharding
from active_learning.models import MLP, ResNet, ViT
from tests.hlo import product_flops

MODELS = [
    MLP(num_classes=4, width=8, depth=1),
    ViT(num_classes=4, width=8, depth=2, heads=2, patch=4),
    ViT(num_classes=4, width=8, depth=2, heads=2, patch=4, scan=True),
    ResNet(num_classes=4, width=4, stages=(1,)),
]


def world(module, size=12):
    image = jax.random.normal(jax.random.key(0), (size, 8, 8, 3))
    batch = {"image": image, "label": jnp.arange(size) % 4}
    params = jax.tree.map(
        lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape),
        module.init(jax.random.key(1), image)["params"],
    )

    def each(params, batch):
        return losses.softmax_xent(
            module.apply({"params": params}, batch["image"], train=True)["logits"], batch["label"]
        )

    return each, params, batch


def reusing(each, batch, indices, weights, mesh=None):
    def gradient(params):
        said, pull = reuse.forward(each, params, batch)
        return said, reuse.backward(each, params, pull, batch, indices, weights, mesh)

    return gradient


@pytest.mark.parametrize(
    "module", MODELS, ids=lambda m: f"{type(m).__name__}{'-scan' if getattr(m, 'scan', 0) else ''}"
)
def test_the_gradient_is_that_of_the_chosen_rows(module):
    each, params, batch = world(module)
    indices, weights = jnp.array([7, 0, 10, 3]), jnp.array([0.5, 1.0, 2.0, 0.25])
    said, found = jax.jit(reusing(each, batch, indices, weights))(params)
    chosen = jax.tree.map(lambda leaf: leaf[indices], batch)
    wanted = jax.jit(jax.grad(lambda p: jnp.sum(weights * each(p, chosen))))(params)
    np.testing.assert_allclose(said, each(params, batch), rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, wanted)


def test_nothing_is_computed_twice():
    """Products of the compiled gradient: forward on B, backward on b, no forward on b."""
    module, size, count = MODELS[1], 12, 4
    each, params, batch = world(module, size)
    step = reusing(each, batch, jnp.arange(count) * 3, jnp.ones(count))
    cost = module.cost((8, 8, 3))
    wanted = size * cost.forward + count * (cost.train - cost.forward)
    text = jax.jit(step).lower(params).compile().as_text()
    assert product_flops(text) == pytest.approx(wanted, rel=5e-3)


def test_on_eight_devices():
    mesh = make_mesh()
    each, params, batch = world(MODELS[0], 32)
    indices, weights = jnp.array([31, 1, 8, 9, 10, 11, 0, 30]), jnp.ones(8)
    wanted = jax.jit(reusing(each, batch, indices, weights))(params)
    split = jax.device_put(batch, sharding.batch_sharding(mesh))
    found = jax.jit(lambda p, b: reusing(each, b, indices, weights, mesh)(p))(params, split)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, wanted)
