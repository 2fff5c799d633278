"""The safety suite's data sets and its comparison at equal FLOPs, by hand."""

import json

import numpy as np
import pytest

from active_learning.cost.accounts import ACCOUNTS
from experiments import safety


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
    rows = {row["arm"]: row for row in safety.compared(folders)}
    assert set(rows) == {"uniform", "uniform + EMA", "safe default"}
    # Twice the FLOPs are half of the way in their logarithm: uniform has 0.6.
    assert rows["safe default"]["accuracy_gap"] == pytest.approx(0.05)
    assert rows["safe default"]["worst_class_gap"] == pytest.approx(0.025)
    assert rows["safe default"]["flops"] == pytest.approx(2.0)
    assert rows["safe default"]["decisions"] == ["end at 3"]
    assert rows["uniform + EMA"]["accuracy_gap"] == pytest.approx(0.02)
    assert "| +5.0 |" in safety.table({"cell": list(rows.values())})
