"""Seconds of each kind of update, each carried out as the loop does."""

import itertools

from active_learning.references import Kernel
from experiments import step_times
from tests import world


def test_updates_of_every_kind_are_timed_in_turns(tmp_path, monkeypatch):
    done = []

    class Recorded(step_times.UpdateRunner):
        def __call__(self, state, active, more):
            state, metrics = super().__call__(state, active, more)
            done.append(
                (
                    self.experiment.config.name,
                    self.ahead,
                    len(metrics.rows),
                    state.pending is not None,
                )
            )
            return state, metrics

    clock = itertools.count()
    monkeypatch.setattr(step_times, "UpdateRunner", Recorded)
    monkeypatch.setattr(step_times.time, "perf_counter", lambda: float(next(clock)))
    seconds = step_times.step_seconds(
        world.config(world.write_arrays(tmp_path)), rounds=2, updates=1
    )
    assert seconds == dict.fromkeys(("uniform", "active", "ahead", "reference"), 1.0)
    b, ratio = 16, 4
    uniform, active = ("run", False, b, False), ("run", False, ratio * b, False)
    ahead, reference = ("run", True, ratio * b, True), ("reference", False, b, False)
    first = [uniform, uniform, active, active, ahead, ahead, reference, reference]  # not timed
    assert done == [*first, uniform, active, ahead, reference, active, ahead, reference, uniform]


def test_a_kernel_reference_is_timed_as_updates_and_as_a_whole(tmp_path):
    config = world.config(world.write_arrays(tmp_path))
    kernel = Kernel(part="reference", size="tiny")
    seconds = step_times.step_seconds(config, rounds=1, updates=1, kernel=kernel)
    assert set(seconds) == {"uniform", "active", "ahead", "reference", "stored", "kernel"}
    assert min(seconds.values()) > 0
