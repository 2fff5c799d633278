"""Replay: another run's choices train a learner with no scorer; what does not fit is refused before anything compiles."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from active_learning import checkpoint, policies, train
from active_learning.config import ConfigError
from active_learning.models import MLP
from active_learning.settings import Reference, Select
from tests import world

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return world.write_arrays(tmp_path_factory.mktemp("arrays"))


@pytest.fixture(scope="module")
def recorded(data, tmp_path_factory):
    """A run at ratio 4 whose candidates wrap around the pool (400 examples, 24 steps of 64), so that epochs matter."""
    folder = tmp_path_factory.mktemp("runs") / "recorded"
    select = Select(policy=policies.learnability, ratio=4, temperature=0.5, until="75 %")
    return folder, train.run(world.config(data, total="24 steps", select=select), folder)


def replayed(data, folder, **changes):
    return world.config(data, total="24 steps", select=Select(replay=str(folder)), **changes)


def ids(folder):
    return np.concatenate([np.load(path) for path in sorted((folder / "chosen").glob("*.npy"))])


def test_a_replay_trains_the_same_learner_bit_for_bit_and_runs_no_scorer(data, recorded, tmp_path):
    folder, theirs = recorded
    ours = train.run(replayed(data, folder), tmp_path / "run")
    np.testing.assert_array_equal(ids(tmp_path / "run"), ids(folder))
    jax.tree.map(
        np.testing.assert_array_equal, checkpoint.load_params(tmp_path / "run"), checkpoint.load_params(folder)
    )
    assert ours["final"] == theirs["final"]
    charged = {account for account, value in ours["flops"].items() if value}
    assert charged == {"learner_train"}
    assert ours["flops"]["learner_train"] == theirs["flops"]["learner_train"]


def test_a_stopped_replay_continues_where_it_was(data, recorded, tmp_path):
    folder, theirs = recorded
    assert not train.run(replayed(data, folder), tmp_path / "run", world.StopAfter(10))["complete"]
    assert train.run(replayed(data, folder), tmp_path / "run")["final"] == theirs["final"]


def test_importance_weights_are_replayed(data, tmp_path):
    select = Select(policy=policies.gradient_norm, ratio=4)
    first = train.run(world.config(data, select=select, total="8 steps"), tmp_path / "first")
    config = world.config(data, select=Select(replay=str(tmp_path / "first")), total="8 steps")
    assert train.run(config, tmp_path / "second")["final"] == first["final"]
    with np.load(next((tmp_path / "first" / "chosen").glob("*.npz"))) as more:
        assert more["weight"].std() > 0


def test_another_learner_can_be_trained_on_recorded_choices(data, recorded, tmp_path):
    folder, _ = recorded
    summary = train.run(replayed(data, folder, learner=MLP(width=48, depth=2)), tmp_path / "run")
    assert summary["complete"]
    np.testing.assert_array_equal(ids(tmp_path / "run"), ids(folder))


def test_what_does_not_fit_is_refused(data, recorded, tmp_path, tmp_path_factory):
    folder, _ = recorded
    other = world.write_arrays(tmp_path_factory.mktemp("other"), seed=1)
    cases = [
        (replayed(data, tmp_path / "nowhere"), "no recorded choices there"),
        (replayed(other, folder), "recorded on other data"),
        (replayed(data, folder, batch_size=8), r"16 ids an update, but config\.batch_size=8"),
        (
            dataclasses.replace(replayed(data, folder), total="25 steps"),
            "24 updates are recorded, config.total needs 25",
        ),
        (
            dataclasses.replace(
                replayed(data, folder), select=Select(policy=policies.hard, replay=str(folder)), reference=Reference()
            ),
            "policy must be uniform",
        ),
    ]
    for config, message in cases:
        with pytest.raises(ConfigError, match=message):
            train.run(config, tmp_path / "run")
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    sorted((damaged / "chosen").glob("*.npy"))[0].unlink()
    with pytest.raises(ConfigError, match="updates 0 to 00000012 are missing"):
        train.run(replayed(data, damaged), tmp_path / "run")
