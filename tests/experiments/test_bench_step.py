import itertools

import pytest

from experiments import bench_step
from experiments.bench_step import interleaved, quotients


def test_quotients_by_hand():
    seconds = {
        "uniform": [2.0, 4.0, 2.0],
        "active": [3.0, 6.0, 3.3],
        "scoring": [0.5, 1.0, 0.5],
        "online": [0.5, 1.0, 0.5],
    }
    got = quotients(seconds, flop_ratio=1.2)
    assert got["integration"] == pytest.approx(1.0)  # of 1, 1, 1.1
    assert got["active_over_uniform"] == pytest.approx(1.5)
    assert got["efficiency"] == pytest.approx(1.25)


def test_rounds_are_interleaved_and_the_first_call_is_not_timed(monkeypatch):
    clock, order = itertools.count(), []
    monkeypatch.setattr(bench_step.time, "perf_counter", lambda: float(next(clock)))
    seconds = interleaved(
        {name: lambda name=name: order.append(name) for name in "ab"}, rounds=2, repeats=2
    )
    assert order == ["a", "b", *"aabb", *"bbaa"]
    assert seconds == {"a": [0.5, 0.5], "b": [0.5, 0.5]}  # the clock ticks once a reading
