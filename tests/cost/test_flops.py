"""The ledger's FLOPs of a whole step are the products that the compiled step runs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import active_learning as al
from active_learning.cost import flops, ledger
from active_learning.models import ViT
from active_learning.tasks import Labels, View
from tests.hlo import product_flops

SHAPE, B, RATIO = (32, 32, 3), 4, 3
TASK = Labels()
VIEW = View(SHAPE, (0.5,) * 3, (0.25,) * 3, 10)
LEARNER = ViT(num_classes=10, width=128, depth=3, heads=4, patch=8)
SCORER = ViT(num_classes=10, width=32, depth=2, heads=1, patch=8)


def batch(size: int):
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (size, *SHAPE)), jnp.uint8),
        "label": jnp.asarray(rng.integers(0, 10, size), jnp.int32),
        "id": jnp.zeros((size, 2), jnp.uint32),
    }


@pytest.mark.parametrize(
    ("policy", "ratio"),
    [
        (al.policies.learnability, RATIO),
        (al.policies.easy_reference, RATIO),
        (al.policies.hard, RATIO),
        (al.policies.uniform, 1),
    ],
)
def test_the_ledger_charges_what_the_compiled_step_runs(policy, ratio):
    models = {
        "learner": TASK.model(LEARNER, VIEW, optax.sgd(0.1)),
        "scorer": TASK.model(SCORER, VIEW, optax.sgd(0.1)),
    }
    recipe = al.Recipe(**models, policy=policy, sub_batch_size=B)
    small = TASK.init(SCORER, VIEW, jax.random.key(1))
    reference = TASK.init(SCORER, VIEW, jax.random.key(2))
    state = al.init_state(
        recipe, jax.random.key(0), TASK.init(LEARNER, VIEW, jax.random.key(0)), small, reference
    )
    step = al.train_step if policy.needs else al.uniform_step
    text = jax.jit(partial(step, recipe)).lower(state, batch(ratio * B)).compile().as_text()
    charged = sum(
        ledger.step_costs(LEARNER.cost(SHAPE), SCORER.cost(SHAPE), policy.needs, B, ratio).values()
    )
    assert product_flops(text) == pytest.approx(charged, rel=0.005)


def test_primitives_by_hand():
    assert flops.dense(3, 5, 7, first=True) == flops.Cost(210.0, 210.0)
    assert flops.conv(4, 4, 3, 2, 8) == flops.Cost(2.0 * 16 * 9 * 2 * 8)
    assert flops.attention(3, 5, 8) == flops.Cost(2.0 * 2 * 3 * 5 * 8)
    total = flops.dense(1, 2, 3, first=True) + 2 * flops.dense(1, 3, 4)
    assert (total.forward, total.first, total.train) == (12.0 + 48.0, 12.0, 180.0 - 12.0)


def test_the_counter_refuses_products_in_loops():
    matrix = jnp.ones((4, 4))
    looped = (
        jax.jit(lambda x: jax.lax.fori_loop(0, 9, lambda _, y: y @ matrix, x))
        .lower(matrix)
        .compile()
        .as_text()
    )
    with pytest.raises(AssertionError, match="loop's body"):
        product_flops(looped)
