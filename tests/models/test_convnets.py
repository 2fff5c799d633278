"""ResNet and MLP: costs against the compiled step, no mutable state, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from active_learning.core import losses
from active_learning.models import MLP, ResNet
from tests.hlo import product_flops

IMAGES = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
LABELS = jnp.array([3, 1])
MODULES = [
    MLP(num_classes=10, width=64, depth=2),
    ResNet(num_classes=10, width=8, stages=(1, 1)),
    ResNet(num_classes=10, width=8, stages=(1, 1), bottleneck=True),
    ResNet(num_classes=10, width=16, stages=(1, 1), stem="imagenet"),
]


@pytest.mark.parametrize("module", MODULES, ids=repr)
def test_cost_is_what_the_compiled_step_runs(module):
    variables = module.init(jax.random.key(1), IMAGES)
    assert set(variables) == {"params"}  # no mutable state
    params = variables["params"]
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


def test_resnet_18_costs_what_was_published():
    """Multiply-adds of ResNet-18 at 224 px: 1.81 G (torchvision's table), of ResNet-50: 4.09 G."""
    eighteen = ResNet(num_classes=1000, stem="imagenet")
    fifty = ResNet(num_classes=1000, stem="imagenet", stages=(3, 4, 6, 3), bottleneck=True)
    assert eighteen.cost((224, 224, 3)).forward / 2e9 == pytest.approx(1.81, rel=0.02)
    assert fifty.cost((224, 224, 3)).forward / 2e9 == pytest.approx(4.09, rel=0.02)


@pytest.mark.parametrize("module", MODULES, ids=repr)
def test_shapes_and_uniform_start(module):
    out = module.apply(module.init(jax.random.key(1), IMAGES), IMAGES)
    np.testing.assert_array_equal(out["logits"], np.zeros((2, 10)))
    assert out["features"].dtype == jnp.float32


@pytest.mark.parametrize(
    ("fields", "message"), [({"stem": "big"}, "stem 'big'"), ({"width": 6}, "width 6 is not")]
)
def test_errors_name_the_field(fields, message):
    with pytest.raises(ValueError, match=message):
        ResNet(num_classes=10, **fields).init(jax.random.key(0), IMAGES)
