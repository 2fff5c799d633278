"""`until='auto'`: what is spent before there is a reason, what is decided, and exact resume."""

import dataclasses
import json

import numpy as np
import pytest

from active_learning.core import policies
from active_learning.cost.ledger import total
from active_learning.curation.records import Estimate
from active_learning.references import Loaded, Trained
from active_learning.settings import Evaluate, Optim, Select
from active_learning.tasks import Labels
from active_learning.train import economics, loop
from active_learning.train.build import build
from active_learning.train.evaluation import Evaluation
from active_learning.train.gate import Gate
from tests import world

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return world.write_arrays(tmp_path_factory.mktemp("arrays"))


@pytest.fixture(scope="module")
def config(data, tmp_path_factory):
    """The learner costs 16 times what a scorer does, so that the trial is more than an update."""
    reference = tmp_path_factory.mktemp("reference") / "run"
    base = world.config(
        data,
        learner=dataclasses.replace(world.config(data).learner, width=128, depth=1),
        select=Select(policy=policies.learnability, ratio=4, temperature=0.5, until="auto"),
        scorer_optim=Optim(learning_rate=1e-6),
        evaluate=Evaluate(every="10 steps", subset=60, batch_size=64, gate="gate"),
        total="40 steps",
    )
    loop.run(world.own_run(base), reference)
    return dataclasses.replace(base, reference=Loaded(path=str(reference), charge=False))


def said(monkeypatch, estimate):
    monkeypatch.setattr(Labels, "corrupted_fraction", lambda *_: estimate)


def decisions(summary):
    return [(one["step"], one["decision"]) for one in summary["selection"]]


