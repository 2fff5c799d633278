"""The safety suite's comparison at equal FLOPs, its verdict and its table."""

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from active_learning.report.runs import total_flops

TEXT = ("arm", "decisions", "labels")
DEFAULT, TUNED, AVERAGED = "safe default", "tuned recipe", "uniform + EMA"


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
        read(f, "ema_") | {"arm": AVERAGED}
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


@dataclass(frozen=True)
class Spread:
    """A standard deviation over seeds, and the degrees of freedom that it was estimated with."""

    deviation: float
    freedom: int

    def error(self, count: int) -> float:
        """The standard error of a mean over so many seeds."""
        return self.deviation / count**0.5

    def half_width(self, count: int) -> float:
        """Half of the 95 % interval of that mean."""
        return float(student.ppf(0.975, self.freedom)) * self.error(count)


def spreads(cells: dict[str, list[dict]], what: str) -> dict[tuple[str, str], Spread]:
    """Spread of `what` by arm and kind of cell, pooled over the cells of that kind.

    Left out are uniform training itself and, in cells in which it never selected, the default: its
    runs are then those of uniform training.
    """
    squares: dict[tuple[str, str], float] = {}
    freedom: dict[tuple[str, str], int] = {}
    for name, rows in cells.items():
        for arm, own in by_arm(rows).items():
            if len(own) < 2 or not _varies(own):
                continue
            values, key = np.array([row[what] for row in own]), (arm, kind_of(name))
            squares[key] = squares.get(key, 0.0) + float(((values - values.mean()) ** 2).sum())
            freedom[key] = freedom.get(key, 0) + len(values) - 1
    return {key: Spread((squares[key] / freedom[key]) ** 0.5, freedom[key]) for key in squares}


def by_arm(rows: list[dict]) -> dict[str, list[dict]]:
    """The runs of each arm."""
    return {
        arm: [row for row in rows if row["arm"] == arm]
        for arm in dict.fromkeys(row["arm"] for row in rows)
    }


def kind_of(cell: str) -> str:
    """Shape and size, the end of a cell's name."""
    shape = "long-tailed" if "-long-tailed-" in cell else "balanced"
    return f"{shape}-{cell.rsplit('-', 1)[1]}"


def _varies(rows: list[dict]) -> bool:
    return rows[0]["arm"] == AVERAGED or any(row["window"] for row in rows)


def _mean(rows: list[dict], what: str) -> float:
    return float(np.mean([row[what] for row in rows]))


def verdict(cells: dict[str, list[dict]]) -> dict:
    """The aims: no harm in any cell, and the tuned recipe's gain where labels are wrong.

    `interval`: the default's mean over seeds and its 95 % interval by cell, None where no deviation
    is known; `harmed`: cells in which the lower end, or else the mean, is below -1 point;
    `worst_class_harmed`: those in which the worst class's accuracy is below uniform's by more than
    its interval; `gain`: cells with wrong labels in which the tuned recipe gains, over the seeds
    that both have.
    """
    accuracy, worst = (spreads(cells, f"{what}_gap") for what in ("accuracy", "worst_class"))
    out: dict = {"interval": {}, "harmed": [], "worst_class_harmed": [], "gain": {}}
    for name, rows in cells.items():
        arms, key = by_arm(rows), (DEFAULT, kind_of(name))
        own, tuned = arms[DEFAULT], arms[TUNED]
        mean, low = _mean(own, "accuracy_gap"), None
        if key in accuracy and _varies(own):
            low = mean - accuracy[key].half_width(len(own))
        out["interval"][name] = [mean, low, None if low is None else 2 * mean - low]
        if (mean if low is None else low) < -0.01:
            out["harmed"].append(name)
        known = key in worst and _varies(own)
        if known and _mean(own, "worst_class_gap") < -worst[key].half_width(len(own)):
            out["worst_class_harmed"].append(name)
        shared = {row["seed"] for row in own} & {row["seed"] for row in tuned}
        default, gain = (
            _mean([row for row in some if row["seed"] in shared], "accuracy_gap")
            for some in (own, tuned)
        )
        if gain > 0 and "-0-" not in name:
            out["gain"][name] = {"tuned": gain, "default": default, "fraction": default / gain}
    return out


def table(cells: dict[str, list[dict]]) -> str:
    """Markdown: means over seeds and standard errors, in points at equal total FLOPs."""
    accuracy = spreads(cells, "accuracy_gap")
    lines = [
        "| cell | arm | seeds | accuracy, % | total FLOPs over uniform's | window, % "
        "| accuracy, points | worst class, points |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, rows in cells.items():
        for arm, own in by_arm(rows).items():
            mean = {key: _mean(own, key) for key in own[0] if key not in TEXT}
            spread = accuracy.get((arm, kind_of(name))) if _varies(own) else None
            error = "" if spread is None else f" ± {100 * spread.error(len(own)):.1f}"
            lines.append(
                f"| {name} | {arm} | {len(own)} | {100 * mean['accuracy']:.1f} | "
                f"{mean['flops']:.2f} | {100 * mean['window']:.0f} | "
                f"{100 * mean['accuracy_gap']:+.1f}{error} | "
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
