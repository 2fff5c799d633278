"""What the table of pairs says is what its runs say."""

import json

import numpy as np

from active_learning import checks
from active_learning.config import config_hash
from active_learning.report import measures
from experiments import flickr, flickr_arms, flickr_cost


def short(arm, updates, flops, log_rank, own=None, recall=0.02, selects=True):
    """A line of the table, as far as the rule and the savings read it."""
    chosen = [[1, 0.3]] if selects else []
    metrics = {"log_rank": {"mean": log_rank, "sd": None}, "recall": {"mean": recall, "sd": 0.004}}
    return {
        "arm": arm,
        "updates": updates,
        "flops": flops,
        "reference_recall": own,
        "exchanged_chosen": chosen,
    } | metrics


UNIFORM = short("uniform", 100, 10.0, 5.0, selects=False)


def test_what_is_saved_is_read_off_the_shortest_budget_that_reaches_uniform():
    budgets = ((100, 14.0, 4.0), (20, 4.0, 5.1), (40, 7.0, 4.9), (70, 9.0, 4.5))
    rows = [UNIFORM, *(short("chosen", *budget, own=0.01) for budget in budgets)]
    result = flickr.saved(
        [*rows, short("worse", 90, 9.0, 5.1), short("joint, sigmoid", 40, 1.0, 1.0)]
    )
    assert result.splitlines()[2:] == ["| chosen | 40 | 60 % | 30 % |"]


def test_what_is_saved_says_what_a_reader_must_know():
    better = " (invalid: the reference alone is better)"
    rows = [
        UNIFORM,
        short("(a) few", 40, 7.0, 4.9, own=0.03),
        short("(b) fair", 40, 7.0, 4.9, own=0.01),
        short("(b+) unknown", 40, 7.0, 4.9),
        *(short("(a+) more", updates, 7.0, 4.9, own=0.02) for updates in (40, 50, 60, 70)),
    ]
    assert flickr.saved(rows).splitlines()[2:] == [
        f"| (a) few{better} (1 budget only) | 40 | 60 % | 30 % |",
        "| (b) fair (1 budget only) | 40 | 60 % | 30 % |",
        "| (b+) unknown (validity unknown) (1 budget only) | 40 | 60 % | 30 % |",
        f"| (a+) more{better} (trained on the clean third as well, uniform is not) | 40 "
        f"| 60 % | 30 % |",
    ]


def test_the_rule_is_that_of_a_rows_own_loss_and_what_it_leaves_open_is_named():
    sigmoid = short("uniform, sigmoid", 100, 10.0, 5.0, recall=0.03, selects=False)
    rows = [
        UNIFORM,
        sigmoid,
        short("(a) joint", 100, 9.0, 4.0, own=0.025),
        short("(a) soft", 100, 9.0, 4.0, own=0.025),
    ]
    rows += [
        short("(b) near", 100, 9.0, 4.0, own=0.017),
        short("(b) far", 100, 9.0, 4.0, own=0.015),
    ]
    judged, near = flickr.rule(rows).split("\n\n")
    assert "by recall" in judged
    assert near == f"(b) near: {measures.INCONCLUSIVE}"
    assert "\n" not in flickr.rule(rows[:2])
    full = {"seeds": [0], "log_rank_interval": [4.0, 5.0], "val_log_rank": None, "val_recall": None}
    named = [
        line.split(" | ")[0] for line in flickr.table([r | full for r in rows]).splitlines()[2:]
    ]
    better = " (invalid: the reference alone is better)"
    assert named == [
        f"| {name}"
        for name in (
            "uniform",
            "uniform, sigmoid",
            "(a) joint",
            "(a) soft" + better,
            "(b) near",
            "(b) far",
        )
    ]


def test_a_claim_is_set_against_the_control_that_costs_as_much():
    (claim, control), *_ = flickr.COMPARED

    def row(arm, updates, flops, by_seed):
        return {
            "arm": arm,
            "updates": updates,
            "flops": flops,
            "seeds": [0, 1, 2],
            "log_rank_by_seed": by_seed,
        }

    rows = [
        row(claim, 100, 200.0, [5.0, 5.1, 5.2]),
        row(control, 100, 100.0, [5.0, 5.0, 5.0]),
        row(control, 190, 190.0, [5.1, 5.1, 5.4]),
    ]
    line = flickr.beside(rows).splitlines()[2]
    # differences -0.1, 0, -0.2: standard error 0.057735, t = 4.3027
    assert (
        line == f"| {claim}, 100 | 2.00e+02 | {control}, 190 | 1.90e+02 | -0.100 [-0.348, +0.148] |"
    )


