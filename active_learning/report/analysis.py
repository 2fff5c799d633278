"""From runs to the contents of a report: arms, budgets, seed means, savings and their caveats."""

from dataclasses import dataclass, field, replace

import numpy as np

from active_learning.report import measures
from active_learning.report.files import RunError, number
from active_learning.report.runs import Run, total_flops
from active_learning.report.text import clean


@dataclass(frozen=True)
class Curve:
    """A metric over the evaluations of one budget: mean and standard deviation over seeds.

    All arrays have shape (evaluations,); the clocks are seed means.
    """

    step: np.ndarray
    mean: np.ndarray
    # None for one seed.
    sd: np.ndarray | None
    flops: np.ndarray
    seconds: np.ndarray

    def at(self, clock: str) -> np.ndarray:
        """Return the x values on a clock: "updates", "flops" or "seconds"."""
        return {"updates": self.step, "flops": self.flops, "seconds": self.seconds}[clock]


@dataclass(frozen=True)
class Group:
    """The runs of one arm at one budget, one per seed. Clocks and fractions are seed means."""

    name: str
    budget: int
    runs: tuple[Run, ...]
    curve: Curve
    # Seed -> final value.
    finals: dict[int, float]
    # To the baseline's full budget; None for that itself.
    gap: measures.Difference | None
    worst_class: float | None
    # Fraction of the selected examples whose label is wrong; None if unknown.
    corrupted_fraction: float | None

    def mean(self, what: str) -> float:
        """Return the seed mean of examples, candidates, train_seconds or total_flops."""
        return float(np.mean([getattr(run, what) for run in self.runs]))

    @property
    def final(self) -> float:
        """Return the seed mean of the final values."""
        return float(np.mean(list(self.finals.values())))

    @property
    def sd(self) -> float | None:
        """Return the standard deviation of the final values; None for one seed."""
        return measures.spread(list(self.finals.values()))

    def clock(self, clock: str) -> float:
        """Return the cost of the whole budget on a clock: "updates", "flops" or "seconds"."""
        return {
            "updates": float(self.budget),
            "flops": self.mean("total_flops"),
            "seconds": self.mean("train_seconds"),
        }[clock]

    def account(self, account: str) -> float:
        """Return the seed mean of the FLOPs of one account."""
        return float(np.mean([run.flops[account] for run in self.runs]))


@dataclass(frozen=True)
class Arm:
    """All budgets of one name, shortest first, and what the arm saved against the baseline."""

    name: str
    baseline: bool
    groups: tuple[Group, ...]
    reference_accuracy: float | None
    # Whether the comparison is valid (see `measures.is_valid_comparison`); None if unknown.
    valid: bool | None
    # Valid by less than the target's standard deviation over seeds.
    inconclusive: bool = False
    # The rest is None (or empty) without a baseline, and where the target is not reached.
    beta_curve: float | None = None
    reached_step: float | None = None
    beta_budget: measures.BetaBudget | None = None
    saved: dict[str, float | None] = field(default_factory=dict)

    @property
    def longest(self) -> Group:
        """The budget with the most updates."""
        return self.groups[-1]

    @property
    def target_budget(self) -> Group | None:
        """The shortest budget that reaches the target; None if none does."""
        budget = self.beta_budget.budget if self.beta_budget else None
        return next((group for group in self.groups if group.budget == budget), None)

    @property
    def shown(self) -> Group:
        """The budget that the arm is shown at: the target budget, else the longest."""
        return self.target_budget or self.longest


@dataclass(frozen=True)
class Analysis:
    """Everything that is reported."""

    metric: str
    final_metric: str
    arms: tuple[Arm, ...]
    baseline: Arm | None
    # Value to reach: the baseline's final value of `final_metric`, and of `metric`.
    target: float | None
    target_curve: float | None
    notes: tuple[str, ...]

    @property
    def others(self) -> list[Arm]:
        """The arms that are compared with the baseline."""
        return [arm for arm in self.arms if arm is not self.baseline]


SAVED = ("updates_saved", "total_flops_saved", "wall_clock_saved")
# Endings of the names of metrics that cannot be compared here.
LOWER_IS_BETTER = ("loss", "log_rank", "mean_rank", "median_rank")


