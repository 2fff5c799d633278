"""The watchdog bites where no progress is made, and at no other time."""

import subprocess
import sys

import pytest

from active_learning.data.parts import Part
from active_learning.settings import Evaluate, Log, Select
from active_learning.train import loop, watchdog
from active_learning.train.watchdog import Watchdog
from tests import world

STUCK = """
import sys, time
from pathlib import Path
from active_learning.train.watchdog import Watchdog

def waits_for_ever():
    time.sleep(600)

with Watchdog(0.3 / 60, Path(sys.argv[1])) as dog:
    dog.beat(41)
    waits_for_ever()
"""


def test_a_stuck_process_writes_its_stacks_and_ends_with_code_3(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", STUCK, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 3
    written = (tmp_path / "hosts" / "0.log").read_text()
    assert "no update for 0.005 minutes; the last was update 41" in written
    assert "in waits_for_ever" in written
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: no update for 0.005 minutes") and "hosts/0.log" in line


def ticking(dog: Watchdog, seconds: float) -> None:
    """What the thread does in so many seconds."""
    for _ in range(round(seconds / dog._tick)):
        dog.tick()


@pytest.fixture
def bites(monkeypatch):
    """Watchdogs without a thread of their own that would have ended the process."""
    ended = []
    monkeypatch.setattr(Watchdog, "_watch", lambda dog: None)
    monkeypatch.setattr(watchdog, "_leave", lambda: ended.append(True))
    return ended


def test_updates_and_pauses_keep_it_quiet(tmp_path, bites):
    with Watchdog(1.0, tmp_path) as dog:
        for step in range(5):
            dog.beat(step)
            ticking(dog, 55)
        with dog.paused():
            ticking(dog, 600)
        ticking(dog, 55)
        assert not bites
        ticking(dog, 10)
        assert bites


def test_zero_minutes_are_for_ever(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(Watchdog, "_watch", started.append)
    with Watchdog(0.0, tmp_path):
        pass
    assert not started


def test_a_run_is_watched_but_not_while_it_compiles(tmp_path, monkeypatch, bites):
    data, dogs = world.write_arrays(tmp_path), []
    plain = {
        "select": Select(),
        "evaluate": Evaluate(every="50 %", subset=60),
        "total": "4 steps",
        "log": Log(every="50 %", snapshots=0, watchdog_minutes=1.0),
    }
    started, compiles = Watchdog.__enter__, loop.UpdateRunner.compile
    updates, evaluates = loop.UpdateRunner.__call__, loop.Evaluation.during

    def enter(dog):
        dogs.append(dog)
        return started(dog)

    def slow_compile(self, state, active):
        ticking(dogs[0], 600)
        compiles(self, state, active)

    def slow_evaluation(self, state):
        ticking(dogs[0], 550)
        return evaluates(self, state)

    def last_hangs(self, state, active, more):
        assert not bites
        ticking(dogs[0], 65 if int(state.step) == 3 else 55)
        return updates(self, state, active, more)

    monkeypatch.setattr(Watchdog, "__enter__", enter)
    monkeypatch.setattr(loop.UpdateRunner, "compile", slow_compile)
    monkeypatch.setattr(loop.UpdateRunner, "__call__", last_hangs)
    monkeypatch.setattr(loop.Evaluation, "during", slow_evaluation)
    loop.run(world.config(data, **plain), tmp_path / "run")
    assert bites
    written = (tmp_path / "run" / "hosts" / "0.log").read_text()
    assert "the last was update 3" in written and "in last_hangs" in written


def test_outside_of_updates_the_limit_is_at_least_ten_minutes(tmp_path, bites):
    with Watchdog(1.0, tmp_path) as dog:
        dog.beat(7)
        with dog.during("an evaluation"):
            for _ in range(3):
                ticking(dog, 550)
                dog.progress()
        ticking(dog, 55)
        assert not bites
        with dog.during("a save"):
            ticking(dog, 550)
            assert not bites
            ticking(dog, 50)
    assert bites
    written = (tmp_path / "hosts" / "0.log").read_text()
    assert "a save after update 7: no progress for 10 minutes" in written


@pytest.mark.parametrize("whole", [False, True])
def test_a_batch_of_an_evaluation_that_hangs_ends_the_run(tmp_path, monkeypatch, bites, whole):
    """Batches are slow and count as progress (two are read before one ends); the last hangs."""
    data, dogs, read = world.write_arrays(tmp_path), [], []
    started, images = Watchdog.__enter__, Part.images

    def enter(dog):
        dogs.append(dog)
        return started(dog)

    def hanging_disk(part, rows):
        if dogs and dogs[0]._between == ("the final evaluation" if whole else "an evaluation"):
            assert not bites
            read.append(len(rows))
            ticking(dogs[0], 600 if len(read) == 4 else 250)
            if bites:
                raise TimeoutError
        return images(part, rows)

    monkeypatch.setattr(Watchdog, "__enter__", enter)
    monkeypatch.setattr(Part, "images", hanging_disk)
    plain = {
        "select": Select(),
        "evaluate": Evaluate(every="100 %", subset=64, batch_size=16),
        "total": "2 steps",
        "log": Log(snapshots=0, watchdog_minutes=1.0),
    }
    with pytest.raises(TimeoutError):
        loop.run(world.config(data, **plain), tmp_path / "run")
    written = (tmp_path / "run" / "hosts" / "0.log").read_text()
    what = "the final evaluation" if whole else "an evaluation"
    assert f"{what} after update 2: no progress for 10 minutes" in written
    assert "in hanging_disk" in written and bites and len(read) == 4


@pytest.mark.parametrize("total", ["1 steps", "2 steps"])  # The last save, and one before it.
def test_a_save_that_hangs_ends_the_run(tmp_path, monkeypatch, bites, total):
    data, dogs = world.write_arrays(tmp_path), []
    started = Watchdog.__enter__

    def enter(dog):
        dogs.append(dog)
        return started(dog)

    def hanging_save(checkpoints, step, state, meta):
        ticking(dogs[0], 600)
        raise TimeoutError

    monkeypatch.setattr(Watchdog, "__enter__", enter)
    monkeypatch.setattr(loop.checkpoint.Checkpoints, "save", hanging_save)
    log = Log(snapshots=0, watchdog_minutes=1.0)
    with pytest.raises(TimeoutError):
        loop.run(world.config(data, select=Select(), total=total, log=log), tmp_path / "run")
    written = (tmp_path / "run" / "hosts" / "0.log").read_text()
    assert "a save after update 1: no progress" in written and "in hanging_save" in written
