"""The opening sentence of a report: what was saved, or that nothing was."""

from active_learning.report.analysis import Analysis, Arm, Group
from active_learning.report.measures import INCONCLUSIVE, MIN_BUDGETS


def percent(value: float | None, digits: int = 1) -> str:
    """Format a fraction as "12.3 %", with a real minus sign; an en dash if unknown."""
    return "–" if value is None else f"{100 * value:.{digits}f} %".replace("-", "−")


def choose(analysis: Analysis) -> Arm | None:
    """Choose the arm that the headline is about; None if there is only the baseline.

    Valid comparisons come first, then arms that reach the target, then those with enough budgets,
    then by updates saved.
    """

    def rank(arm: Arm):
        reached = arm.saved.get("updates_saved")
        return (
            arm.valid is not False,
            reached is not None,
            bool(arm.beta_budget and arm.beta_budget.enough),
            reached if reached is not None else arm.longest.final,
        )

    return max(analysis.others, key=rank, default=None)


def headline(analysis: Analysis) -> str:
    """Summarize the analysis in one or more sentences.

    They say so if the target was not reached, the comparison is invalid or the evidence is thin.
    """
    if analysis.baseline is None:
        return (
            "No baseline among these runs (config.baseline is true in none of them), "
            "so nothing can be called saved."
        )
    base = analysis.baseline
    arm = choose(analysis)
    target = f"{base.name}’s {percent(analysis.target)} after {base.longest.budget:,} updates"
    if arm is None:
        ends = (
            f"{base.name} ends at {percent(analysis.target)} after {base.longest.budget:,} updates"
        )
        return f"Only the baseline is here: {ends}. There is nothing to compare it with."
    many = (
        f" (the best of {len(analysis.others)} arms compared)" if len(analysis.others) > 1 else ""
    )
    if arm.target_budget is None:
        first = _not_reached(arm, target, len(analysis.others), analysis)
    else:
        reached, updates = f"{arm.name}{many} reached {target}", arm.target_budget.budget
        first = f"{reached} with {updates:,} updates: {savings(arm)}."
        saved = arm.saved["updates_saved"]
        if saved is not None and saved <= 0:
            first = f"No updates were saved. {_no_sooner(arm, arm.target_budget, target)}"
    return " ".join([first, *_cautions(analysis, arm)])


def _not_reached(arm: Arm, target: str, arms: int, analysis: Analysis) -> str:
    assert analysis.baseline is not None and analysis.target is not None
    last, base, error = arm.longest, analysis.baseline.longest, ""
    # With other seeds on a side the error is that of another mean.
    if last.gap and last.gap.error is not None and set(last.finals) == set(base.finals):
        error = f" ± {100 * last.gap.error:.1f}"
    who = f"{arm.name} did not reach" if arms == 1 else f"None of the {arms} valid arms reached"
    if arms > 1 and not all(other.valid is not False for other in analysis.others):
        who = "No valid arm reached"
    nearest = "It" if arms == 1 else f"The nearest, {arm.name},"
    below = f"{100 * (analysis.target - last.final):.1f}{error} points below it"
    ended = f"{nearest} ended {below} after {last.budget:,} updates."
    return f"Nothing was saved: {who} {target}. {ended}"


def _no_sooner(arm: Arm, budget: Group, target: str) -> str:
    """An arm that reaches the target with as many updates as the baseline, or more."""
    ended = f"{arm.name} ended at {percent(budget.final)} after {budget.budget:,} updates"
    shorter = [f"{group.budget:,}" for group in arm.groups if group.budget < budget.budget]
    if shorter:
        less = f"with {' and '.join(shorter)} it did not reach that"
    else:
        less = "whether fewer suffice was not tried: run it with a shorter config.total as well"
    return f"{ended}, against {target}: {savings(arm)}; {less}."


def savings(arm: Arm) -> str:
    """Describe the savings on all three clocks, never on the best alone."""
    words = (
        ("updates_saved", "fewer", "more", "updates"),
        ("total_flops_saved", "less", "more", "total compute"),
        ("wall_clock_saved", "less", "more", "wall-clock time"),
    )
    parts = []
    for key, less, more, unit in words:
        value = arm.saved[key]
        if value is None:
            parts.append(f"unknown {unit}")
        elif abs(value) < 0.0005:
            parts.append(f"the same {unit}")
        else:
            parts.append(f"{percent(abs(value))} {less if value > 0 else more} {unit}")
    return f"{parts[0]}, {parts[1]} and {parts[2]}"


def _cautions(analysis: Analysis, arm: Arm) -> list[str]:
    assert analysis.baseline is not None
    base, group, budget = analysis.baseline, arm.shown, arm.beta_budget
    cautions = []
    if arm.valid is False:
        alone = f"its reference alone is at {percent(arm.reference_accuracy)}"
        target = percent(analysis.target)
        kept = all(run.setup.reference_kind != "kernel" for run in group.runs)
        advice = "one would deploy the reference" if kept else "train longer or a larger learner"
        cautions.append(
            f"This comparison is invalid: {alone}, not below the target of {target}, so {advice}."
        )
    if arm.valid is None:
        cautions.append(
            "Whether this comparison is valid is unknown: the accuracy of the reference alone "
            "was not recorded."
        )
    if arm.inconclusive:
        cautions.append(INCONCLUSIVE)
    if arm.target_budget is not None and budget is not None and not budget.enough:
        were = "s were" if budget.tried > 1 else " was"
        tried = f"{budget.tried} decayed budget{were} tried"
        cautions.append(f"Only {tried} ({MIN_BUDGETS} are needed), so this is provisional.")
    seeds = min(len(group.runs), len(base.longest.runs))
    if seeds == 1:
        cautions.append("One seed only: the spread over seeds is unknown.")
    elif seeds < 3:
        cautions.append(f"Only {seeds} seeds.")
    elif arm.target_budget is not None:
        cautions.append(f"Means of {seeds} seeds.")
    return cautions
