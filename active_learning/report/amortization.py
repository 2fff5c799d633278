"""What each arm cost, by account and by level of amortization."""

import numpy as np
from matplotlib.axes import Axes

from active_learning.cost.accounts import ACCOUNTS, AMORTIZATION_LEVELS
from active_learning.report.analysis import Analysis
from active_learning.report.setup import Setup
from active_learning.report.text import plain


def draw_accounts(axes: Axes, theme: dict[str, str], analysis: Analysis) -> None:
    """Draw the five accounts as stacked bars, one per arm, over the baseline's total."""
    arms, whole = list(analysis.arms), _whole(analysis)
    for row, arm in enumerate(arms):
        left = 0.0
        for account in ACCOUNTS:
            width = arm.shown.account(account) / whole
            axes.barh(
                row,
                width,
                left=left,
                height=0.56,
                color=theme[account],
                edgecolor=theme["paper"],
                linewidth=0.8,
            )
            left += width
        axes.annotate(
            f"{left:.2f}×",
            (left, row),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            color=theme["ink"],
            fontweight="bold",
            bbox={"boxstyle": "square,pad=0.15", "facecolor": theme["paper"], "edgecolor": "none"},
        )
    if analysis.baseline:
        axes.axvline(1.0, color=theme["ink"], linewidth=1.1, linestyle=(0, (1, 2.2)))
    axes.set_yticks(range(len(arms)), [plain(f"{arm.name} · {arm.shown.budget:,}") for arm in arms])
    axes.tick_params(axis="y", labelcolor=theme["ink"])
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.grid(visible=False)
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.set_xlabel(
        "total FLOPs, baseline’s full budget = 1"
        if analysis.baseline
        else "total FLOPs, largest arm = 1"
    )


def _whole(analysis: Analysis) -> float:
    totals = [arm.shown.mean("total_flops") for arm in analysis.arms]
    return (
        analysis.baseline.longest.mean("total_flops") if analysis.baseline else max(totals)
    ) or 1.0


def amortized_costs(analysis: Analysis) -> dict[str, dict[str, float | None]]:
    """Map arms to their cost over the baseline's at each level of amortization.

    None at a level whose cost a run of this kind does not reveal. "none" adds the training of a
    reference that was loaded and not charged to the run.
    """
    whole = _whole(analysis)
    costs: dict[str, dict[str, float | None]] = {}
    for arm in analysis.arms:
        runs = arm.shown.runs
        unknown = set[str]().union(*(unknown_levels(run.setup) for run in runs))
        loaded = [
            run.reference.flops if run.reference and not run.reference.charged else 0.0
            for run in runs
        ]
        sums = {
            name: sum(arm.shown.account(account) for account in accounts)
            for name, accounts in reversed(AMORTIZATION_LEVELS.items())
        }
        sums["none"] += float(np.mean(loaded))
        costs[arm.name] = {
            name: None if name in unknown else value / whole for name, value in sums.items()
        }
    return costs


def unknown_levels(setup: Setup) -> set[str]:
    """Levels of amortization whose cost does not follow from a run's accounts.

    At these levels something would be paid for that the run did not do itself.
    """
    others = set(AMORTIZATION_LEVELS) - {"replayed policy"}
    if setup.scorers is None or setup.reference_kind is None:
        return set(AMORTIZATION_LEVELS)
    # The learner's own scoring is inside the account of its training.
    unknown = {"replayed policy"} if "learner" in setup.scorers else set()
    if setup.replay:
        unknown |= others
    if not setup.reads_reference:
        return unknown
    if setup.reference_kind == "stored":
        unknown |= {"pretrained", "none"}
    elif setup.reference_kind in ("cotrained", "online"):  # No reference exists before the run.
        unknown |= {"foundation dataset", "pretrained"}
    elif setup.reference_kind == "loaded" and setup.reference_path.endswith(".npz"):
        unknown |= {"none"}  # Published weights: what their training cost is unknown.
    return unknown
