"""Ways to run the step that must say the same: remat, scan and bf16 against the plain float32 step;
and nothing waits on the host.
"""

from functools import partial

import jax
import numpy as np
import pytest

import active_learning as al
from active_learning.references import Trained
from active_learning.settings import Checkpoint, Evaluate, Log
from active_learning.train import loop
from experiments.gpu_parts import correctness
from tests import toy, world


@pytest.fixture(scope="module")
def rows():
    return {row["option"]: row for row in correctness.check()}


@pytest.mark.parametrize(
    "option", [option.name for option in correctness.OPTIONS if "fused" not in option.name]
)
def test_an_option_trains_what_the_plain_step_trains(rows, option):
    assert rows[option]["ok"], rows[option]


def test_what_a_device_does_not_have_is_said(rows):
    row = rows["bf16, fused attention"]
    assert row["ok"] is None and "cuDNN" in row["why"]
    assert correctness.line(row).startswith("bf16, fused attention    not here: ")


def test_a_wrong_option_is_found():
    (row,) = correctness.check([correctness.Option("another model", {"heads": 4})])
    assert row["ok"] is False and "WRONG" in correctness.line(row)


def test_nothing_in_the_step_calls_the_host():
    recipe = toy.recipe(score_chunk=4)
    program = str(jax.make_jaxpr(partial(al.train_step, recipe))(toy.state(recipe), toy.batch(32)))
    assert "callback" not in program and "device_put" not in program.replace("device_put[", "")


class Late:
    """A figure that must not be read before the next update is dispatched."""

    def __init__(self, value, update, dispatched):
        self.value, self.update, self.dispatched = value, update, dispatched

    def __array__(self, dtype=None, copy=None):
        assert self.dispatched[-1] > self.update or self.dispatched[-1] == 8, (
            "the loop waited for the step it had just dispatched"
        )
        return np.asarray(self.value, dtype)


def test_the_loop_reads_figures_one_update_late(tmp_path, monkeypatch):
    from active_learning.train.updates import UpdateRunner

    dispatched, original = [], UpdateRunner.__call__

    def watched(self, state, active, more):
        state, metrics = original(self, state, active, more)
        dispatched.append(len(dispatched) + 1)
        previous = {
            name: Late(value, dispatched[-1], dispatched) for name, value in metrics.metrics.items()
        }
        return state, metrics._replace(metrics=previous)

    monkeypatch.setattr(UpdateRunner, "__call__", watched)
    never = {"every": "100 %"}
    config = world.config(
        world.write_arrays(tmp_path), select=world.Select(), reference=Trained(), total="8 steps",
        evaluate=Evaluate(subset=60, **never), log=Log(**never), checkpoint=Checkpoint(**never),
    )  # fmt: skip
    assert loop.run(config, tmp_path / "run")["complete"]
    assert dispatched == list(range(1, 9))
