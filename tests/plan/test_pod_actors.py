"""The plan with actors: two programs, and no super-batch between them."""

import dataclasses

import jax
import pytest

from active_learning.config import ConfigError
from active_learning.core import policies
from active_learning.plan import pod_actors, topology
from active_learning.plan.abstract import build_abstract
from active_learning.settings import Select
from tests import world


def chips(*sides):
    """Coordinates of a rectangle of chips, row by row."""
    width, height = sides
    return [(x, y, 0) for y in range(height) for x in range(width)]


@pytest.mark.parametrize(
    "sides, actors, fits",
    [
        ((2, 4), 4, True),
        ((2, 4), 2, False),
        ((4, 4), 8, True),
        ((16, 16), 128, True),
        ((16, 16), 32, False),
        ((16, 16), 64, False),
        ((2, 4), 8, False),
    ],
)
def test_both_parts_have_to_be_slices(sides, actors, fits):
    if fits:
        pod_actors.check_parts(chips(*sides), actors)
        return
    with pytest.raises(ConfigError, match=rf"config.select.actors={actors}: the \d+ of \d+ chips"):
        pod_actors.check_parts(chips(*sides), actors)


def test_half_of_the_chips_is_proposed_where_it_can_be():
    with pytest.raises(ConfigError, match="; half of the chips, 8, is one$"):
        pod_actors.check_parts(chips(4, 4), 2)
    with pytest.raises(ConfigError, match="takes whole slices only$"):
        pod_actors.check_parts(chips(2, 2), 1)


def test_a_rectangle_with_a_hole_is_no_slice():
    assert topology.is_slice(chips(4, 2))
    assert not topology.is_slice(chips(4, 2)[:-1])


@pytest.mark.parametrize("small", [0, 4])
def test_only_rows_and_models_go_from_one_mesh_to_the_other(tmp_path, small, monkeypatch):
    select = Select(policy=policies.learnability, ratio=4, schedule="ahead", actors=4)
    config = world.config(world.write_arrays(tmp_path), select=select)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, small=small))
    experiment = build_abstract(config, (8, 8, 3), 10, 400, jax.devices())
    done = pod_actors.compile_actors(experiment)
    assert done.scoring.chips == done.training.chips == 4
    numbers = sum(leaf.size for leaf in jax.tree.leaves(scorer_params(experiment)))
    assert done.models == 4 * numbers
    b, pixels = 16, 8 * 8 * 3
    if small:
        assert not done.rows  # They are read anew.
    else:
        assert b * pixels < done.rows < b * (pixels + 40)  # with ids, epochs and labels
    candidates = 4 * b * (pixels if not small else small * small * 3)
    assert max((c.bytes for c in done.scoring.collectives), default=0) < candidates / 4
    monkeypatch.setitem(pod_actors.CHIPS, done.scoring.device_kind, topology.Chip(16.0, 1.0, 1.0))
    text = "\n".join(pod_actors.actor_lines(experiment, "v5e:2x4"))
    assert f"{done.models / 1e6:.1f} MB of models to each chip that scores, every update" in text
    assert ("the selected indices for every update" in text) == bool(small)


def scorer_params(experiment):
    return jax.eval_shape(experiment.init_scorer, jax.random.key(0))
