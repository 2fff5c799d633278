"""Checkpoints: any number of devices, damaged steps, wrong shapes, parameters alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from active_learning import checkpoint
from active_learning.config import ConfigError
from active_learning.core import sharding
from tests import toy


def saved(folder, steps=(1, 2), devices=8):
    """A folder with checkpoints of the toy state, whose `step` field says which."""
    recipe = toy.recipe()
    state = jax.device_put(toy.state(recipe), sharding.replicated(toy.mesh_of(devices)))
    keeper = checkpoint.Checkpoints(folder, max_to_keep=3)
    for step in steps:
        keeper.save(
            step,
            jax.tree.map(lambda x: x, state.__class__(**{**vars(state), "step": jnp.int32(step)})),
            {"at": step},
        )
    keeper.close()
    return state


@pytest.mark.parametrize(("before", "after"), [(8, 1), (1, 8), (4, 8)])
def test_a_state_saved_on_one_number_of_devices_is_restored_on_another(tmp_path, before, after):
    state = saved(tmp_path, devices=before)
    target = jax.device_put(
        toy.state(toy.recipe(), seed=9), sharding.replicated(toy.mesh_of(after))
    )
    keeper = checkpoint.Checkpoints(tmp_path)
    restored, meta = keeper.restore(target)
    keeper.close()
    assert meta == {"at": 2}
    assert int(restored.step) == 2
    assert len(restored.learner.params["w"].sharding.device_set) == after
    jax.tree.map(np.testing.assert_array_equal, toy.host(restored.learner), toy.host(state.learner))
    np.testing.assert_array_equal(jax.random.key_data(restored.key), jax.random.key_data(state.key))


def test_a_damaged_newest_step_is_skipped(tmp_path):
    saved(tmp_path)
    for path in (tmp_path / "2").rglob("*"):
        if path.is_file() and path.stat().st_size > 200:
            path.write_bytes(path.read_bytes()[:100])
    keeper = checkpoint.Checkpoints(tmp_path)
    restored, meta = keeper.restore(toy.state(toy.recipe()))
    assert meta == {"at": 1}
    assert int(restored.step) == 1
    keeper.save(2, toy.state(toy.recipe(), seed=5), {"at": 2})  # what was damaged is written again
    keeper.close()
    keeper = checkpoint.Checkpoints(tmp_path)
    assert keeper.restore(toy.state(toy.recipe()))[1] == {"at": 2}
    keeper.close()


def test_when_no_step_can_be_read_the_folder_is_named(tmp_path):
    saved(tmp_path, steps=(1,))
    wide = toy.state(toy.recipe())
    wide = wide.__class__(
        **{**vars(wide), "learner": wide.learner.__class__({"w": jnp.zeros((3, 3))})}
    )
    keeper = checkpoint.Checkpoints(tmp_path)
    with pytest.raises(ConfigError, match=rf"{tmp_path}: none of the checkpoints \[1\]"):
        keeper.restore(wide)
    keeper.close()


def test_an_empty_folder_has_nothing_to_restore(tmp_path):
    keeper = checkpoint.Checkpoints(tmp_path / "new")
    assert keeper.restore(toy.state(toy.recipe())) is None
    keeper.close()


def test_parameters_of_one_model_alone(tmp_path):
    saved(tmp_path / "checkpoints")
    for which, seed in (("learner", 1), ("online", 2), ("reference", 3)):
        jax.tree.map(
            np.testing.assert_array_equal,
            checkpoint.load_params(tmp_path, which),
            toy.host(toy.params(seed)),
        )
    with pytest.raises(ConfigError, match="no checkpoint found"):
        checkpoint.load_params(tmp_path / "nowhere")
