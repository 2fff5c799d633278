"""The table as rows of text, for Markdown and HTML, and the machine-readable report."""

import re

from active_learning.cost.accounts import ACCOUNTS, RECOMPUTE
from active_learning.report.amortization import amortized_costs
from active_learning.report.analysis import SAVED, Analysis, Arm, Group
from active_learning.report.files import number
from active_learning.report.headline import headline, percent

COLUMNS = (
    "arm", "budget", "seeds", "final", "difference ± its error", "reference", "β curve",
    "β budget", "updates saved", "total FLOPs saved", "wall-clock saved", "examples", "candidates",
    "total FLOPs", "train time", "worst class", "corrupted selected",
)  # fmt: skip


def rows(analysis: Analysis) -> list[list[str]]:
    """Return one row per budget, in the order of COLUMNS."""
    return [row(arm, group) for arm in analysis.arms for group in arm.groups]


def row(arm: Arm, group: Group) -> list[str]:
    """Return the cells of one budget.

    β curve stands on an arm's longest budget, β budget and savings on the budget that it is shown
    at.
    """
    last, decides = group is arm.longest, group is arm.shown
    judged = arm.beta_budget is not None
    unknown = " (validity unknown)" if judged else ""
    remark = {False: " (invalid)", None: unknown, True: ""}[arm.valid]
    name = arm.name + remark
    gap = "–"
    if group.gap is not None:
        kind = " p" if group.gap.paired else " w"
        error = "" if group.gap.error is None else f" ± {100 * group.gap.error:.2f}{kind}"
        gap = f"{100 * group.gap.mean:+.2f}".replace("-", "−") + (error or " (one seed)")
    final = (
        percent(group.final, 2)[:-2]
        + ("" if group.sd is None else f" ± {100 * group.sd:.2f}")
        + " %"
    )
    return [
        name, f"{group.budget:,}", str(len(group.runs)), final, gap,
        percent(arm.reference_accuracy),
        "" if not last else _beta(arm.beta_curve, judged, ""),
        (
            ""
            if not decides or arm.beta_budget is None
            else _beta(arm.beta_budget.beta, judged, arm.beta_budget.mark)
        ),
        *("" if not decides else percent(arm.saved.get(key)) for key in SAVED),
        f"{group.mean('examples'):,.0f}", f"{group.mean('candidates'):,.0f}",
        f"{group.mean('total_flops'):.3g}", duration(group.mean("train_seconds")),
        percent(group.worst_class), percent(group.corrupted_fraction),
    ]  # fmt: skip


def _beta(beta: float | None, judged: bool, mark: str) -> str:
    if not judged:
        return "–"
    value = "not reached" if beta is None else f"{beta:.3f}"
    return f"{value} ({mark})" if mark else value


def duration(seconds: float) -> str:
    """Format seconds as "41.2 s", "12 min 03 s" or "2 h 05 min"; an en dash if unknown."""
    if number(seconds) is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 100
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def markdown(analysis: Analysis, title: str) -> str:
    """Return the headline, the table and the caveats as Markdown."""
    lines = [
        "| " + " | ".join(map(_markdown, cells)) + " |"
        for cells in (list(COLUMNS), *rows(analysis))
    ]
    lines.insert(1, "|" + " --- |" * len(COLUMNS))
    notes = [f"- {_markdown(note)}" for note in (*analysis.notes, legend(analysis))]
    return "\n".join(
        [f"# {_markdown(title)}", "", _markdown(headline(analysis)), "", *lines, "", *notes, ""]
    )


def _markdown(text: str) -> str:
    """Escape what Markdown would read as HTML, as a link, as code or as the end of a cell."""
    return re.sub(r"([|<`\[\]])", r"\\\1", text)


def legend(analysis: Analysis) -> str:
    """Explain the columns in one paragraph."""
    return (
        f"Final values are {analysis.final_metric}, mean ± standard deviation over seeds; "
        "differences (in points) are to the baseline’s full budget, with their standard error (p: "
        "paired, over the seeds that both have; w: Welch, fewer than two in common). β curve: "
        f"first update from which mean {analysis.metric} stays at or above the baseline’s final "
        "value, over the baseline’s updates, on the arm’s longest budget. β budget: shortest fully "
        "decayed budget that ends at or above the baseline, over its updates; all savings are "
        "taken there. A comparison is valid only if the reference alone is below the target, the "
        "baseline’s final value. Total FLOPs: five accounts, reference training included where it "
        "is charged."
    )


def report(analysis: Analysis, title: str) -> dict:
    """Return every number and curve of the page, for machines.

    Fractions lie in [0, 1]; compute is in FLOPs, time in seconds; null means unknown.
    """
    return {
        "title": title,
        "headline": headline(analysis),
        "metric": analysis.metric,
        "final_metric": analysis.final_metric,
        "baseline": analysis.baseline.name if analysis.baseline else None,
        "baseline_updates": analysis.baseline.longest.budget if analysis.baseline else None,
        "target": analysis.target,
        "target_curve": analysis.target_curve,
        "notes": list(analysis.notes),
        "amortization": amortized_costs(analysis),
        "arms": [_arm(arm) for arm in analysis.arms],
    }


def _arm(arm: Arm) -> dict:
    budget = arm.beta_budget
    return {
        "name": arm.name,
        "baseline": arm.baseline,
        "valid": arm.valid,
        "inconclusive": arm.inconclusive,
        "reference_accuracy": arm.reference_accuracy,
        "beta_curve": arm.beta_curve,
        "beta_budget": budget.beta if budget else None,
        "beta_budget_updates": budget.budget if budget else None,
        "budgets_tried": len(arm.groups),
        "beta_budget_enough": budget.enough if budget else None,
        **arm.saved,
        "budgets": [_budget(group) for group in arm.groups],
    }


def _budget(group: Group) -> dict:
    gap, curve = group.gap, group.curve
    return {
        "updates": group.budget,
        "seeds": [run.seed for run in group.runs],
        "finals": list(group.finals.values()),
        "final_mean": group.final,
        "final_sd": group.sd,
        "difference": (
            None
            if gap is None
            else {"mean": gap.mean, "standard_error": gap.error, "paired": gap.paired}
        ),
        "examples": group.mean("examples"),
        "candidates": group.mean("candidates"),
        "flops": {account: group.account(account) for account in (*ACCOUNTS, RECOMPUTE)},
        "total_flops": group.mean("total_flops"),
        "train_seconds": number(group.mean("train_seconds")),
        "worst_class": group.worst_class,
        "selected_corrupted_fraction": group.corrupted_fraction,
        "curve": {
            "step": curve.step.tolist(), "mean": curve.mean.tolist(),
            "sd": None if curve.sd is None else curve.sd.tolist(),
            "total_flops": curve.flops.tolist(),
            "train_seconds": [number(value) for value in curve.seconds.tolist()],
        },
    }  # fmt: skip
