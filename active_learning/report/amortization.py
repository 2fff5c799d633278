"""What the arms would cost if parts of their compute were paid for already."""

import numpy as np

from active_learning.cost.accounts import AMORTIZATION_LEVELS
from active_learning.report.analysis import Analysis
from active_learning.report.setup import Setup

# Levels at which a run with this kind of reference does not reveal its cost: stored scores and
# published weights were paid for elsewhere, and a co-trained reference does not exist before.
UNKNOWN_LEVELS: dict[str | None, set[str]] = {
    "stored": {"pretrained", "none"},
    "embedded": {"none"},
    "zero_shot": {"none"},
    "cotrained": {"foundation dataset", "pretrained"},
    "online": {"foundation dataset", "pretrained"},
}


def whole_cost(analysis: Analysis) -> float:
    """Return the FLOPs of the baseline's full budget; without one, those of the largest arm."""
    totals = [arm.shown.mean("total_flops") for arm in analysis.arms]
    return (
        analysis.baseline.longest.mean("total_flops") if analysis.baseline else max(totals)
    ) or 1.0


def amortized_costs(analysis: Analysis) -> dict[str, dict[str, float | None]]:
    """Map arms to their cost over the baseline's at each level of amortization.

    None at a level whose cost a run of this kind does not reveal. "none" adds the training of a
    reference that was loaded and not charged to the run.
    """
    whole = whole_cost(analysis)
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
    unknown |= UNKNOWN_LEVELS.get(setup.reference_kind, set())
    if setup.reads_file:
        unknown |= {"none"}  # What it cost to make is not known.
    return unknown
