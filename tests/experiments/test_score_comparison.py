"""Differences are paired by seed, at equal updates and at equal total FLOPs."""

import json

import pytest

from active_learning.cost.accounts import ACCOUNTS
from experiments import score_comparison


def write(folder, name, seed, updates, flops, accuracy):
    folder = folder / f"{name}-{updates}-{seed}"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"name": name, "seed": seed, "total_steps": updates})
    )
    bill = dict.fromkeys(ACCOUNTS, flops / len(ACCOUNTS)) | {"recompute": 99.0}
    (folder / "summary.json").write_text(
        json.dumps({"flops": bill, "final": {"test_full/accuracy": accuracy}})
    )
    return folder


def test_uniform_at_the_same_flops_lies_between_its_own_budgets():
    budgets = [(100.0, 0.5), (200.0, 0.7), (150.0, 0.64)]
    assert score_comparison.equal_flops(budgets, 125.0) == pytest.approx(0.57)
    assert score_comparison.equal_flops(budgets, 200.0) == pytest.approx(0.7)
    assert score_comparison.equal_flops(budgets, 201.0) is None
    assert score_comparison.equal_flops(budgets, 99.0) is None


def test_the_interval_is_students():
    result = score_comparison.interval(
        [1.0, 2.0, 3.0]
    )  # t = 4.3027 with 2 degrees of freedom, standard error 0.57735
    assert (result["mean"], result["low"], result["high"]) == pytest.approx(
        (2.0, -0.4841, 4.4841), abs=1e-4
    )
    assert score_comparison.interval([1.0]) is None


def test_an_arm_is_compared_with_uniform_of_its_own_seed(tmp_path):
    folders = []
    for seed, level in ((0, 0.5), (1, 0.6)):
        folders += [write(tmp_path, "uniform", seed, 10, 100.0, level)]
        folders += [write(tmp_path, "uniform", seed, 20, 200.0, level + 0.1)]
        folders += [write(tmp_path, "hard", seed, 10, 150.0, level + 0.02 + 0.04 * seed)]
    folders += [write(tmp_path, "hard", 2, 10, 150.0, 0.0)]  # uniform has not finished this seed
    uniform, hard = score_comparison.compared(folders, "test_full/accuracy", 10)
    assert (uniform["arm"], uniform["seeds"], uniform["flops"]) == ("uniform", [0, 1], 1.0)
    assert uniform["equal_updates"]["mean"] == uniform["equal_flops"]["mean"] == 0.0
    assert (hard["seeds"], hard["flops"]) == ([0, 1], pytest.approx(1.5))
    assert hard["equal_updates"]["mean"] == pytest.approx(0.04)
    assert hard["equal_flops"]["mean"] == pytest.approx(-0.01)
    rows = score_comparison.compared(
        folders, "test_full/accuracy", 10, ("hard", "not run", "uniform")
    )
    assert [row["arm"] for row in rows] == ["hard", "uniform"]
