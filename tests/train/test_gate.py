"""`until='auto'`: what may be spent with and without a reason, what is decided, exact resume."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from active_learning import checkpoint
from active_learning.core import policies
from active_learning.cost.ledger import total
from active_learning.curation.estimate import wilson
from active_learning.curation.records import Estimate
from active_learning.references import Loaded, Trained
from active_learning.settings import Evaluate, Select
from active_learning.tasks import Labels
from active_learning.tasks.base import LabelCheck
from active_learning.train import economics, loop
from active_learning.train.build import build
from active_learning.train.evaluation import Evaluation
from tests import world

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax")


def check(low, high, agreement=0.6, chance=0.25):
    middle = (low + high) / 2
    wide = Estimate(agreement, agreement - 0.05, agreement + 0.05)
    return LabelCheck(Estimate(middle, low, high), wide, chance, 1.0, 400)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return world.write_arrays(tmp_path_factory.mktemp("arrays"))


@pytest.fixture(scope="module")
def config(data, tmp_path_factory):
    """The learner costs 16 times what a scorer does, so that 5 % are more than an update."""
    reference = tmp_path_factory.mktemp("reference") / "run"
    base = world.config(data)
    base = world.config(
        data,
        learner=dataclasses.replace(base.learner, width=128, depth=1),
        select=Select(policy=policies.learnability, ratio=4, temperature=0.5, until="auto"),
        evaluate=Evaluate(every="10 steps", subset=60, batch_size=64, gate="gate"),
        total="40 steps",
    )
    loop.run(world.own_run(base), reference)
    return dataclasses.replace(base, reference=Loaded(path=str(reference), charge=False))


@pytest.fixture
def held_out(config):
    return dataclasses.replace(config, reference=Trained(total="0 steps", batch_size=16))


def decisions(summary):
    return [(one["step"], one["decision"]) for one in summary["selection"]]


@pytest.mark.parametrize(
    ("labels", "decision", "reason"),
    [
        (None, "little", "nothing is known"),
        (check(0.2, 0.4), "select", "20% to 40% of the labels are corrupted"),
        (check(0.0, 0.04), "none", "0% to 4% of the labels"),
        (check(0.0, 0.4), "little", "0% to 40% of the labels"),
        (check(0.2, 0.4, agreement=0.29), "none", "no better than chance"),
    ],
)
def test_what_the_labels_are_a_reason_for(labels, decision, reason):
    opening = economics.opening(labels)
    assert opening.decision == decision and reason in opening.reason


@pytest.mark.parametrize(
    ("value", "count", "agreement", "decision"),
    [
        (0.15, 2000, 0.45, "select"),  # 21 % above chance: (.45 - .3) / .7
        (0.09, 2000, 0.45, "little"),
        (0.15, 1999, 0.45, "little"),
        (0.15, 2000, 0.40, "little"),  # 14 %
    ],
)
def test_a_probable_fraction_is_a_reason_where_the_model_knows_enough(
    value, count, agreement, decision
):
    about = check(0.0, 0.5)
    about = dataclasses.replace(
        about,
        corrupted=dataclasses.replace(about.corrupted, value=value),
        agreement=dataclasses.replace(about.agreement, value=agreement),
        count=count,
        chance=0.3,
    )
    opening = economics.opening(about)
    assert opening.decision == decision
    assert ("probably 15%" in opening.reason) == (decision == "select")


def test_the_looks_are_early_and_double():
    assert economics.look_steps(1000) == (10, 20, 40, 80, 160, 320)
    assert economics.look_steps(20) == (1, 2, 3, 6)


def test_what_a_budget_pays_for_by_hand():
    # 10 updates of 3 FLOPs and the look after update 4, at 7: 37 FLOPs. 36 pay for 9.
    assert economics.affordable(37.0, 3.0, (4, 20), 7.0) == 10
    assert economics.affordable(36.0, 3.0, (4, 20), 7.0) == 9
    # The look itself is too dear: the window ends where it would be.
    assert economics.affordable(13.0, 3.0, (4, 20), 7.0) == 4
    assert economics.affordable(-5.0, 3.0, (4,), 7.0) == 0


def test_without_a_reason_the_whole_bill_stays_below_five_percent(config, tmp_path, monkeypatch):
    monkeypatch.setattr(Evaluation, "reference_on_gate", lambda *_: (2.0, {}))
    experiment = build(config)
    uniform, active = total(dict(experiment.uniform_costs)), total(dict(experiment.costs))
    look = 40 * experiment.learner.cost((8, 8, 3)).forward
    summary = loop.run(config, tmp_path / "run")
    window = summary["window_steps"]
    looks = sum(step < window for step in economics.look_steps(40))
    overhead = total(summary["flops"]) - 40 * uniform
    assert overhead == pytest.approx(window * (active - uniform) + looks * look)
    assert 2 <= window < 24
    assert overhead <= 0.05 * 40 * uniform < overhead + active - uniform + look
    assert decisions(summary) == [(0, "little"), (window, "end")]


def test_many_corrupted_labels_are_a_reason_and_few_one_against(held_out, tmp_path, monkeypatch):
    known = check(0.2, 0.4)
    monkeypatch.setattr(Labels, "check_labels", lambda *_: known)
    monkeypatch.setattr(Evaluation, "reference_on_gate", lambda *_: (2.0, {}))
    summary = loop.run(held_out, tmp_path / "noisy")
    assert decisions(summary)[0] == (0, "select")
    assert summary["labels"] == known.as_dict()
    monkeypatch.undo()
    monkeypatch.setattr(Labels, "check_labels", lambda *_: check(0.0, 0.04))
    summary = loop.run(held_out, tmp_path / "clean")
    assert decisions(summary) == [(0, "none")]
    assert summary["window_steps"] == 0
    forward = build(held_out).scorer.cost((8, 8, 3)).forward
    # The look at the pool, the reference on the gate, and nothing else.
    assert summary["flops"]["reference_score"] == (400 + 40) * forward
    assert summary["flops"]["online_train"] == 0


def test_selection_ends_when_the_learner_is_as_good_as_the_reference(
    config, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(economics, "UNPROVEN", 0.3)
    level = iter([0.0, 0.1, 0.9])  # the first to compile
    monkeypatch.setattr(
        Evaluation, "learner_on_gate", lambda *_: (next(level), {"learner_train": 1.0})
    )
    monkeypatch.setattr(Evaluation, "reference_on_gate", lambda *_: (0.9, {}))
    with caplog.at_level("INFO"):
        summary = loop.run(config, tmp_path / "run")
    assert decisions(summary) == [(0, "little"), (2, "end")]
    assert "update 1: goes on: the learner (0.100) is behind the reference (0.900)" in caplog.text
    assert "the learner (0.900) is as good as the reference" in summary["selection"][-1]["reason"]
    uniform = 40 * 16 * build(config).learner.cost((8, 8, 3)).train
    assert summary["flops"]["learner_train"] == uniform + 2


def test_an_untrained_reference_is_recognized(held_out, tmp_path):
    """Not patched: labels from 4 classes, and a model that has seen nothing."""
    summary = loop.run(held_out, tmp_path / "run")
    ended = decisions(summary)[-1]
    assert ended[1] in ("none", "end") and ended[0] <= 2
    labels = summary["labels"]
    assert labels["count"] == 400
    assert labels["agreement"]["low"] <= labels["agreement"]["value"] <= labels["agreement"]["high"]


@pytest.fixture
def generous(monkeypatch):
    """A window of several updates, which no look ends."""
    monkeypatch.setattr(economics, "UNPROVEN", 0.2)
    monkeypatch.setattr(Evaluation, "reference_on_gate", lambda *_: (2.0, {}))


def test_a_stopped_run_decides_and_ends_the_same_and_so_does_one_device(
    config, tmp_path, monkeypatch, caplog, generous
):
    straight = loop.run(config, tmp_path / "straight")
    assert straight["window_steps"] > 5
    assert not loop.run(config, tmp_path / "run", world.StopAfter(4))["complete"]
    with caplog.at_level("INFO"):
        resumed = loop.run(config, tmp_path / "run")
    at = next(n for n, line in enumerate(caplog.messages) if "resumes at update 4" in line)
    assert "selection, update 0: little: " in caplog.messages[at + 1]
    for key in ("selection", "flops", "final", "window_steps", "candidates"):
        assert resumed[key] == straight[key], key
    jax.tree.map(
        np.testing.assert_array_equal,
        *(checkpoint.load_params(tmp_path / name) for name in ("run", "straight")),
    )
    monkeypatch.setattr(loop, "build", partial(build, devices=jax.devices()[:1]))
    alone = loop.run(config, tmp_path / "one")
    assert decisions(alone) == decisions(straight)
    assert alone["flops"] == straight["flops"]


def test_wilsons_interval_by_hand():
    # Textbook value: 81 of 263, (0.2553, 0.3662).
    middle, half = wilson(81 / 263, 263)
    assert (middle - half, middle + half) == pytest.approx((0.2553, 0.3662), abs=1e-4)
