"""The table of the long horizon, from a hand-made report and packs."""

import json

from experiments import arms, noise_table


def budget(updates, finals, flops, seconds):
    return {
        "updates": updates,
        "seeds": list(range(1, 1 + len(finals))),
        "finals": list(finals),
        "final_mean": sum(finals) / len(finals),
        "total_flops": flops,
        "train_seconds": seconds,
    }


def test_a_row_stands_beside_the_full_budget_and_its_averaged_weights():
    plain = {"name": "uniform", "baseline": True, "valid": True, "reference_accuracy": None}
    other = {"name": "chosen", "baseline": False, "valid": True, "reference_accuracy": 0.5}
    plain["budgets"] = [budget(50, [0.4], 5.0, 5.0), budget(100, [0.5, 0.6], 10.0, 10.0)]
    other["budgets"] = [budget(50, [0.51], 7.0, 8.0)]
    result = {"arms": [plain, other], "baseline_updates": 100}
    averages = {("uniform", 50): 0.42, ("uniform", 100): 0.505, ("chosen", 50): 0.49}
    rows = [
        line.strip("| ").split(" | ") for line in noise_table.long(result, averages).splitlines()
    ]
    assert rows[2:] == [
        ["uniform", "50", "1", "40.0", "42.0", "-10.0", "-", "0.50", "0.50"],
        ["uniform", "100", "2", "55.0", "50.5", "-", "-", "1.00", "1.00"],
        ["chosen", "50", "1", "51.0", "49.0", "+1.0", "50.0", "0.70", "0.80"],
    ]


def test_averaged_weights_are_the_mean_of_the_packed_runs(tmp_path):
    for seed, accuracy in ((0, 0.4), (1, 0.5)):
        folder = tmp_path / f"run{seed}"
        folder.mkdir()
        about, final = {"name": "arm", "total_steps": 7}, {"test_full/ema_accuracy": accuracy}
        (folder / "config.json").write_text(json.dumps(about))
        (folder / "summary.json").write_text(json.dumps({"final": final}))
        (folder / "metrics.jsonl").write_text("")
        arms.pack(folder, tmp_path / "packs" / f"{seed}.json.gz")
    assert noise_table.averaged(tmp_path / "packs") == {("arm", 7): 0.45}


def test_the_summary_is_of_half_of_the_updates_over_common_seeds():
    names = ("learnability", "learnability, kernel reference", "default for own data")
    arms = [
        {"name": name, "baseline": False, "budgets": [budget(50, [0.5 + n / 100], 6.0, 5.5)]}
        for n, name in enumerate(names)
    ]
    plain = {"name": "uniform", "baseline": True}
    plain["budgets"] = [budget(50, [0.4], 5.0, 5.0), budget(100, [0.5, 0.6], 10.0, 10.0)]
    result = {"arms": [plain, *arms], "baseline_updates": 100}
    rows = [line.strip("| ").split(" | ") for line in noise_table.summary(result).splitlines()]
    assert rows[2] == ["uniform", "100", "1", "1", "55.0 %", "-", "2"]
    assert rows[4][1:] == ["50", "0.60", "0.55", "51.0 %", "+1.0", "1"]