def analyze(runs: list[Run], metric: str = "test/accuracy") -> Analysis:
    """Group runs by (name, total_steps) over seeds and compare the arms with the baseline.

    Raises:
      RunError: A run never measured `metric`, or lower values of it are better.
    """
    if metric != clean(metric):
        raise RunError(f"--metric {clean(metric, 60)}: not the name of a metric")
    if metric.endswith(LOWER_IS_BETTER):
        raise RunError(f"--metric {metric}: a metric where higher is better is needed")
    final_metric = _final_metric(runs, metric)
    by_name: dict[str, dict[int, list[Run]]] = {}
    for run in runs:
        by_name.setdefault(run.name, {}).setdefault(run.total_steps, []).append(run)
    baseline_name = _baseline_name(by_name, final_metric)
    against = None
    if baseline_name:
        longest = max(by_name[baseline_name])
        against = _group(by_name[baseline_name][longest], metric, final_metric, None)
    arms = []
    for name, budgets in by_name.items():
        groups = tuple(
            _group(budgets[budget], metric, final_metric, against) for budget in sorted(budgets)
        )
        arms.append(_arm(groups, name == baseline_name, against))
    arms.sort(key=lambda arm: not arm.baseline)
    return Analysis(
        metric=metric,
        final_metric=final_metric,
        arms=tuple(arms),
        baseline=arms[0] if baseline_name else None,
        target=against.final if against else None,
        target_curve=float(against.curve.mean[-1]) if against else None,
        notes=tuple(_notes(runs, arms, metric, final_metric)),
    )


def _final_metric(runs: list[Run], metric: str) -> str:
    """The whole test set if every run has it, else the subset: never one against the other."""
    for run in runs:
        if not any(number(line.get(metric)) is not None for line in run.lines):
            raise RunError(f"{run.path}: {metric} was never measured")
    whole = metric.replace("/", "_full/", 1)
    return whole if all(run.final_value(whole) is not None for run in runs) else metric


def _baseline_name(by_name: dict[str, dict[int, list[Run]]], final_metric: str) -> str | None:
    """The arm marked as baseline; of several the one with the highest final value."""
    marked = [
        name
        for name, budgets in by_name.items()
        if any(run.baseline for group in budgets.values() for run in group)
    ]
    return max(marked, key=lambda name: _final_mean(by_name[name], final_metric), default=None)


def _final(run: Run, final_metric: str) -> float:
    value = run.final_value(final_metric)
    assert value is not None, f"{run.path}: {final_metric} was chosen, and not measured"
    return value


def _final_mean(budgets: dict[int, list[Run]], final_metric: str) -> float:
    return float(np.mean([_final(run, final_metric) for run in budgets[max(budgets)]]))


def seed_curve(runs: list[Run], metric: str) -> Curve:
    """Average `metric` over seeds at the updates where every run measured it.

    Raises:
      RunError: There is no such update.
    """
    points = [_points(run, metric) for run in runs]
    steps = sorted(set.intersection(*map(set, points)))
    if not steps:
        raise RunError(f"{runs[0].path}: its seeds share no update at which {metric} was measured")
    values, flops, seconds = np.array(
        [[point[step] for step in steps] for point in points], float
    ).transpose(2, 0, 1)
    sd = values.std(axis=0, ddof=1) if len(runs) > 1 else None
    return Curve(np.array(steps, float), values.mean(0), sd, flops.mean(0), seconds.mean(0))


def _points(run: Run, metric: str) -> dict[float, tuple[float, float, float]]:
    """Update -> (value, total FLOPs, seconds)."""
    lines = [line for line in run.lines if number(line.get(metric)) is not None]
    return {
        line["step"]: (line[metric], total_flops(line["flops"]), line["train_seconds"])
        for line in lines
    }


def _group(runs: list[Run], metric: str, final_metric: str, against: Group | None) -> Group:
    finals = {run.seed: _final(run, final_metric) for run in runs}
    same = against is not None and (runs[0].name, runs[0].total_steps) == (
        against.name,
        against.budget,
    )
    worst = final_metric.rsplit("/", 1)[0] + "/worst_class"
    return Group(
        name=runs[0].name,
        budget=runs[0].total_steps,
        runs=tuple(runs),
        curve=seed_curve(runs, metric),
        finals=finals,
        gap=None if against is None or same else measures.difference(finals, against.finals),
        worst_class=_mean([run.final_value(worst) for run in runs]),
        corrupted_fraction=_mean([corrupted_fraction(run) for run in runs]),
    )


def corrupted_fraction(run: Run) -> float | None:
    """Fraction of mislabeled examples among those selected while selection was on.

    The whole run counts if nothing was selected. None if unknown.
    """
    rows, done = [], 0.0
    for line in run.lines:
        fraction = number(line.get("select/corrupted_fraction"))
        if fraction is not None:
            rows.append((fraction, line["examples"] - done, line.get("select/open", 1)))
            done = line["examples"]
    rows = [row for row in rows if row[2]] or rows
    return measures.mean_fraction([row[0] for row in rows], np.cumsum([row[1] for row in rows]))


