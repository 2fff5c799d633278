"""The first state is made where it belongs, the same numbers whoever holds them; and shapes without
data.
"""

import dataclasses

import jax
import numpy as np
import pytest

from active_learning.config import ConfigError, config_hash
from active_learning.references import CoTrained
from active_learning.train.build import abstract_state, build, first_state
from tests import toy, world


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return world.config(
        world.write_arrays(tmp_path_factory.mktemp("arrays")), reference=CoTrained()
    )


def test_a_shared_learner_starts_as_a_whole_one_does(config):
    shared, alone = build(dataclasses.replace(config, fsdp=2)), build(config, jax.devices()[:1])
    state = first_state(shared)
    kernel = state.learner.params["layer_0"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (96, 32)
    assert state.online.params["layer_0"]["kernel"].sharding.is_fully_replicated
    jax.tree.map(np.testing.assert_array_equal, toy.host(state), toy.host(first_state(alone)))
    expected = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), state)
    assert (
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), abstract_state(shared))
        == expected
    )


def test_who_holds_what_is_no_part_of_the_hash_and_must_divide(config):
    assert config_hash(dataclasses.replace(config, fsdp=2)) == config_hash(config)
    with pytest.raises(ConfigError, match=r"config\.fsdp=3: does not divide the 8 devices"):
        build(dataclasses.replace(config, fsdp=3))


def test_the_compute_type_reaches_the_models(config):
    assert build(config).learner.dtype == "float32"
    experiment = build(dataclasses.replace(config, dtype="bfloat16"))
    assert (experiment.learner.dtype, experiment.scorer.dtype) == ("bfloat16", "bfloat16")
