"""Checkpoints: any number of devices, damage of any file, full disks, when one is due."""

import errno
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from active_learning import checkpoint
from active_learning.config import ConfigError
from active_learning.core import sharding
from active_learning.distributed.finite import nonfinite
from active_learning.metrics import StorageError
from active_learning.train import save_clock
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


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A run folder with the checkpoints 1 and 2."""
    run = tmp_path_factory.mktemp("run")
    saved(run / "checkpoints")
    return run


def restored(folder):
    keeper = checkpoint.Checkpoints(folder)
    try:
        return keeper.restore(toy.state(toy.recipe()))
    finally:
        keeper.close()


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


DAMAGES = {
    "flip": _flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_of_any_file_is_noticed_and_the_older_step_is_used(two_steps, tmp_path, damage):
    names = json.loads((two_steps / "checkpoints" / "2" / "checksums.json").read_text())["files"]
    assert "meta/metadata" in names
    assert any(name.startswith("state/d/") for name in names)
    names = [name for name in names if (two_steps / "checkpoints" / "2" / name).stat().st_size]
    for name in names[:: 1 if damage == "flip" else 5]:
        run = tmp_path / name.replace("/", "_")
        shutil.copytree(two_steps, run)
        DAMAGES[damage](run / "checkpoints" / "2" / name)
        assert name in checkpoint.find_damage(run / "checkpoints" / "2")
        if name == names[0]:
            message = rf"2: damaged \({name}.*run again, repairs it"
            with pytest.raises(checkpoint.DamagedError, match=message):
                checkpoint.load_params(run)
            assert name in checkpoint.newest_damage(run)
            assert restored(run / "checkpoints")[1] == {"at": 1}
        shutil.rmtree(run)


@pytest.mark.parametrize(
    ("name", "step"), [("_CHECKPOINT_METADATA", 2), ("state/_METADATA", 1), ("meta/metadata", 1)]
)
def test_metadata_that_nest_too_deep_end_no_run(two_steps, tmp_path, name, step):
    """The first, which Orbax writes last, holds nothing that a run needs."""
    run = tmp_path / "run"
    shutil.copytree(two_steps, run)
    (run / "checkpoints" / "2" / name).write_bytes(b"[" * 3000)
    assert restored(run / "checkpoints")[1] == {"at": step}


def test_a_damaged_step_is_reported_and_the_broken_file_named_when_none_is_left(
    two_steps, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    shutil.copytree(two_steps, run)
    _flip(run / "checkpoints" / "2" / "meta" / "metadata")
    _flip(run / "checkpoints" / "1" / "state" / "_METADATA")
    warned = []
    monkeypatch.setattr(checkpoint.LOG, "warning", lambda *args: warned.append(args[0] % args[1:]))
    with pytest.raises(
        checkpoint.DamagedError, match=r"2: meta/metadata does not match.*no intact checkpoint"
    ):
        restored(run / "checkpoints")
    assert [text.count("checkpoint is damaged") for text in warned] == [1, 1]
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["1", "2"]


@pytest.mark.parametrize("content", [b"", b"{}", b'{"files": {"a": 1}}', b'{"files": [', b"\xff"])
def test_unreadable_checksums_are_damage(two_steps, tmp_path, content):
    run = tmp_path / "run"
    shutil.copytree(two_steps, run)
    (run / "checkpoints" / "2" / "checksums.json").write_bytes(content)
    assert checkpoint.newest_damage(run) in ("checksums.json is unreadable", "a is missing")


def test_a_step_without_checksums_is_read_as_older_versions_wrote_it(two_steps, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(two_steps, run)
    (run / "checkpoints" / "2" / "checksums.json").unlink()
    assert checkpoint.newest_damage(run) is None
    assert restored(run / "checkpoints")[1] == {"at": 2}
    checkpoint.load_params(run)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    state = toy.state(toy.recipe())
    learner = state.learner.__class__(
        {**state.learner.params, "b": state.learner.params["b"].at[2].set(value)},
        state.learner.opt_state,
    )
    broken = state.__class__(**{**vars(state), "learner": learner})
    keeper = checkpoint.Checkpoints(tmp_path / "checkpoints")
    keeper.save(1, state, {"at": 1})
    keeper.save(2, broken, {"at": 2})
    keeper.close()
    assert nonfinite(broken) == "learner/params/b"
    with pytest.raises(checkpoint.DamagedError, match=r"2: learner/params/b is not finite"):
        checkpoint.load_params(tmp_path)
    assert checkpoint.load_params(tmp_path, "online")
    assert restored(tmp_path / "checkpoints")[1] == {"at": 1}


def test_two_steps_are_kept(tmp_path):
    keeper = checkpoint.Checkpoints(tmp_path)
    assert keeper.empty
    for step in (1, 2, 3):
        keeper.save(step, toy.state(toy.recipe()), {"at": step})
    keeper.close()
    assert not keeper.empty
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "3"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_during_a_save_leaves_the_older_step(tmp_path, monkeypatch, number):
    saved(tmp_path, steps=(1,))
    keeper = checkpoint.Checkpoints(tmp_path)

    def full(*_):
        raise OSError(number, "No room")

    monkeypatch.setattr(checkpoint, "write_atomic", full)
    keeper.save(2, toy.state(toy.recipe()), {"at": 2})
    with pytest.raises(
        StorageError,
        match=rf"{tmp_path}: a checkpoint could not be written \(No room\); the checkpoint of "
        "update 1 is intact. Free some space",
    ):
        keeper.close()
    monkeypatch.undo()
    assert restored(tmp_path)[1] == {"at": 1}
    assert not (tmp_path / "2").exists()


def saves(clock, seconds_an_update, count):
    return [n for n in range(1, count + 1) if clock.due(n, n * seconds_an_update)]


def test_checkpoints_are_due_every_so_many_updates():
    assert saves(save_clock.CheckpointClock(4), 0.01, 10) == [4, 8]


@pytest.fixture(params=[1, 2])
def processes(request, monkeypatch):
    """One process, or two of which this is the first; the number of looks is what they cost."""
    looks = []
    monkeypatch.setattr(jax, "process_count", lambda: request.param)
    monkeypatch.setattr(checkpoint.distributed, "run_on_primary", lambda f: looks.append(0) or f())
    return request.param, looks


@pytest.mark.parametrize("seconds", [0.013, 0.4, 3.0, 70.0])
def test_the_first_checkpoint_of_a_long_run_comes_within_five_minutes(seconds, processes):
    count = int(4 * 3600 / seconds) + 1
    times = [n * seconds for n in saves(save_clock.CheckpointClock(10**9), seconds, count)]
    assert save_clock.FIRST_SAVE <= times[0] <= 300
    gaps = np.diff(times)
    assert len(gaps) >= 2
    assert gaps.min() >= save_clock.LATER_SAVES
    assert gaps.max() <= 1.1 * save_clock.LATER_SAVES + seconds
    assert len(processes[1]) <= 80 * len(times)


def test_a_run_that_gets_slower_is_saved_in_time(processes):
    clock, now, times = save_clock.CheckpointClock(10**9), 0.0, []
    for n in range(1, 2000):
        now += 0.1 if n < 200 else 1.0  # 20 s, then ten times as slow
        if clock.due(n, now):
            times.append(now)
    assert 200 <= times[0] <= 300


def test_a_continued_run_has_its_first_checkpoint():
    clock = save_clock.CheckpointClock(10**9, seconds=1000.0, first=False)
    assert next(n for n in range(1, 5000) if clock.due(n, 1000.0 + n)) == pytest.approx(
        3600, rel=0.1
    )
