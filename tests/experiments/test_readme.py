"""What the tables say beside their numbers."""

from active_learning.report import measures
from experiments import readme


def budget(mean, sd=0.006, paired=True, error=0.004):
    gap = (
        None if error is None else {"mean": mean - 0.465, "standard_error": error, "paired": paired}
    )
    few = {
        "updates": 100,
        "seeds": [0, 1],
        "final_mean": mean,
        "final_sd": sd,
        "selected_corrupted_fraction": None,
    }
    return few | {"difference": gap}


def arm(name, *budgets, saved=(0.2, 0.1, None), valid=True, inconclusive=False, baseline=False):
    keys = dict(zip(("updates_saved", "total_flops_saved", "wall_clock_saved"), saved, strict=True))
    tried = {"budgets_tried": len(budgets), "beta_budget": 0.8, "beta_budget_updates": 100}
    rule = {
        "valid": valid,
        "inconclusive": inconclusive,
        "reference_accuracy": None,
        "baseline": baseline,
    }
    return {"name": name, "budgets": list(budgets)} | keys | tried | rule


UNIFORM = arm(
    "uniform", budget(0.4), budget(0.465, error=None), baseline=True
)  # the target: 46.5 ± 0.6


def lines(*arms):
    return readme.table(
        {"arms": [UNIFORM, *arms], "target": 0.465, "headline": "Saved."}
    ).splitlines()


def test_what_is_saved_carries_the_number_of_budgets_and_the_rule():
    four = arm("four", *[budget(0.5)] * 4, saved=(0.35, 0.17, -0.01))
    result = lines(arm("one", budget(0.5)), four, arm("void", *[budget(0.5)] * 3, valid=False))
    assert "| one (1 budget only) | 20.0 % | 10.0 % | - |" in result
    assert "| four | 35.0 % | 17.0 % | -1.0 % |" in result
    void = "void (invalid: the reference alone is better)"
    assert f"| {void} (3 budgets only) | 20.0 % | 10.0 % | - |" in result
    assert result.count(f"| {void} | 100 | 2 | 50.0 ± 0.6 | +3.5 ± 0.4 | - | - |") == 3


def test_the_headline_comes_first():
    assert lines()[0] == "**Saved.**"


def test_a_rule_that_was_not_checked_and_a_difference_that_is_not_paired_are_marked():
    result = lines(arm("stored", budget(0.5, paired=False), valid=None))
    assert "| stored (validity unknown) | 100 | 2 | 50.0 ± 0.6 | +3.5 ± 0.4 w | - | - |" in result


def test_arms_that_pass_the_rule_by_less_than_the_spread_are_named():
    near, far = arm("near", budget(0.5), inconclusive=True), arm("far", budget(0.5))
    assert f"near: {measures.INCONCLUSIVE}" in lines(near, far)
    assert not any(measures.INCONCLUSIVE in line for line in lines(far))


def test_what_was_chosen_among_is_listed_best_first_within_a_budget():
    few, more = (
        budget(0.5, sd=None),
        budget(0.4) | {"updates": 200, "selected_corrupted_fraction": 0.4},
    )
    low, high, long = arm("low", few | {"final_mean": 0.3}), arm("high", few), arm("long", more)
    assert readme.tuned({"arms": [low, high, long]}).splitlines()[2:] == [
        "| long | 200 | 2 | 40.0 ± 0.6 | 40 |",
        "| high | 100 | 2 | 50.0 | - |",
        "| low | 100 | 2 | 30.0 | - |",
    ]


def test_the_summary_sets_costs_against_uniform_at_its_full_budget():
    def priced(updates, mean, flops, seconds):
        cost = {"updates": updates, "total_flops": flops, "train_seconds": seconds}
        return budget(mean) | cost

    uniform = arm("uniform", priced(50, 0.4, 5, 1.0), priced(100, 0.465, 10, 2.0))
    chosen = arm("learnability", priced(40, 0.47, 6, 1.5), priced(100, 0.5, 12, 3.0))
    both = arm("control: uniform on pool + reference part", priced(100, 0.466, 10, 2.1))
    chosen["beta_budget_updates"] = 40
    result = {"arms": [both, chosen, uniform], "headline": "Saved.", "baseline_updates": 100}
    assert readme.summary(result).splitlines()[4:] == [
        "| uniform | 100 | 2 | 46.5 ± 0.6 | 1.00 | 1.00 |",
        "| learnability | 40 | 2 | 47.0 ± 0.6 | 0.60 | 0.75 |",
        "| learnability | 100 | 2 | 50.0 ± 0.6 | 1.20 | 1.50 |",
        "| control: uniform on pool + reference part | 100 | 2 | 46.6 ± 0.6 | 1.00 | 1.05 |",
    ]
