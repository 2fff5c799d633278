"""The table of `noise --scale=long`: accuracy with and without averaged weights, and costs."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from active_learning.report import measures
from experiments.arms import packed_files

PACKS = Path(__file__).parent / "results" / "noise_long_final"


def averaged(packs: Path = PACKS) -> dict[tuple[str, int], float]:
    """Mean accuracy of the averaged weights (`ema`) by arm and number of updates."""
    found = defaultdict(list)
    for path in sorted(packs.glob("*.json.gz")):
        files = packed_files(path)
        about, final = json.loads(files["config.json"]), json.loads(files["summary.json"])["final"]
        found[about["name"], about["total_steps"]].append(final["test_full/ema_accuracy"])
    return {key: float(np.mean(values)) for key, values in found.items()}


def long(result: dict, averages: dict[tuple[str, int], float] | None = None) -> str:
    """The arms beside uniform's full budget, as Markdown.

    Args:
      result: The report of the runs.
      averages: Accuracy of the averaged weights; None: from the packed runs.
    """
    averages = averaged() if averages is None else averages
    heads = ["arm", "updates", "seeds", "accuracy, %", "averaged weights, %"]
    heads += ["difference, points", "reference's own, %", "total FLOPs", "wall-clock time"]
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    baseline = next(arm for arm in result["arms"] if arm["baseline"])
    full = next(b for b in baseline["budgets"] if b["updates"] == result["baseline_updates"])
    for arm in result["arms"]:
        name = arm["name"] + measures.VALIDITY_REMARK[arm["valid"]]
        own = arm["reference_accuracy"]
        for budget in arm["budgets"]:
            gap = budget["final_mean"] - full["final_mean"]
            cells = [name, f"{budget['updates']:,}", str(len(budget["seeds"]))]
            cells += [f"{100 * budget['final_mean']:.1f}"]
            cells += [f"{100 * averages[arm['name'], budget['updates']]:.1f}"]
            cells += ["-" if budget is full else f"{100 * gap:+.1f}"]
            cells += ["-" if own is None else f"{100 * own:.1f}"]
            for key in ("total_flops", "train_seconds"):  # no time where none was measured
                known = budget[key] is not None
                cells.append(f"{budget[key] / full[key]:.2f}" if known else "-")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
