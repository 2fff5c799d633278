"""The safety suite's data sets and its comparison at equal FLOPs, by hand."""

import json

import numpy as np
import pytest

from active_learning.cost.accounts import ACCOUNTS
from experiments import safety, safety_table


def test_the_tail_falls_geometrically_to_a_fiftieth():
    labels = np.repeat(np.arange(10), 1000)
    rows = safety.tail(labels, 0)
    counts = np.bincount(labels[rows])
    assert (counts[0], counts[-1]) == (1000, 20)
    np.testing.assert_allclose(counts[1:] / counts[:-1], 50 ** (-1 / 9), rtol=0.05)
    assert len(safety.tail(labels, 1400)) == pytest.approx(1400, abs=5)


def test_labels_are_wrong_in_the_stated_fraction_and_always_another_class():
    clean = np.arange(50_000) % 10
    for wrong in (0.0, 0.2, 0.4):
        labels = safety.corrupted(clean, wrong)
        assert (labels != clean).mean() == pytest.approx(wrong, abs=0.01)
        assert labels.min() >= 0 and labels.max() <= 9


def write(folder, name, updates, flops, accuracy, ema):
    folder = folder / f"{name}-{updates}"
    folder.mkdir()
    about = {"name": name, "seed": 0, "total_steps": updates}
    (folder / "config.json").write_text(json.dumps(about))
    final = {
        "test_full/accuracy": accuracy,
        "test_full/ema_accuracy": ema,
        "test_full/worst_class": accuracy / 2,
        "test_full/ema_worst_class": ema / 2,
    }
    bill = dict.fromkeys(ACCOUNTS, flops / len(ACCOUNTS)) | {"recompute": 0.0}
    summary = {"final": final, "flops": bill, "window_steps": 5}
    summary |= {"selection": [{"step": 3, "decision": "end"}]}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_an_arm_is_compared_with_uniform_at_its_flops(tmp_path):
    folders = [
        write(tmp_path, "uniform", 10, 100.0, 0.5, 0.52),
        write(tmp_path, "uniform", 40, 400.0, 0.7, 0.7),
        write(tmp_path, "safe default", 10, 200.0, 0.65, 0.6),
    ]
    rows = {row["arm"]: row for row in safety_table.compared(folders)}
    assert set(rows) == {"uniform", "uniform + EMA", "safe default"}
    # Twice the FLOPs are half of the way in their logarithm: uniform has 0.6.
    assert rows["safe default"]["accuracy_gap"] == pytest.approx(0.05)
    assert rows["safe default"]["worst_class_gap"] == pytest.approx(0.025)
    assert rows["safe default"]["flops"] == pytest.approx(2.0)
    assert rows["safe default"]["decisions"] == ["end at 3"]
    assert rows["uniform + EMA"]["accuracy_gap"] == pytest.approx(0.02)
    assert "| +5.0 |" in safety_table.table({"cell-all": list(rows.values())})


def row(arm, seed, gap, worst=0.0):
    values = {"accuracy": 0.5, "worst_class": 0.1, "flops": 1.0, "window": 0.1, "updates": 9}
    gaps = {"accuracy_gap": gap, "worst_class_gap": worst}
    return values | gaps | {"arm": arm, "seed": seed, "decisions": [], "labels": ""}


def test_harm_and_the_fraction_of_the_gain_by_hand():
    cells = {
        "a-0-balanced-all": [row("safe default", s, g) for s, g in ((0, -0.02), (1, 0.0))],
        "b-40-balanced-all": [row("safe default", s, g) for s, g in ((0, 0.03), (1, 0.05))],
    }
    for rows in cells.values():
        rows += [row("tuned recipe", 1, 0.04)]
    # Squares .0001 four times over two degrees of freedom.
    spread = safety_table.spreads(cells, "accuracy_gap")
    assert set(spread) == {("safe default", "balanced-all")}
    one = spread["safe default", "balanced-all"]
    assert one == safety_table.Spread(pytest.approx(2e-4**0.5), 2)
    half = 4.3027 * 2e-4**0.5 / 2**0.5  # Student's t for two degrees of freedom
    assert one.half_width(2) == pytest.approx(half, rel=1e-4)
    verdict = safety_table.verdict(cells)
    assert verdict["harmed"] == ["a-0-balanced-all"] and verdict["worst_class_harmed"] == []
    expected = [-0.01, -0.01 - half, -0.01 + half]
    assert verdict["interval"]["a-0-balanced-all"] == pytest.approx(expected, rel=1e-3)
    # Of the one seed that both have.
    assert verdict["gain"] == {
        "b-40-balanced-all": {
            "tuned": pytest.approx(0.04),
            "default": pytest.approx(0.05),
            "fraction": pytest.approx(1.25),
        }
    }


