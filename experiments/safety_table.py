"""The safety suite's comparison at equal FLOPs, its verdict and its table."""

import json
import textwrap
from pathlib import Path

import numpy as np

from active_learning.report.runs import total_flops

TEXT = ("arm", "decisions", "labels")


def read(folder: Path, prefix: str = "") -> dict:
    """What the table needs of a run; `prefix` "ema_": of the average of its weights."""
    about, summary = (
        json.loads((folder / name).read_text()) for name in ("config.json", "summary.json")
    )
    final = summary["final"]
    return {
        "arm": about["name"],
        "seed": about["seed"],
        "updates": about["total_steps"],
        "flops": total_flops(summary["flops"]),
        "accuracy": final[f"test_full/{prefix}accuracy"],
        "worst_class": final[f"test_full/{prefix}worst_class"],
        "window": summary["window_steps"] / about["total_steps"],
        "decisions": [f"{d['decision']} at {d['step']}" for d in summary.get("selection", [])],
        "labels": summary.get("labels", {}).get("text", ""),
    }


def at_flops(uniform: list[dict], flops: float, what: str) -> float:
    """Uniform's value at so many FLOPs, linear in their logarithm through its two budgets."""
    short, long = sorted(uniform, key=lambda run: run["flops"])
    slope = (long[what] - short[what]) / np.log(long["flops"] / short["flops"])
    return float(short[what] + slope * np.log(flops / short["flops"]))


def compared(folders: list[Path]) -> list[dict]:
    """One row for each arm and seed: its run, and what it is above uniform at its FLOPs."""
    runs = [read(folder) for folder in folders]
    averages = [
        read(f, "ema_") | {"arm": "uniform + EMA"}
        for f, run in zip(folders, runs, strict=True)
        if run["arm"] == "uniform"
    ]
    rows = []
    for seed in sorted({run["seed"] for run in runs}):
        uniform = [run for run in runs if run["seed"] == seed and run["arm"] == "uniform"]
        if len(uniform) < 2:
            continue
        start = min(run["flops"] for run in uniform)
        for run in runs + averages:
            if run["seed"] != seed or (run["arm"].startswith("uniform") and run["flops"] > start):
                continue
            gaps = {
                f"{what}_gap": run[what] - at_flops(uniform, run["flops"], what)
                for what in ("accuracy", "worst_class")
            }
            rows.append(run | gaps | {"flops": run["flops"] / start})
    return rows


def pooled(cells: dict[str, list[dict]], what: str) -> dict[str, float]:
    """Standard deviation over seeds of `what`, pooled over the arms of all cells of one size.

    Runs that never selected are uniform runs, with a difference of 0 by construction: they are left
    out. A size of which no arm has two seeds is not in the result.
    """
    squares: dict[str, float] = {}
    freedom: dict[str, int] = {}
    for name, rows in cells.items():
        size = size_of(name)
        for arm in {row["arm"] for row in rows}:
            values = np.array([r[what] for r in rows if r["arm"] == arm and r["window"]])
            if len(values) > 1:
                squares[size] = squares.get(size, 0.0) + float(
                    ((values - values.mean()) ** 2).sum()
                )
                freedom[size] = freedom.get(size, 0) + len(values) - 1
    return {size: (squares[size] / freedom[size]) ** 0.5 for size in squares}


def size_of(cell: str) -> str:
    """The last part of a cell's name: how many examples."""
    return cell.rsplit("-", 1)[1]


def mean_and_error(rows: list[dict], what: str, spread: float | None) -> tuple[float, float | None]:
    """Mean over seeds and its standard error; None where there is no deviation to tell it from, 0.0
    where no run selected.
    """
    values = [row[what] for row in rows]
    if not any(row["window"] for row in rows):
        return float(np.mean(values)), 0.0
    return float(np.mean(values)), None if spread is None else spread / len(rows) ** 0.5


def verdict(cells: dict[str, list[dict]]) -> dict:
    """The aims: no harm in any cell, and the tuned recipe's gain where labels are wrong.

    `interval`: the default's mean over seeds, -/+ 1.96 standard errors, by cell; `harmed`: cells in
    which its lower end is below -1 point; `worst_class_harmed`: those in which the worst class's
    accuracy is below uniform's by more than that error.
    """
    out: dict = {"sd_over_seeds": {}, "interval": {}, "harmed": [], "worst_class_harmed": []}
    out["gain"] = {}
    for what in ("accuracy_gap", "worst_class_gap"):
        out["sd_over_seeds"][what] = pooled(cells, what)
    for name, rows in cells.items():
        own = [row for row in rows if row["arm"] == "safe default"]
        tuned = [row["accuracy_gap"] for row in rows if row["arm"] == "tuned recipe"]
        (gap, error), (worst, worst_error) = (
            mean_and_error(own, what, spread.get(size_of(name)))
            for what, spread in out["sd_over_seeds"].items()
        )
        low = gap - 1.96 * (error or 0.0)
        out["interval"][name] = [low, 2 * gap - low]
        if low < -0.01:
            out["harmed"].append(name)
        if worst_error is not None and worst < -1.96 * worst_error:
            out["worst_class_harmed"].append(name)
        if (gain := float(np.mean(tuned))) > 0 and "-0-" not in name:
            out["gain"][name] = {"tuned": gain, "default": gap, "fraction": gap / gain}
    return out


def table(cells: dict[str, list[dict]]) -> str:
    """Markdown: means over seeds, in points at equal total FLOPs."""
    spread = pooled(cells, "accuracy_gap")
    lines = [
        "| cell | arm | seeds | accuracy, % | total FLOPs over uniform's | window, % "
        "| accuracy, points | worst class, points |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, rows in cells.items():
        for arm in dict.fromkeys(row["arm"] for row in rows):
            own = [row for row in rows if row["arm"] == arm]
            mean = {k: float(np.mean([row[k] for row in own])) for k in own[0] if k not in TEXT}
            _, error = mean_and_error(own, "accuracy_gap", spread.get(size_of(name)))
            lines.append(
                f"| {name} | {arm} | {len(own)} | {100 * mean['accuracy']:.1f} | "
                f"{mean['flops']:.2f} | {100 * mean['window']:.0f} | "
                f"{100 * mean['accuracy_gap']:+.1f}{f' ± {100 * error:.1f}' if error else ''} | "
                f"{100 * mean['worst_class_gap']:+.1f} |"
            )
    return "\n".join(lines)


def page(result: dict) -> str:
    """The table, and what is missing in it."""
    cells, missing = result["cells"], result["not_run"]
    count = f"{len(cells)} of {len(cells) + len(missing)} cells were run"
    left = f"; not run: {', '.join(missing)}" if missing else ""
    note = textwrap.fill(f"{count}{left}.", 100, break_on_hyphens=False)
    return f"{table(cells)}\n\n{note}"
