"""Run folders: what is read, and what is refused with one line."""

import json

import numpy as np
import pytest

from active_learning.config import to_json
from active_learning.core import policies
from active_learning.evaluators.retrieval import retrieval_metrics
from active_learning.report.__main__ import main, write
from active_learning.report.files import RunError
from active_learning.report.runs import find_folders, load_runs, read_run
from active_learning.report.snapshots import snapshots_in_window
from active_learning.settings import Select

FLOPS = {
    "learner_train": 1.0,
    "online_score": 2.0,
    "online_train": 3.0,
    "reference_score": 4.0,
    "reference_train": 5.0,
}


@pytest.fixture
def make(tmp_path):
    """Writes a small run folder; keyword arguments change its config or its summary."""

    def write(folder="run", config=None, **summary):
        path = tmp_path / folder
        path.mkdir(parents=True)
        settings = {"name": "uniform", "seed": 0, "total_steps": 20, "baseline": True} | (
            config or {}
        )
        clocks = {"flops": FLOPS, "train_seconds": 1.5}
        lines = [
            {"step": s, "examples": 4 * s, "candidates": 8 * s, "test/accuracy": s / 100} | clocks
            for s in (10, 20)
        ]
        end = {
            "complete": True,
            "step": 20,
            "examples": 80,
            "candidates": 160,
            "final": {"test_full/accuracy": 0.3},
        }
        (path / "config.json").write_text(
            json.dumps({"config": {}, "hash": "h", "class_names": ["a", "b"]} | settings)
        )
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (path / "summary.json").write_text(json.dumps(end | clocks | summary))
        return path

    return write


def test_reads_a_run(make):
    reference = {"accuracy": 0.25, "flops": 7.0, "seconds": 2.0, "charged": True}
    run = read_run(make(reference=reference, window_steps=15, device="cpu"))
    assert (run.name, run.seed, run.total_steps, run.baseline, run.window_steps) == (
        "uniform",
        0,
        20,
        True,
        15,
    )
    assert run.total_flops == 15.0
    assert run.flops["recompute"] == 0.0
    assert run.final_value("test_full/accuracy") == 0.3
    assert run.final_value("test/accuracy") == 0.2
    assert run.final_value("gate/accuracy") is None
    assert run.reference.accuracy == 0.25 and run.reference.charged
    assert run.class_names == ("a", "b")


def test_a_clock_made_of_step_times(make, tmp_path):
    reference = {"accuracy": 0.25, "flops": 7.0, "seconds": 99.0, "steps": 30, "charged": True}
    make("a", settings(), reference=reference, window_steps=15)
    make("b", {"seed": 1}, reference=reference | {"charged": False})
    seconds = {"uniform": 2.0, "active": 3.0, "reference": 0.5}
    one, other = load_runs([tmp_path], seconds)
    assert one.train_seconds == 30 * 0.5 + 15 * 3.0 + 5 * 2.0
    assert [line["train_seconds"] for line in one.lines] == [15.0 + 10 * 3.0, one.train_seconds]
    assert other.train_seconds == 20 * 2.0  # no window, a reference that is not charged
    assert load_runs([tmp_path])[0].train_seconds == 1.5


def settings(kind="trained", policy=policies.learnability, **select):
    chosen = {
        "select": to_json(Select(policy=policy, **select)),
        "reference": {"kind": kind},
    }
    return {"config": chosen}


def test_updates_chosen_ahead_have_their_own_seconds(make, tmp_path):
    make("a", settings(schedule="ahead"), window_steps=15)
    make("b", settings() | {"seed": 1}, window_steps=15)
    seconds = {"uniform": 2.0, "active": 3.0, "ahead": 2.5, "reference": 0.5}
    ahead, exact = load_runs([tmp_path], seconds)
    assert (ahead.train_seconds, exact.train_seconds) == (15 * 2.5 + 5 * 2.0, 15 * 3.0 + 5 * 2.0)


def test_a_kernel_reference_has_seconds_of_its_own(make, tmp_path):
    """Measured once as a whole; its updates read losses. Free where it is not charged."""
    reference = {"accuracy": 0.25, "flops": 0.0, "seconds": 99.0, "steps": 0, "charged": True}
    make("a", settings(kind="kernel"), reference=reference, window_steps=15)
    free = settings(kind="kernel") | {"seed": 1}
    make("b", free, reference=reference | {"charged": False}, window_steps=15)
    seconds = {"uniform": 2.0, "active": 3.0, "reference": 0.5, "stored": 2.5, "kernel": 7.0}
    one, other = load_runs([tmp_path], seconds)
    assert one.train_seconds == 7.0 + 15 * 2.5 + 5 * 2.0
    assert other.train_seconds == 15 * 2.5 + 5 * 2.0


@pytest.mark.parametrize(
    "config",
    [
        settings(schedule="ahead"),
        settings(kind="kernel"),
        settings(kind="kernel", schedule="ahead"),
        settings(policy=policies.rho),
        settings(policy=policies.easy_reference),
        settings(kind="stored"),
        settings(kind="crossfitted"),
    ],
)
def test_updates_that_were_not_measured_make_the_clock_unknown(make, tmp_path, config):
    make("u", {"seed": 1} | settings(policy=policies.uniform))
    make("a", {"name": "a", "baseline": False, "seed": 1} | config, window_steps=15)
    seconds = {"uniform": 2.0, "active": 3.0, "reference": 0.5}
    write([tmp_path], tmp_path / "out", "test/accuracy", "Title", seconds)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    uniform, chosen = report["arms"]
    assert (uniform["budgets"][0]["train_seconds"], chosen["budgets"][0]["train_seconds"]) == (
        20 * 2.0,
        None,
    )
    assert chosen["budgets"][0]["curve"]["train_seconds"] == [None, None]
    assert (
        chosen["updates_saved"],
        chosen["wall_clock_saved"],
        chosen["wall_clock_saved_curve"],
    ) == (0.0, None, None)
    assert (
        "a: the time of its updates was not measured, so its wall-clock is unknown."
        in report["notes"]
    )
    row = next(
        line
        for line in (tmp_path / "out" / "table.md").read_text().splitlines()
        if line.startswith("| a |")
    )
    assert row.split(" | ")[14] == "–"


