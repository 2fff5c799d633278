"""ViT: every option computes the same function, its cost is what the compiler runs, its errors name
the sizes.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from active_learning.core import losses
from active_learning.models import VARIANTS, ViT
from active_learning.models.transformer import stack_blocks, unstack_blocks
from tests.hlo import product_flops

SMALL = ViT(num_classes=10, width=32, depth=2, heads=2, patch=8)
IMAGES = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
LABELS = jnp.array([3, 1, 4, 1])


def params_of(module: ViT):
    """Initial parameters with a random head, so that the logits are not all zero."""
    params = module.init(jax.random.key(1), IMAGES)["params"]
    kernel = jax.random.normal(jax.random.key(2), params["head"]["kernel"].shape)
    return params | {"head": params["head"] | {"kernel": kernel}}


def loss_and_grads(module: ViT, params, train: bool = True):
    def loss(params):
        return jnp.mean(
            losses.softmax_xent(
                module.apply({"params": params}, IMAGES, train=train)["logits"], LABELS
            )
        )

    return jax.jit(jax.value_and_grad(loss))(params)


def assert_same(ours, theirs, rtol=1e-4, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), ours, theirs)


def test_flat_products_train_the_same_function_that_is_evaluated():
    params = params_of(SMALL)
    assert_same(
        loss_and_grads(SMALL, params, train=True), loss_and_grads(SMALL, params, train=False)
    )


@pytest.mark.parametrize("remat", ["full", "dots"])
@pytest.mark.parametrize("scan", [False, True])
def test_scan_and_remat_change_nothing(remat, scan):
    params = params_of(SMALL)
    expected = loss_and_grads(SMALL, params)
    module = dataclasses.replace(SMALL, remat=remat, scan=scan)
    loss, grads = loss_and_grads(module, stack_blocks(params) if scan else params)
    assert_same((loss, unstack_blocks(grads) if scan else grads), expected)


def test_stacked_parameters_are_those_of_the_scanned_module():
    scanned = dataclasses.replace(SMALL, scan=True)
    shapes = jax.tree.map(jnp.shape, scanned.init(jax.random.key(0), IMAGES)["params"])
    assert jax.tree.map(jnp.shape, stack_blocks(params_of(SMALL))) == shapes
    jax.tree.map(
        np.testing.assert_array_equal,
        unstack_blocks(stack_blocks(params_of(SMALL))),
        params_of(SMALL),
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"width": 128, "depth": 3, "heads": 4, "patch": 8},
        {"width": 32, "depth": 2, "heads": 1, "patch": 8},
        {"width": 64, "depth": 2, "heads": 2, "patch": 4, "pool": "cls"},
        {"width": 64, "depth": 2, "heads": 2, "patch": 8, "pool": "map", "mlp_dim": 96},
    ],
)
def test_cost_is_what_the_compiled_step_runs(fields):
    module = ViT(num_classes=10, **fields)
    params = module.init(jax.random.key(1), IMAGES)["params"]
    cost = module.cost(IMAGES.shape[1:])
    forward = (
        jax.jit(lambda p: module.apply({"params": p}, IMAGES)["logits"])
        .lower(params)
        .compile()
        .as_text()
    )
    assert product_flops(forward) / len(IMAGES) == pytest.approx(cost.forward, rel=0.005)

    def loss(params):
        return jnp.mean(
            losses.softmax_xent(
                module.apply({"params": params}, IMAGES, train=True)["logits"], LABELS
            )
        )

    train = jax.jit(jax.value_and_grad(loss)).lower(params).compile().as_text()
    assert product_flops(train) / len(IMAGES) == pytest.approx(cost.train, rel=0.005)


def test_recomputation_is_charged_as_the_blocks_run_again():
    shape = (32, 32, 3)
    plain, full = SMALL.cost(shape), dataclasses.replace(SMALL, remat="full").cost(shape)
    block = 2 * 16 * 32 * (4 * 32 + 2 * 4 * 32) + 2 * 2 * 16 * 16 * 32
    assert full.recompute == 2 * block
    assert plain.recompute == 0.0
    assert dataclasses.replace(SMALL, remat="dots").cost(shape).recompute == 2 * (
        2 * 2 * 16 * 16 * 32
    )
    assert full.train == plain.train


def test_forward_cost_of_the_published_sizes():
    """Multiply-adds at 224 px, patch 16, as published: Ti 1.26 G, S 4.6 G, B 17.6 G, L 61.6 G."""
    for name, giga in (("Ti", 1.26), ("S", 4.6), ("B", 17.6), ("L", 61.6)):
        module = ViT(num_classes=1000, patch=16, pool="cls", **VARIANTS[name])
        assert module.cost((224, 224, 3)).forward / 2e9 == pytest.approx(giga, rel=0.02)


def test_the_key_has_no_bias_and_every_parameter_has_a_gradient():
    grads = loss_and_grads(SMALL, params_of(SMALL))[1]
    attention = grads["block_0"]["attention"]
    assert "bias" not in attention["key"]
    assert "bias" in attention["query"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert float(jnp.max(jnp.abs(leaf))) > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize("pool", ["gap", "cls", "map"])
def test_outputs_are_float32_and_bfloat16_is_close(pool):
    module = dataclasses.replace(SMALL, pool=pool)
    params = params_of(module)
    exact = module.apply({"params": params}, IMAGES)
    assert exact["logits"].shape == (4, 10)
    assert exact["features"].shape == (4, 32)
    half = dataclasses.replace(module, dtype="bfloat16").apply(
        {"params": params}, IMAGES.astype(jnp.bfloat16)
    )
    assert half["logits"].dtype == half["features"].dtype == jnp.float32
    np.testing.assert_allclose(
        half["logits"], exact["logits"], atol=0.05 * float(jnp.std(exact["logits"])) * 3
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch": 5}, "patch 5 does not divide the 32 x 32 image"),
        ({"heads": 5}, "heads 5 do not divide width 32"),
        ({"pool": "max"}, "pool 'max'"),
        ({"remat": "some"}, "remat 'some'"),
        ({"attention": "flash"}, "attention 'flash'"),
    ],
)
def test_errors_name_the_sizes(fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **fields).init(jax.random.key(0), IMAGES)


def test_fused_attention_is_asked_for_where_it_is_wanted(monkeypatch):
    asked = []
    plain = jax.nn.dot_product_attention

    def spy(*arrays, implementation, **rest):
        asked.append(implementation)
        return plain(*arrays, **rest)

    monkeypatch.setattr(jax.nn, "dot_product_attention", spy)
    params = params_of(SMALL)
    asked.clear()
    fused = dataclasses.replace(SMALL, attention="cudnn").apply({"params": params}, IMAGES)
    assert asked == ["cudnn"] * SMALL.depth
    np.testing.assert_array_equal(
        fused["logits"], SMALL.apply({"params": params}, IMAGES)["logits"]
    )


def test_starting_predictions_are_uniform():
    loss, _ = loss_and_grads(SMALL, SMALL.init(jax.random.key(0), IMAGES)["params"])
    assert float(loss) == pytest.approx(np.log(10), rel=1e-6)