def test_without_a_reason_no_more_than_the_unproven_fraction_is_spent(
    config, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        economics.Comparisons, "add", lambda *_: economics.Verdict(0.0, 1.0, 0.0, 1.0, 0.0)
    )
    monkeypatch.setattr(Evaluation, "reference_on_gate", lambda *_: (1.0, {}))
    it = build(config)
    uniform, active = total(dict(it.uniform_costs)), total(dict(it.costs))
    trial = int(0.05 * 40 * uniform / (active - uniform))
    assert 2 <= trial < 24
    summary = loop.run(config, tmp_path / "run")
    assert summary["window_steps"] == trial
    assert decisions(summary) == [(0, "trial"), (trial, "end")]
    assert "no evidence of a gain within 5%" in summary["selection"][-1]["reason"]
    looks = (
        min(trial, economics.LOOKS)
        if trial < economics.LOOKS
        else len(
            {s for s in range(1, trial + 1) if s % (trial // 5) == 0 or s % 10 == 0 or s == trial}
        )
    )
    b, scorer = 16, it.scorer.cost((8, 8, 3))
    assert summary["flops"]["online_train"] == trial * 2 * b * scorer.train
    assert summary["flops"]["online_score"] == (trial * 4 * b + looks * 2 * 40) * scorer.forward


def test_many_corrupted_labels_are_a_reason_and_few_one_against(config, tmp_path, monkeypatch):
    held_out = dataclasses.replace(config, reference=Trained(total="0 steps", batch_size=16))
    said(monkeypatch, Estimate(0.3, 0.2, 0.4))
    summary = loop.run(held_out, tmp_path / "noisy")
    assert decisions(summary)[0] == (0, "select")
    assert summary["selection"][0] | {"low": 0.2, "high": 0.4} == summary["selection"][0]
    said(monkeypatch, Estimate(0.01, 0.0, 0.04))
    summary = loop.run(held_out, tmp_path / "clean")
    assert decisions(summary) == [(0, "no selection")]
    assert summary["window_steps"] == 0
    forward = build(held_out).scorer.cost((8, 8, 3)).forward
    # The estimate from the pool, the reference on the gate, and nothing else.
    assert summary["flops"]["reference_score"] == (400 + 40) * forward
    assert summary["flops"]["online_train"] == 0


def test_evidence_opens_the_whole_window_and_harm_ends_it(config, tmp_path, monkeypatch):
    gains = iter([5.0, 5.0, 5.0, -9.0, -9.0, -9.0])
    monkeypatch.setattr(
        economics.Comparisons,
        "add",
        lambda *_: economics.Verdict(g := next(gains), 1.0, g, 1.0, 0.0),
    )
    summary = loop.run(config, tmp_path / "run")
    assert [what for _, what in decisions(summary)] == ["trial", "select", "end"]
    opened, ended = (step for step, _ in decisions(summary)[1:])
    assert opened < ended == summary["window_steps"]


def test_a_stopped_and_continued_run_decides_the_same(config, tmp_path):
    straight = loop.run(config, tmp_path / "straight")
    assert not loop.run(config, tmp_path / "run", world.StopAfter(2))["complete"]
    resumed = loop.run(config, tmp_path / "run")
    assert resumed["selection"] == straight["selection"]
    assert resumed["flops"] == straight["flops"]
    read = lambda name: [
        line | {"train_seconds": 0}
        for line in map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        if "gate/gain" in line
    ]
    strip = lambda rows: [
        {k: v for k, v in row.items() if k.startswith("gate") or k == "step"} for row in rows
    ]
    assert strip(read("run")) == strip(read("straight"))


def test_the_trial_by_hand():
    # 5 % of 1,000 updates of 100 FLOPs are 5,000; 2,000 are spent; 30 more an update: 100 updates.
    assert economics.trial_steps(1000, 100.0, 130.0, 2000.0) == 100
    assert economics.trial_steps(1000, 100.0, 130.0, 9000.0) == 10  # 1 % whatever it has cost


def test_gain_error_and_price_by_hand():
    comparisons = economics.Comparisons(overhead=np.e - 1.0)
    shadow = np.array([1.0, 0.0, 0.0, 1.0])
    first = comparisons.add(1, np.array([1.0, 1.0, 1.0, 1.0]), shadow)
    assert (first.gain, first.price) == (0.5, 0.0)  # one point gives no slope
    # Differences 0, 1, 1, 0: standard deviation sqrt(1/3), over sqrt(4).
    assert first.error == pytest.approx(np.sqrt(1 / 3) / 2)
    second = comparisons.add(3, np.ones(4), np.array([1.0, 1.0, 1.0, 1.0]))
    # The shadow rises from 0.5 to 1 in log 3 units of log updates, and log(1 + overhead) = 1.
    assert second.price == pytest.approx(0.5 / np.log(3))
    assert second.gain == 0.25  # the mean difference of each example over both: 0, .5, .5, 0
    assert not second.pays and not second.no_longer_pays
    assert second.recent is None  # fewer than three
    again = economics.Comparisons(np.e - 1.0)
    again.restore(json.loads(json.dumps(comparisons.as_dict())))
    more = np.ones(4), np.zeros(4)
    assert again.add(9, *more) == comparisons.add(9, *more)


def test_what_ends_selection_is_recent():
    comparisons = economics.Comparisons(0.2)
    good, bad = np.ones(100), np.zeros(100)
    for step in range(1, 8):
        assert not comparisons.add(step, good, bad).no_longer_pays
    gains = [comparisons.add(step, bad, good) for step in range(8, 11)]
    assert [v.no_longer_pays for v in gains] == [False, True, True]  # +1, -1, -1; their mean
    assert gains[-1].recent == -1.0
    assert gains[-1].gain == pytest.approx(0.4)  # of all ten


def test_selection_ends_when_the_learner_is_as_good_as_the_reference(config, tmp_path, monkeypatch):
    said(monkeypatch, Estimate(0.3, 0.2, 0.4))
    level = iter([0.1, 0.9])
    monkeypatch.setattr(
        Evaluation, "learner_on_gate", lambda *_: (next(level), {"learner_train": 1.0})
    )
    monkeypatch.setattr(Evaluation, "reference_on_gate", lambda *_: (0.5, {}))
    monkeypatch.setattr(
        economics.Comparisons, "add", lambda *_: economics.Verdict(1.0, 1.0, 1.0, 1.0, 0.0)
    )
    monkeypatch.setattr(Gate, "warm_up", lambda *_: None)
    held_out = dataclasses.replace(config, reference=Trained(total="0 steps", batch_size=16))
    summary = loop.run(held_out, tmp_path / "run")
    assert decisions(summary) == [(0, "select"), (20, "end")]
    assert "the learner (0.900) has caught up" in summary["selection"][-1]["reason"]
    uniform = 40 * 16 * build(config).learner.cost((8, 8, 3)).train
    assert summary["flops"]["learner_train"] == uniform + 2


def test_a_falling_learning_curve_costs_nothing():
    assert economics.learning_rate_of([10, 20], [0.5, 0.4]) == 0.0


def test_chance_seldom_looks_like_a_gain():
    """Two models of equal accuracy, 5 looks at 300 examples: 5 % of trials at most, give or take."""
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(400):
        comparisons = economics.Comparisons(0.2)
        wrong += any(
            comparisons.add(n, *(rng.random((2, 300)) < 0.5).astype(float)).pays
            for n in range(1, 6)
        )
    assert wrong / 400 < 0.07