def _arm(groups: tuple[Group, ...], baseline: bool, against: Group | None) -> Arm:
    # A seed's budgets share one reference: each seed counts once.
    references = {
        run.seed: run.reference
        for group in groups
        for run in group.runs
        if run.reference is not None
    }
    accuracy = _mean([reference.accuracy for reference in references.values()])
    target = against.final if against else None
    valid = measures.is_valid_comparison(bool(references), accuracy, target)
    inconclusive = measures.is_inconclusive(accuracy, target, against.sd if against else None)
    arm = Arm(groups[0].name, baseline, groups, accuracy, valid, inconclusive)
    if against is None:
        return arm
    full, curve = float(against.budget), groups[-1].curve
    target_curve = float(against.curve.mean[-1])
    first = measures.first_sustained(curve.step, curve.mean, target_curve)
    beta_curve = measures.beta_curve(curve.step, curve.mean, target_curve, full)
    budget = measures.beta_budget(
        {group.budget: group.final for group in groups}, against.final, full
    )
    shown = next((group for group in groups if group.budget == budget.budget), None)
    cost_flops = [run.total_flops for run in shown.runs] if shown else None
    cost_seconds = [run.train_seconds for run in shown.runs] if shown else None
    flops, seconds = (
        [run.total_flops for run in against.runs],
        [run.train_seconds for run in against.runs],
    )
    saved = {
        "updates_saved": measures.updates_saved(budget.beta),
        "total_flops_saved": measures.total_flops_saved(cost_flops, flops),
        "wall_clock_saved": measures.wall_clock_saved(cost_seconds, seconds),
        "updates_saved_curve": measures.updates_saved_curve(beta_curve),
        "total_flops_saved_curve": measures.total_flops_saved_curve(
            curve.step, curve.flops, first, flops
        ),
        "wall_clock_saved_curve": measures.wall_clock_saved_curve(
            curve.step, curve.seconds, first, seconds
        ),
    }
    return replace(arm, beta_curve=beta_curve, reached_step=first, beta_budget=budget, saved=saved)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _notes(runs: list[Run], arms: list[Arm], metric: str, final_metric: str) -> list[str]:
    """Caveats that a reader needs to judge the numbers."""
    notes = []
    marked = sorted({run.name for run in runs if run.baseline})
    if len(marked) > 1:
        which = f"{len(marked)} arms are marked as baseline ({', '.join(marked)})"
        notes.append(f"{which}; the comparison is with the strongest, {arms[0].name}.")
    whole = metric.replace("/", "_full/", 1)
    if final_metric == metric and any(run.final_value(whole) is not None for run in runs):
        notes.append(
            "The whole test set was not measured in every run: "
            f"final values are {metric} on both sides."
        )
    devices = sorted({run.device for run in runs})
    if len(devices) > 1:
        notes.append(
            f"The runs were made on different devices ({', '.join(devices)}): "
            "their wall-clock times do not compare."
        )
    for arm in arms:
        notes += _arm_notes(arm)
    return notes


def _arm_notes(arm: Arm) -> list[str]:
    notes = []
    beta = arm.beta_budget.beta if arm.baseline and arm.beta_budget else None
    if beta is not None and beta < 1:
        notes.append(
            f"{arm.name} itself reaches its full-budget value with "
            f"{100 * beta:.0f} % of the updates: its curve is flat or noisy there, "
            "and a saving no larger than this one means nothing."
        )
    for group in arm.groups:
        keys = differing_keys(group.runs)
        if keys:
            which = clean(", ".join(keys[:4]))
            notes.append(f"{arm.name}, {group.budget:,} updates: its seeds also differ in {which}.")
    references = [run.reference for group in arm.groups for run in group.runs if run.reference]
    loaded = [reference for reference in references if not reference.charged and reference.flops]
    if loaded:
        flops = np.mean([reference.flops for reference in loaded])
        seconds = np.mean([reference.seconds for reference in loaded])
        cost = f"{flops:.3g} FLOPs, {seconds:.3g} s"
        notes.append(
            f"{arm.name}: its reference was loaded and its training is not charged ({cost})."
        )
    if references and arm.reference_accuracy is None:
        notes.append(
            f"{arm.name}: its reference’s own accuracy is not known, so it is not checked whether "
            "the comparison is valid."
        )
    if arm.inconclusive:
        notes.append(f"{arm.name}: {measures.INCONCLUSIVE}")
    if any(np.isnan(group.mean("train_seconds")) for group in arm.groups):
        notes.append(
            f"{arm.name}: the time of its updates was not measured, so its wall-clock is unknown."
        )
    recompute = arm.shown.account("recompute")
    if recompute:
        extra = f"recomputation, {recompute:.3g} FLOPs at {arm.shown.budget:,} updates"
        notes.append(f"{arm.name}: {extra}, has a column of its own and is in no total here.")
    return notes


def differing_keys(runs: tuple[Run, ...]) -> list[str]:
    """Dotted configuration keys in which the runs of one group differ, other than the seed.

    Each seed has its own reference, so the reference's path is no difference.
    """
    flat = [_flatten(run.config) for run in runs]
    every = {name for one in flat for name in one if name != "reference.path"}
    names = sorted(name for name in every if name.rsplit(".", 1)[-1] not in ("seed", "workdir"))
    return [name for name in names if any(one.get(name) != flat[0].get(name) for one in flat)]


def _flatten(value, name: str = "") -> dict:
    if not isinstance(value, dict):
        return {name: value}
    flat: dict = {}
    for key, inner in value.items():
        flat |= _flatten(inner, f"{name}.{key}" if name else str(key))
    return flat
