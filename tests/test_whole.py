"""States as whole arrays on the first process, and back on their devices."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from active_learning.core import sharding
from active_learning.distributed.whole import gathered, scattered


def test_a_gathered_state_is_scattered_as_it_was():
    mesh = sharding.make_mesh(fsdp=4)

    def placed(value, *spec):
        return jax.device_put(value, NamedSharding(mesh, PartitionSpec(*spec)))

    state = {
        "split": placed(jnp.arange(24.0).reshape(8, 3), "fsdp"),
        "half": placed(jnp.arange(4, dtype=jnp.bfloat16)),
        "count": placed(jnp.uint32(7)),
        "key": placed(jax.random.key(3)),
    }
    whole = gathered(state)
    np.testing.assert_array_equal(whole["split"], np.arange(24.0).reshape(8, 3))
    np.testing.assert_array_equal(whole["key"], jax.random.key_data(jax.random.key(3)))
    assert (whole["half"].dtype, whole["count"]) == (jnp.bfloat16, 7)
    back = scattered(whole, state)
    for name, leaf in state.items():
        assert (back[name].sharding, back[name].dtype) == (leaf.sharding, leaf.dtype), name
    assert jax.random.uniform(back.pop("key")) == jax.random.uniform(state.pop("key"))
    jax.tree.map(np.testing.assert_array_equal, back, state)
