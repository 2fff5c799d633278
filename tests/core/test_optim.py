"""Optimizers: schedules by hand, which parameters decay, and a step of each optimizer by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from active_learning.config import ConfigError, freeze, section
from active_learning.core import optim
from active_learning.core.optim import Optim


def rates(**fields) -> np.ndarray:
    schedule = Optim(learning_rate=1.0, **fields).rate(10, 100)
    return np.array([float(schedule(jnp.int32(k))) for k in (0, 5, 10, 40, 80, 90, 100)])


def test_schedules_by_hand():
    cosine = [0.5 * (1 + np.cos(np.pi * (k - 10) / 90)) for k in (10, 40, 80, 90, 100)]
    np.testing.assert_allclose(rates(), [0, 0.5, *cosine], atol=1e-6)
    constant = [0, 0.5, 1, 1, 1, 0.5, 0]
    np.testing.assert_allclose(rates(schedule="constant"), constant, atol=1e-6)
    rsqrt = [0, 0.5, 1, 0.5, np.sqrt(1 / 8), 0.5 * np.sqrt(1 / 9), 0]
    np.testing.assert_allclose(rates(schedule="rsqrt"), rsqrt, atol=1e-6)
    assert rates(schedule="constant", cooldown=0.0)[-1] == 1


def first_step(optimizer: str, gradient: float = 0.5) -> float:
    """The change of a single weight 2 in the first update at the full rate 0.1."""
    params = {"head": {"kernel": jnp.full((1, 1), 2.0)}}
    fields = {"optimizer": optimizer, "weight_decay": 0.01, "clip": 0.0}
    made = Optim(0.1, schedule="constant", cooldown=0.0, **fields).make(0, 10)
    grads = jax.tree.map(lambda p: jnp.full_like(p, gradient), params)
    _, state = made.update(grads, made.init(params), params)  # The rate of update 0 is 0.
    updates, _ = made.update(grads, state, params)
    return float(updates["head"]["kernel"][0, 0])


def test_an_update_of_each_optimizer_by_hand():
    # Decoupled decay: 0.1 * 0.01 * 2 = 0.002. Adam and Adafactor divide the gradient by its size.
    assert first_step("adamw") == pytest.approx(-0.1 - 0.002, rel=1e-4)
    assert first_step("lion") == pytest.approx(-0.1 - 0.002, rel=1e-4)
    assert first_step("adafactor") == pytest.approx(-0.1 - 0.002, rel=1e-3)
    # Nesterov: the trace is 0.5, then 0.95; the step is 0.5 + 0.9 * 0.95.
    assert first_step("sgd") == pytest.approx(-0.1 * (0.5 + 0.9 * 0.95) - 0.002, rel=1e-4)


def test_the_default_is_adamw_as_ever():
    params = {"a": {"kernel": jnp.ones((2, 3))}, "position": jnp.ones((4, 3)), "b": jnp.ones(3)}
    grads = jax.tree.map(lambda p: 0.1 * p, params)
    mask = jax.tree.map(lambda p: p.ndim > 1, params)
    rate = optax.warmup_cosine_decay_schedule(0.0, 1e-3, 2, 10)
    plain = optax.adamw(rate, b2=0.99, weight_decay=1e-4, mask=mask)
    expected = optax.chain(optax.clip_by_global_norm(1.0), plain)
    for made in (Optim().make(2, 10), optim.adamw(1e-3, 2, 10, 1e-4, 0.99, 1.0)):
        state, theirs = made.init(params), expected.init(params)
        assert jax.tree.structure(state) == jax.tree.structure(theirs)
        for _ in range(3):
            ours, state = made.update(grads, state, params)
            wanted, theirs = expected.update(grads, theirs, params)
        jax.tree.map(np.testing.assert_array_equal, ours, wanted)


def test_what_decays():
    params = {
        "position": jnp.ones((4, 3)),
        "cls": jnp.ones((1, 1, 3)),
        "blocks": {"norm_1": {"scale": jnp.ones((2, 3))}, "mlp": {"kernel": jnp.ones((2, 3, 3))}},
        "text": {"embed": jnp.ones((9, 3))},
        "head": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)},
    }
    assert optim.decayed_kernels(params) == {
        "position": False,
        "cls": False,
        "blocks": {"norm_1": {"scale": False}, "mlp": {"kernel": True}},
        "text": {"embed": True},
        "head": {"kernel": True, "bias": False},
    }
    assert optim.decayed_matrices(params)["position"]


def test_an_optimizer_of_ones_own():
    made = Optim(0.1, schedule="constant", cooldown=0.0, transform=optax.sgd).make(1, 10)
    updates, _ = made.update(jnp.ones(()), made.update(jnp.ones(()), made.init(jnp.ones(())))[1])
    assert float(updates) == pytest.approx(-0.1)


def test_names_are_checked():
    node = section(Optim, optimizer="adam")
    with pytest.raises(ConfigError, match=r"optim.optimizer='adam': expected one of 'adamw'"):
        freeze(node, "config.optim")


@pytest.mark.parametrize("optimizer", ["adamw", "lion", "sgd"])
def test_first_moments_in_bfloat16(optimizer):
    """Half of their bytes; the second moment stays float32, and the update the same in 8 bits."""
    params = {"head": {"kernel": jnp.full((3, 2), 2.0)}}
    grads = {"head": {"kernel": jnp.array([[0.3, -0.2], [0.1, 0.7], [-0.5, 0.9]])}}
    updates = {}
    for stored in ("float32", "bfloat16"):
        made = Optim(0.1, optimizer=optimizer, first_moment=stored, schedule="constant").make(0, 10)
        state = made.init(params)
        for _ in range(3):
            updates[stored], state = made.update(grads, state, params)
        types = [leaf.dtype for leaf in jax.tree.leaves(state) if leaf.ndim == 2]
        expected = [jnp.dtype(stored)] + [jnp.dtype("float32")] * (optimizer == "adamw")
        assert types == expected
    short, full = (updates[stored]["head"]["kernel"] for stored in ("bfloat16", "float32"))
    np.testing.assert_allclose(short, full, rtol=0.01)
    if optimizer != "lion":  # Its update is a sign.
        assert (short != full).any()
