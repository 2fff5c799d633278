"""What the newer methods for pairs take beside uniform training and the control at equal cost.

Uniform training and the controls were trained to several budgets, each with its own decayed
schedule; between two of them their log(1 + rank) is linear in the logarithm of the cost. Seconds
are those of updates that were measured in turns on a quiet machine (`--times`), since the clocks of
runs that are hours apart do not compare.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from active_learning.train.build import build
from experiments.arms import Arm
from experiments.score_comparison import interval
from experiments.step_times import in_turns, stepper


def step_times(arms: list[Arm], out: Path, rounds: int = 7) -> dict[str, float]:
    """Median seconds of an update of each arm, while it selects and otherwise, and of references.

    Args:
      arms: Those of the phase; each name is measured once.
      out: Folder of the runs, with the stored embeddings.
      rounds: How many times each is measured.

    Returns:
      Seconds by "NAME, selecting", "NAME" and "reference".
    """
    steppers = {}
    for config, _ in (next(iter(arm.runs(out))) for arm in arms):
        if config.name in steppers:
            continue
        experiment = build(replace(config, evaluate=replace(config.evaluate, gate="")))
        steppers[config.name] = stepper(experiment, active=False)
        if experiment.steps.window:
            steppers[f"{config.name}, selecting"] = stepper(experiment, active=True)
            own = config.reference.own_runs(config)
            if own and "reference" not in steppers:
                steppers["reference"] = stepper(build(own[""]), active=False)
    return in_turns(steppers, rounds)


def seconds_of(row: dict, times: dict[str, float], rate: float) -> float:
    """Seconds of a row's training, its reference's share included.

    Args:
      row: As `flickr.row` returns it.
      times: As `step_times` returns them.
      rate: FLOP/s of the reference's updates.
    """
    name, selecting = row["arm"], row["window_updates"]
    seconds = (row["updates"] - selecting) * times[name]
    if selecting:
        seconds += selecting * times[f"{name}, selecting"]
    return seconds + row["accounts"]["reference_train"] / rate


def _between(rows: list[dict], cost: Callable[[dict], float], at: float) -> dict[int, float]:
    """log(1 + rank) of each seed at a cost, from rows of one name; beyond their range the nearest
    row's.
    """
    rows = sorted(rows, key=cost)
    costs = np.log([cost(row) for row in rows])
    by_seed = {seed: [] for seed in rows[0]["seeds"]}
    for row in rows:
        for seed, value in zip(row["seeds"], row["log_rank_by_seed"], strict=True):
            by_seed[seed].append(value)
    return {s: float(np.interp(np.log(at), costs, values)) for s, values in by_seed.items()}


def equal_cost(rows: list[dict], times: dict[str, float]) -> str:
    """Markdown: each method less uniform and less its control, at its own FLOPs and seconds.

    Args:
      rows: Of all arms.
      times: Of their updates, and how many updates trained each reference.
    """
    trained = max(row["accounts"]["reference_train"] for row in rows)
    rate = trained / (times["reference updates"] * times["reference"])
    clocks = {"FLOPs": lambda row: row["flops"], "time": lambda r: seconds_of(r, times, rate)}
    full = next(row for row in rows if row["arm"] == "uniform")
    heads = [f"less {what}, equal {clock}" for what in ("uniform", "control") for clock in clocks]
    heads = ["arm", "updates", "FLOPs / uniform", "time / uniform", *heads]
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for row in (r for r in rows if r["window_updates"]):
        sigmoid = ", sigmoid" if "joint" in row["arm"] else ""
        names = f"uniform{sigmoid}", f"(a) control{sigmoid}: uniform on the clean third"
        cells = [row["arm"], str(row["updates"])]
        cells += [f"{cost(row) / cost(full):.2f}" for cost in clocks.values()]
        for name in names:
            others = [other for other in rows if other["arm"] == name]
            for cost in clocks.values():
                theirs = _between(others, cost, cost(row))
                mine = zip(row["seeds"], row["log_rank_by_seed"], strict=True)
                cells.append(gap(interval(value - theirs[seed] for seed, value in mine)))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def gap(result: dict[str, float] | None) -> str:
    """A difference with its interval."""
    if result is None:
        return "-"
    return f"{result['mean']:+.3f} [{result['low']:+.3f}, {result['high']:+.3f}]"


def mean_accounts(summaries: list[dict]) -> dict[str, float]:
    """Mean FLOPs of each account over runs."""
    names = summaries[0]["flops"]
    return {name: float(np.mean([s["flops"][name] for s in summaries])) for name in names}
