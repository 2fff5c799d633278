"""What the table of pairs says is what its runs say."""

import json

import numpy as np

from experiments import flickr


def test_what_is_saved_is_read_off_the_shortest_budget_that_reaches_uniform():
    def row(arm, updates, flops, log_rank):
        return {"arm": arm, "updates": updates, "flops": flops, "log_rank": {"mean": log_rank}}

    rows = [
        row("uniform", 100, 10.0, 5.0),
        row("chosen", 100, 14.0, 4.0),
        row("chosen", 20, 4.0, 5.1),
        row("chosen", 40, 7.0, 4.9),
    ]
    found = flickr.saved([*rows, row("worse", 90, 9.0, 5.1), row("joint, sigmoid", 40, 1.0, 1.0)])
    assert found.splitlines()[2:] == ["| chosen | 40 | 60 % | 30 % |"]


def test_a_claim_is_set_against_the_control_that_costs_as_much():
    (claim, control), *_ = flickr.COMPARED

    def row(arm, updates, flops, by_seed):
        return {"arm": arm, "updates": updates, "flops": flops, "seeds": [0, 1, 2], "log_rank_by_seed": by_seed}

    rows = [
        row(claim, 100, 200.0, [5.0, 5.1, 5.2]),
        row(control, 100, 100.0, [5.0, 5.0, 5.0]),
        row(control, 190, 190.0, [5.1, 5.1, 5.4]),
    ]
    line = flickr.beside(rows).splitlines()[2]
    # differences -0.1, 0, -0.2: standard error 0.057735, t = 4.3027
    assert line == f"| {claim}, 100 | 2.00e+02 | {control}, 190 | 1.90e+02 | -0.100 [-0.348, +0.148] |"


def test_every_claim_has_its_control_and_arms_share_references():
    arms = flickr.final_arms(flickr.SCALES["desk"])
    names = [one.config.name for one in arms]
    assert {n for n in names if "control" in n} >= {
        "(a) control: uniform on the clean third",
        "(a+) control: uniform on pool + clean third",
    }
    assert len({(n, one.budget) for n, one in zip(names, arms, strict=True)}) == len(arms)
    assert all(
        one.config.task.loss == "sigmoid" for one in arms if "joint" in one.config.name or "sigmoid" in one.config.name
    )


def test_a_row_is_the_mean_of_its_runs(tmp_path):
    for seed, value in ((0, 5.0), (1, 6.0)):
        folder = tmp_path / f"seed{seed}"
        folder.mkdir()
        final = {"test_full/log_rank": value, "test_full/recall": 0.01, "test_full/per_image": [value] * 4}
        accounts = dict.fromkeys(
            ("learner_train", "online_score", "online_train", "reference_score", "reference_train"), 2.0
        )
        summary = {
            "final": final,
            "flops": accounts | {"recompute": 9.0},
            "train_seconds": 3.0,
            "reference": {"accuracy": 0.02},
        }
        (folder / "summary.json").write_text(json.dumps(summary))
        (folder / "config.json").write_text(json.dumps({"name": "arm", "seed": seed, "total_steps": 7}))
        line = {"step": 1, "select/wrong_share": 0.2 + 0.2 * seed, "select/open": 1.0, "test/log_rank": value}
        (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    found = flickr.row([tmp_path / "seed0", tmp_path / "seed1"])
    assert found["log_rank"] == {"mean": 5.5, "sd": np.sqrt(0.5)}
    assert found["log_rank_interval"] == [5.5, 5.5]
    assert found["exchanged_chosen"] == [[1, 0.30000000000000004]]
    assert (found["flops"], found["seeds"], found["reference_recall"]) == (10.0, [0, 1], 0.02)
    assert "5.5 ± 0.71 [5.500, 5.500]" in flickr.table([found])
