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
    """The arms beside uniform's full budget, as Markdown; differences are over common seeds.

    Args:
      result: The report of the runs.
      averages: Accuracy of the averaged weights; None: from the packed runs.
    """
    averages = averaged() if averages is None else averages
    heads = ["arm", "updates", "seeds", "accuracy, %", "averaged weights, %"]
    heads += ["difference, points", "reference's own, %", "total FLOPs", "wall-clock time"]
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    baseline = next(arm for arm in result["arms"] if arm["baseline"])
    full = _at(baseline, result["baseline_updates"])
    for arm in result["arms"]:
        name = arm["name"] + measures.VALIDITY_REMARK[arm["valid"]]
        own = arm["reference_accuracy"]
        for budget in arm["budgets"]:
            gap = _gap(budget, full)
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


def summary(result: dict) -> str:
    """The arms with half of uniform's updates, as Markdown: for the README."""
    names = {
        "learnability": "the recipe above",
        "learnability, kernel reference": "the same with a kernel reference",
        "default for own data": "the default for your own data",
    }
    arms = {arm["name"]: arm for arm in result["arms"]}
    baseline = next(arm for arm in result["arms"] if arm["baseline"])
    full = _at(baseline, result["baseline_updates"])
    lines = [
        "| | updates | total FLOPs | time | accuracy | against uniform | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        f"| uniform | {full['updates']:,} | 1 | 1 | {100 * full['final_mean']:.1f} % | - | "
        f"{len(full['seeds'])} |",
    ]
    for name, words in names.items():
        half = _at(arms[name], full["updates"] // 2)
        parts = (half[key] / full[key] for key in ("total_flops", "train_seconds"))
        flops, seconds = (f"{part:.2f}" for part in parts)
        lines.append(
            f"| {words} | {half['updates']:,} | {flops} | {seconds} | "
            f"{100 * half['final_mean']:.1f} % | {100 * _gap(half, full):+.1f} | "
            f"{len(half['seeds'])} |"
        )
    return "\n".join(lines)


def _at(arm: dict, updates: int) -> dict:
    return next(budget for budget in arm["budgets"] if budget["updates"] == updates)


def _gap(budget: dict, full: dict) -> float:
    ours, theirs = (dict(zip(b["seeds"], b["finals"], strict=True)) for b in (budget, full))
    return float(np.mean([ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys()]))
