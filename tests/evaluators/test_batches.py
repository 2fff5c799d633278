"""Batches of one size over a whole set: padding is dropped, two are held, one is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from active_learning.core.sharding import batch_sharding, make_mesh, replicated
from active_learning.evaluators.batches import map_batches, padded_rows


def test_the_last_batch_repeats_the_last_row():
    result = [(rows.tolist(), valid) for rows, valid in padded_rows(5, 3)]
    assert result == [([0, 1, 2], 3), ([3, 4, 4], 2)]
    assert list(padded_rows(0, 3)) == []


@pytest.mark.parametrize("count", [1, 4, 7, 8, 9])
@pytest.mark.parametrize("devices", [1, 4])
def test_outputs_come_in_order_without_padding(count, devices):
    placement = batch_sharding(make_mesh(jax.devices()[:devices])) if devices > 1 else None
    everywhere = None if placement is None else replicated(placement.mesh)
    values, traces = np.arange(10.0, dtype=np.float32), []

    def double(batch):
        traces.append(batch["x"].shape)
        return batch["x"] * 2, jnp.sum(batch["x"][:, None], axis=1)

    function = jax.jit(double, out_shardings=everywhere)
    blocks = list(map_batches(function, lambda rows: {"x": values[rows]}, count, 3, placement))
    twice, same = (np.concatenate(leaves) for leaves in zip(*blocks, strict=True))
    np.testing.assert_array_equal(twice, 2 * values[:count])
    np.testing.assert_array_equal(same, values[:count])
    assert traces == [(3,) if devices == 1 else (4,)]


def test_a_batch_is_read_after_the_one_before_the_last_was_handed_out():
    read, handed = [], []

    def one(rows):
        assert len(read) <= len(handed) + 1
        read.append(rows[0])
        return {"x": rows.astype(np.int32)}

    for block in map_batches(jax.jit(lambda batch: batch["x"]), one, 10, 2):
        handed.append(block)
    assert len(read) == len(handed) == 5