def test_recompute_is_in_no_total(make):
    assert read_run(make(flops=FLOPS | {"recompute": 100.0})).total_flops == 15.0


def test_finds_runs_at_any_depth_and_each_once(make, tmp_path):
    one = make("sweep/a/b", {"seed": 1})
    make("sweep/c", {"seed": 2})
    (one / "checkpoints" / "20").mkdir(parents=True)
    assert len(find_folders([tmp_path, one, tmp_path / "sweep"])) == 2
    assert [run.seed for run in load_runs([tmp_path])] == [1, 2]


def test_refuses_the_same_run_twice_under_two_paths(make, tmp_path):
    make("a")
    make("b")
    with pytest.raises(RunError, match="same arm, budget and seed"):
        load_runs([tmp_path])


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "summary.json"])
def test_refuses_a_missing_file(make, name):
    path = make()
    (path / name).unlink()
    with pytest.raises(RunError, match=f"{name} is missing"):
        load_runs([path])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "{", "damaged"),
        ("config.json", "[]", "not a JSON object"),
        ("config.json", '{"hash": "h"}', "'config' is missing or not an object"),
        ("config.json", '{"config": {}, "seed": 1, "total_steps": 20}', "'name' is missing"),
        ("summary.json", '{"complete": true, "step": 20}', "'flops' is missing or not an object"),
        ("summary.json", '{"complete": false, "step": 12}', "not finished .12 of 20 updates"),
        ("summary.json", '{"complete": true, "step": 12}', "not finished"),
        ("metrics.jsonl", "", "empty"),
        ("metrics.jsonl", '{"step": 1, "examp', "line 1 is damaged"),
        ("metrics.jsonl", '{"step": 1}', "line 1 has no 'examples'"),
    ],
)
def test_refuses_a_damaged_or_unfinished_run(make, name, text, message):
    path = make()
    (path / name).write_text(text)
    with pytest.raises(RunError, match=message) as caught:
        read_run(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_refuses_a_metrics_file_that_goes_back(make):
    path = make()
    lines = (path / "metrics.jsonl").read_text().splitlines()
    (path / "metrics.jsonl").write_text("\n".join(reversed(lines)))
    with pytest.raises(RunError, match="line 2 goes back to update 10"):
        read_run(path)


def test_command_exits_2_with_one_line(make, tmp_path, capsys):
    path = make(complete=False)
    assert main([str(path), "--out", str(tmp_path / "out")]) == 2
    assert main([str(tmp_path / "nowhere")]) == 2
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error"] * 3
    assert not (tmp_path / "out").exists()


def test_a_metric_that_was_never_measured_is_refused(make, capsys):
    assert main([str(make()), "--metric", "tune/accuracy"]) == 2
    assert "never measured" in capsys.readouterr().err


def test_a_metric_of_which_less_is_better_is_refused(make, capsys):
    embedded = np.eye(3)
    ranks = [name for name in retrieval_metrics(embedded, embedded, np.arange(3)) if "rank" in name]
    assert len(ranks) == 5
    path = make()
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    values = {f"test/{name}": 1.0 for name in ("loss", *ranks)}
    (path / "metrics.jsonl").write_text("".join(json.dumps(line | values) + "\n" for line in lines))
    for metric in values:
        assert main([str(path), "--metric", metric]) == 2
        assert (
            f"--metric {metric}: a metric where higher is better is needed"
            in capsys.readouterr().err
        )


def snapshot_arrays():
    sides = {
        f"{part}_{side}": np.zeros(3, np.float32 if part == "score" else np.int32)
        for part in ("label", "clean_label", "score")
        for side in ("top", "bottom")
    }
    images = {f"image_{side}": np.zeros((3, 4, 4, 3), np.uint8) for side in ("top", "bottom")}
    return {"scores": np.zeros(8, np.float32)} | sides | images


def test_snapshots_are_the_first_and_last_inside_the_window(make):
    path = make(window_steps=10)
    (path / "snapshots").mkdir()
    for step in (2, 5, 9, 20):
        np.savez(path / "snapshots" / f"{step:06d}.npz", **snapshot_arrays())
    assert [snapshot.step for snapshot in snapshots_in_window(read_run(path))] == [2, 9]
    for step in (5, 9):
        (path / "snapshots" / f"{step:06d}.npz").unlink()
    assert [snapshot.step for snapshot in snapshots_in_window(read_run(path))] == [2]
    (path / "snapshots" / "000002.npz").unlink()
    assert snapshots_in_window(read_run(path)) == []


def test_a_damaged_snapshot_is_refused(make):
    path = make()
    (path / "snapshots").mkdir()
    (path / "snapshots" / "5.npz").write_bytes(b"no archive")
    with pytest.raises(RunError, match="damaged snapshot"):
        snapshots_in_window(read_run(path))
    np.savez(path / "snapshots" / "5.npz", scores=np.zeros(3))
    with pytest.raises(RunError, match="damaged snapshot"):
        snapshots_in_window(read_run(path))