def test_one_seed_has_no_interval_and_is_judged_by_its_value():
    cells = {
        f"a-{n}-balanced-all": [row("safe default", 0, gap, -0.5), row("tuned recipe", 0, 0.1)]
        for n, gap in ((0, -0.02), (1, 0.1))
    }
    verdict = safety_table.verdict(cells)
    assert verdict["interval"]["a-0-balanced-all"] == [-0.02, None, None]
    assert verdict["harmed"] == ["a-0-balanced-all"] and not verdict["worst_class_harmed"]
    assert "| +10.0 |" in safety_table.table(cells)


def test_runs_that_never_selected_say_nothing_of_the_deviation_and_averages_do():
    never = [row("safe default", s, -0.001, -0.02) | {"window": 0.0} for s in range(8)]
    some = [row("safe default", s, g) | {"window": g} for s, g in ((0, 0.0), (1, 0.02))]
    average = [row("uniform + EMA", s, g) | {"window": 0.0} for s, g in ((0, 0.01), (1, 0.03))]
    tuned = [row("tuned recipe", 0, -0.1)]
    cells = {"a-0-balanced-5000": never + average + tuned, "b-0-balanced-5000": some + tuned}
    spread = safety_table.spreads(cells, "accuracy_gap")
    # Squares .0001 twice over one degree of freedom, in both.
    assert spread == {
        (arm, "balanced-5000"): safety_table.Spread(pytest.approx(2e-4**0.5), 1)
        for arm in ("safe default", "uniform + EMA")
    }
    verdict = safety_table.verdict(cells)
    assert verdict["interval"]["a-0-balanced-5000"] == [pytest.approx(-0.001), None, None]
    assert verdict["worst_class_harmed"] == []
    points = [line.split("|")[7].strip() for line in safety_table.table(cells).splitlines()[2:]]
    assert points == ["-0.1", "+2.0 ± 1.0", "-10.0", "+1.0 ± 1.0", "-10.0"]


def test_the_default_is_that_of_the_configs_for_own_data(tmp_path):
    cell = safety.BAD[0]
    arms = {a.config.name: a.config for a in safety.arms(cell, safety.SCALES["desk"], tmp_path)}
    default = arms["safe default"]
    shipped = safety.freeze(safety.own_data.get_config())
    assert (default.select, default.reference) == (shipped.select, shipped.reference)
    assert default.total == "20 epochs" and not default.reference.part
    assert arms["default, reference: untrained"].reference.total == "0 steps"
    assert arms["default, reference: 200 examples"].split.parts["reference"] == 200
    shuffled = arms["default, reference: shuffled labels"]
    assert shuffled.split.labels == {"reference": "shuffled"}
    assert shuffled.reference.part == "reference"
    seeds = {
        a.config.name: len(a.seeds) for a in safety.arms(cell, safety.SCALES["desk"], tmp_path)
    }
    assert seeds["uniform"] == seeds["safe default"] == 10
    assert seeds["default, reference: 200 examples"] == 10 and seeds["tuned recipe"] == 3
    others = safety.arms(safety.CELLS[-1], safety.SCALES["desk"], tmp_path)
    assert {len(a.seeds) for a in others} == {3}
    assert [a.config.name for a in others] == ["uniform", "uniform", "tuned recipe", "safe default"]
