"""Goodput over restarts, and the slowest of several processes."""

import time

import pytest

from active_learning import distributed
from active_learning.metrics import Stopwatch
from active_learning.train import goodput
from active_learning.train.goodput import Goodput, OwnTime


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_goodput_is_the_part_of_the_wall_clock_in_updates(clock):
    watch = Stopwatch(50.0)  # Seconds that the reference took.
    first = Goodput(watch, 50.0)
    clock[0] += 10  # Compilation.
    with watch.running():
        clock[0] += 30
    assert first.fraction == pytest.approx(30 / 40)
    meta = first.state()

    clock[0] += 1000  # Nothing runs.
    again = Stopwatch(50.0)
    second = Goodput(again, 50.0)
    again.seconds = watch.seconds  # From the checkpoint.
    second.restore(meta)
    clock[0] += 10
    with again.running():
        clock[0] += 50
    assert second.fraction == pytest.approx(80 / 100)


def test_a_checkpoint_without_wall_clock_time_counts_its_updates(clock):
    watch = Stopwatch(20.0)
    one = Goodput(watch, 5.0)
    one.restore({})
    clock[0] += 15
    assert one.fraction == pytest.approx(15 / 30)


def test_the_slowest_process_is_the_one_that_waits_least(clock, monkeypatch, caplog):
    watch, others = Stopwatch(), [0.2, 0.5]
    monkeypatch.setattr(distributed, "gather_floats", lambda own: [others[0], own, others[1]])
    caplog.set_level("INFO", goodput.LOG.name)
    own = OwnTime("mine", watch, step=10)
    with watch.running():
        clock[0] += 12
    values = own.compare(20, waited=4.0)  # 8 s of its own in 10 updates.
    assert values == {
        "hosts/slowest_rank": 1.0,
        "hosts/slowest_seconds": pytest.approx(0.8),
        "hosts/median_seconds": pytest.approx(0.5),
    }
    assert "process 1 is the slowest: it works 0.8 s per update" in caplog.text
    with watch.running():
        clock[0] += 4
    assert own.compare(30, waited=5.0)["hosts/slowest_rank"] == 2  # 0.3 s of its own.
    assert own.compare(30, waited=5.0) == {}  # No update since.


def test_a_single_process_is_not_compared(clock):
    watch = Stopwatch()
    own = OwnTime("mine", watch, step=0)
    with watch.running():
        clock[0] += 1
    assert own.compare(1, waited=0.0) == {}