def test_every_claim_has_its_control_and_arms_share_references():
    arms = flickr_arms.final_arms(flickr_arms.SCALES["desk"])
    names = [one.config.name for one in arms]
    assert {n for n in names if "control" in n} >= {
        "(a) control: uniform on the clean third",
        "(a+) control: uniform on pool + clean third",
    }
    assert len({(n, one.budget) for n, one in zip(names, arms, strict=True)}) == len(arms)
    assert all(
        one.config.task.loss == "sigmoid"
        for one in arms
        if "joint" in one.config.name or "sigmoid" in one.config.name
    )


def test_a_row_is_the_mean_of_its_runs(tmp_path):
    for seed, value in ((0, 5.0), (1, 6.0)):
        folder = tmp_path / f"seed{seed}"
        folder.mkdir()
        final = {
            "test_full/log_rank": value,
            "test_full/recall": 0.01,
            "test_full/per_image": [value] * 4,
        }
        accounts = dict.fromkeys(
            ("learner_train", "online_score", "online_train", "reference_score", "reference_train"),
            2.0,
        )
        summary = {
            "final": final,
            "flops": accounts | {"recompute": 9.0},
            "train_seconds": 3.0,
            "window_steps": 4 + 2 * seed,
            "reference": {"accuracy": 0.02},
        }
        (folder / "summary.json").write_text(json.dumps(summary))
        (folder / "config.json").write_text(
            json.dumps({"name": "arm", "seed": seed, "total_steps": 7})
        )
        line = {
            "step": 1,
            "select/corrupted_fraction": 0.2 + 0.2 * seed,
            "select/open": 1.0,
            "test/log_rank": value,
        }
        (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    result = flickr.row([tmp_path / "seed0", tmp_path / "seed1"])
    assert result["log_rank"] == {"mean": 5.5, "sd": np.sqrt(0.5)}
    assert (result["window_updates"], result["accounts"]["recompute"]) == (5.0, 9.0)
    assert result["log_rank_interval"] == [5.5, 5.5]
    assert result["exchanged_chosen"] == [[1, 0.30000000000000004]]
    assert (result["flops"], result["seeds"], result["reference_recall"]) == (10.0, [0, 1], 0.02)
    assert "5.5 ± 0.71 [5.500, 5.500]" in flickr.table([result])


def test_the_methods_are_different_runs_of_one_setting(tmp_path):
    for scale, count in (("desk", 28), ("smoke", 1)):
        arms = flickr_arms.method_arms(flickr_arms.SCALES[scale])
        assert len({config_hash(arm.config) for arm in arms}) == len(arms) == count
        for arm in arms:
            checks.check_values(arm.config)
            assert arm.config.task.shuffled_captions == {"pool": 0.5}
    stored = next(arm for arm in arms if arm.config.reference.kind_name == "stored")
    config, _ = next(iter(stored.runs(tmp_path)))
    assert config.reference.path == str(tmp_path / "references" / f"{flickr_arms.STORED}-seed100")


def test_a_method_is_set_against_what_its_flops_and_its_seconds_buy_elsewhere():
    def row(arm, updates, log_ranks, window=0, trained=0.0):
        accounts = {"learner_train": 1.0 * updates, "reference_train": trained}
        return {
            "arm": arm,
            "updates": updates,
            "flops": updates + trained,
            "seeds": [0, 1],
            "log_rank_by_seed": log_ranks,
            "window_updates": window,
            "accounts": accounts,
        }

    control = "(a) control: uniform on the clean third"
    rows = [
        row("(a) learnability, distilled", 100, [4.0, 4.2], window=60, trained=100.0),
        row("uniform", 100, [5.0, 5.0]),
        row("uniform", 400, [4.0, 4.0]),
        row(control, 400, [3.9, 3.9]),
    ]
    times = {
        "uniform": 1.0,
        control: 1.0,
        "(a) learnability, distilled": 1.5,
        "(a) learnability, distilled, selecting": 4.0,
        "reference": 0.5,
        "reference updates": 200,
    }
    # 200 FLOPs are half of the way, in logarithms, from 100 to 400. 60 x 4 + 40 x 1.5 seconds and
    # 200 x 0.5 of the reference are 400.
    cells = flickr_cost.equal_cost(rows, times).splitlines()[2].strip("| ").split(" | ")
    assert cells[:4] == ["(a) learnability, distilled", "100", "2.00", "4.00"]
    means = [float(cell.partition(" ")[0]) for cell in cells[4:]]
    assert means == [-0.4, 0.1, 0.2, 0.2]
