"""How much was saved: pure functions of numbers; none of them knows a file.

Values named `*_saved` are fractions of the baseline's full budget (0.3 = 30 % saved, negative = it
cost more) at the shortest fully decayed budget that reaches its final value; `*_saved_curve` are
read off one learning curve. None always means "not reached" or "not known".
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MIN_BUDGETS = 4
# By `is_valid_comparison`.
VALIDITY_REMARK = {
    True: "",
    False: " (invalid: the reference alone is better)",
    None: " (validity unknown)",
}
INCONCLUSIVE = (
    "Inconclusive: the reference alone is less than one standard deviation below the target."
)
Number = float | int
Numbers = Sequence[Number] | np.ndarray


@dataclass(frozen=True)
class BetaBudget:
    """Shortest budget that reaches the target, out of those tried."""

    # Its updates over the baseline's; None if no budget reaches the target.
    beta: float | None
    budget: int | None
    # How many budgets the arm was trained at.
    tried: int

    @property
    def enough(self) -> bool:
        """Whether enough budgets were tried for the number to stand."""
        return self.tried >= MIN_BUDGETS

    @property
    def mark(self) -> str:
        """Remark to print beside the number: empty, or how few budgets were tried."""
        return "" if self.enough else f"{self.tried} budget{'s' if self.tried != 1 else ''} only"


@dataclass(frozen=True)
class Difference:
    """Mean difference to the baseline and its standard error."""

    mean: float
    # None with fewer than two seeds on a side.
    error: float | None
    # Over the seeds that both have.
    paired: bool


def first_sustained(steps: Numbers, values: Numbers, target: Number) -> float | None:
    """Return the first step from which `values` stays at or above `target` to the end, or None."""
    below = np.flatnonzero(~(np.asarray(values, float) >= target))  # a NaN counts as below
    first = 0 if below.size == 0 else int(below[-1]) + 1
    return float(steps[first]) if first < len(steps) else None


def beta_curve(
    steps: Numbers, mean: Numbers, target: Number, baseline_updates: Number
) -> float | None:
    """Return the first update from which the seed mean stays at or above the target.

    It is given over the baseline's updates; None if the target is not reached.
    """
    first = first_sustained(steps, mean, target)
    return None if first is None else first / baseline_updates


def beta_budget(
    finals: Mapping[int, Number], target: Number, baseline_updates: Number
) -> BetaBudget:
    """Find the shortest fully decayed budget that reaches `target`.

    Args:
      finals: Updates of a budget -> seed mean of its final value.
      target: Value to reach.
      baseline_updates: Updates of the baseline's full budget.
    """
    reached = min((budget for budget, value in finals.items() if value >= target), default=None)
    return BetaBudget(None if reached is None else reached / baseline_updates, reached, len(finals))


def _saved(cost: Number | None, baseline: Number | None) -> float | None:
    if cost is None or not baseline or not (math.isfinite(cost) and math.isfinite(baseline)):
        return None
    return 1.0 - cost / baseline


def updates_saved(beta: float | None) -> float | None:
    """1 - beta_budget."""
    return _saved(beta, 1.0)


def total_flops_saved(flops: Numbers | None, baseline: Numbers) -> float | None:
    """Return 1 - FLOPs of the target budget's runs over those of the baseline's full budget.

    Both are one total per seed.
    """
    return _saved(None if flops is None else float(np.mean(flops)), float(np.mean(baseline)))


def wall_clock_saved(seconds: Numbers | None, baseline: Numbers) -> float | None:
    """Return 1 - training seconds of the target budget's runs over the baseline's.

    Both are one number per seed.
    """
    return _saved(None if seconds is None else float(np.mean(seconds)), float(np.mean(baseline)))


def updates_saved_curve(beta: float | None) -> float | None:
    """1 - beta_curve."""
    return _saved(beta, 1.0)


def total_flops_saved_curve(
    steps: Numbers, totals: Numbers, first: Number | None, baseline: Numbers
) -> float | None:
    """Return 1 - FLOPs spent at step `first` of a curve over the baseline's full budget.

    `totals` are the seed means at each of `steps`.
    """
    return _saved(_at(steps, totals, first), float(np.mean(baseline)))


def wall_clock_saved_curve(
    steps: Numbers, seconds: Numbers, first: Number | None, baseline: Numbers
) -> float | None:
    """Return 1 - seconds spent at step `first` of a curve over the baseline's full budget."""
    return _saved(_at(steps, seconds, first), float(np.mean(baseline)))


def _at(steps: Numbers, values: Numbers, step: Number | None) -> float | None:
    return None if step is None else float(values[list(steps).index(step)])


def difference(values: Mapping[int, Number], baseline: Mapping[int, Number]) -> Difference:
    """Return `values` less `baseline` with its standard error; both map seeds to values.

    With at least two common seeds it is paired: the mean over these seeds and
    sd(differences) / sqrt(n). Otherwise it is the difference of the two means, with Welch's
    sqrt(s1^2 / n1 + s2^2 / n2). Sample deviations (n - 1).
    """
    common = [seed for seed in values if seed in baseline]
    if len(common) > 1:
        gaps = np.array([values[seed] - baseline[seed] for seed in common])
        return Difference(float(gaps.mean()), float(gaps.std(ddof=1) / math.sqrt(gaps.size)), True)
    a, b = np.array(list(values.values()), float), np.array(list(baseline.values()), float)
    error = (
        math.sqrt(a.var(ddof=1) / a.size + b.var(ddof=1) / b.size)
        if min(a.size, b.size) > 1
        else None
    )
    return Difference(float(a.mean() - b.mean()), error, False)


def spread(values: Numbers) -> float | None:
    """Sample standard deviation over seeds; None for one seed."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def is_valid_comparison(
    has_reference: bool, reference_accuracy: Number | None, target: Number | None
) -> bool | None:
    """Whether the comparison is valid: the reference alone is below the target.

    Otherwise one would deploy the reference. True without a reference; None if it cannot be
    checked (no target, or the reference's accuracy is unknown).
    """
    if not has_reference:
        return True
    if reference_accuracy is None or target is None:
        return None
    return reference_accuracy < target


def is_inconclusive(
    reference_accuracy: Number | None, target: Number | None, target_sd: Number | None
) -> bool:
    """Whether the reference is below the target by less than the target's standard deviation.

    False where the comparison is invalid, by however little, and where something is unknown.
    """
    if reference_accuracy is None or target is None or target_sd is None:
        return False
    return 0 < target - reference_accuracy < target_sd


def mean_fraction(fractions: Numbers, examples: Numbers) -> float | None:
    """Average fractions over a run, each weighted by the examples it was measured on.

    Args:
      fractions: One per line of the log, over the examples since the line before.
      examples: Cumulative number of examples at each line.
    """
    weights = np.diff(np.asarray(examples, float), prepend=0.0)
    return (
        float(np.dot(fractions, weights) / weights.sum())
        if len(fractions) and weights.sum() > 0
        else None
    )
