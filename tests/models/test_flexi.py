"""One set of parameters at two patch sizes: the same function where nothing is resized, the
pseudoinverse's law, and the cost of what runs.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from active_learning.core import losses
from active_learning.models import MLP, Text, TwoTower, ViT, resize
from active_learning.models.flexi import at_patch
from tests.hlo import product_flops

VIT = ViT(num_classes=4, width=16, depth=1, heads=2, patch=4, pool="cls", prefix_positions=1)
IMAGES = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))


def params_of(module: ViT):
    """No parameter is 0."""
    params = module.init(jax.random.key(1), IMAGES)["params"]
    keys = iter(jax.random.split(jax.random.key(2), len(jax.tree.leaves(params))))
    return jax.tree.map(lambda p: p + 0.1 * jax.random.normal(next(keys), p.shape), params)


def test_at_its_own_patch_it_is_the_same_function_bit_for_bit():
    params, same = params_of(VIT), at_patch(VIT, 4)
    assert same.cost((16, 16, 3)) == VIT.cost((16, 16, 3))
    ours, theirs = (m.apply({"params": params}, IMAGES)["logits"] for m in (same, VIT))
    np.testing.assert_array_equal(ours, theirs)


def test_both_resolutions_have_the_same_parameters():
    shapes = lambda module: jax.tree.map(jnp.shape, params_of(module))
    assert shapes(at_patch(VIT, 8)) == shapes(VIT)
    assert at_patch(at_patch(VIT, 8), 4) == dataclasses.replace(VIT, weights_patch=4)


def test_an_enlarged_patch_is_embedded_as_the_original():
    """Every patch of 4 enlarged to 8 brings the token that it had: the pseudoinverse's law."""
    enlarge = resize.bilinear_antialias(4, 8)
    patches = np.asarray(IMAGES).reshape(4, 4, 4, 4, 4, 3)  # example, row, y, column, x, channel
    large = np.einsum("Yy,Xx,nryqxc->nrYqXc", enlarge, enlarge, patches).reshape(4, 32, 32, 3)
    module = dataclasses.replace(VIT, depth=0, pool="gap", prefix_positions=0)
    params = params_of(module)
    flat = params | {"position": jnp.zeros_like(params["position"])}
    ours = at_patch(module, 8).apply({"params": _grown(flat)}, jnp.asarray(large, jnp.float32))
    theirs = module.apply({"params": flat}, IMAGES)
    np.testing.assert_allclose(ours["features"], theirs["features"], rtol=1e-4, atol=1e-5)


def _grown(params):
    """Parameters for images of twice the side: more positions."""
    return params | {"position": jnp.zeros((64, 16))}


def test_resizing_the_patches_is_resizing_the_embedding():
    module, params = dataclasses.replace(VIT, depth=0), params_of(dataclasses.replace(VIT, depth=0))
    kernel = resize.resize_patch(np.asarray(params["embed"]["kernel"]), 4, 8)
    grid = resize.resize_positions(
        np.asarray(params["position"]), 1, (4, 4), (2, 2), "bilinear_antialias"
    )
    resized = params | {"position": grid, "embed": params["embed"] | {"kernel": kernel}}
    resized = jax.tree.map(jnp.asarray, resized)
    theirs = dataclasses.replace(module, patch=8).apply({"params": resized}, IMAGES)
    ours = at_patch(module, 8).apply({"params": params}, IMAGES)
    np.testing.assert_allclose(ours["logits"], theirs["logits"], rtol=1e-4, atol=1e-5)


def test_cost_is_what_the_compiled_step_runs():
    module, params = at_patch(VIT, 8), params_of(VIT)
    cost = module.cost((16, 16, 3))

    def forward(params, images):
        return module.apply({"params": params}, images, train=True)["logits"]

    def loss(params, images):
        return jnp.mean(losses.softmax_xent(forward(params, images), jnp.arange(4)))

    for function, expected in ((forward, cost.forward), (jax.grad(loss), cost.train)):
        text = jax.jit(function).lower(params, IMAGES).compile().as_text()
        # Resizing the positions is a product of the batch, not of an example.
        assert product_flops(text) / 4 == pytest.approx(expected, rel=0.03)
    assert cost.forward < 0.4 * VIT.cost((16, 16, 3)).forward


def test_a_two_tower_changes_its_image_tower_only():
    text = Text(vocab=32, context=4, width=16, depth=0, heads=1)
    towers = TwoTower(dataclasses.replace(VIT, num_classes=0), text, 8, 8)
    low = at_patch(towers, 8)
    assert (low.text, low.image.patch, low.image.weights_patch) == (text, 8, 4)


def test_a_model_without_patches_is_named():
    with pytest.raises(ValueError, match="MLP has no patches"):
        at_patch(MLP(), 8)
    with pytest.raises(ValueError, match="patch 6 does not divide the 16 x 16 image"):
        at_patch(VIT, 6).cost((16, 16, 3))
