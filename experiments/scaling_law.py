"""How the error falls with compute: three learner sizes at four budgets, uniform and learnability.

    python -m experiments.scaling_law --scale=smoke|desk [--list] [--out runs/scaling_law]

CIFAR-10 with human labels of which 40 % are wrong, no clean label anywhere, as in experiments/noise
with smaller batches. Every budget has its own decayed schedule, and its own reference, trained for
twice as many updates; the reference's training and all scoring are charged to each run that selects
by it. One scorer serves all learner sizes.

Two power laws are fitted to the final errors of each arm, by least squares in logarithms with
Student's intervals: error against total FLOPs over the runs that no cheaper run of the arm beats,
and error against the learner's FLOPs for an update and the number of updates over all its runs.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import stats

from active_learning.config import freeze
from active_learning.metrics import read_summary, show_log
from active_learning.models import MLP, ViT
from active_learning.report.charts import LIGHT, save_svg
from active_learning.report.runs import total_flops
from active_learning.settings import Config, Evaluate, Log
from configs import cifar10n
from experiments.arms import Arm, run_all, show
from experiments.noise import uniform_of

RESULTS = Path(__file__).parent / "results"
ARMS = ("uniform", "learnability")
# Updates of the reference over those of the run.
REFERENCE = 2


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    learners: dict[str, ViT | MLP]
    steps: tuple[int, ...]
    batch_size: int
    seeds: tuple[int, ...]
    parts: dict[str, int]


SCALES = {
    "smoke": Scale(
        {"width 8": MLP(width=8, depth=1), "width 64": MLP(width=64, depth=1)},
        (4,),
        32,
        (600,),
        {"pool": 600, "reference": 400},
    ),
    "desk": Scale(
        {f"width {w}": ViT(width=w, depth=3, heads=w // 16, patch=8) for w in (48, 80, 128)},
        (100, 200, 400, 800),
        64,
        (600,),
        {"pool": 27_000, "reference": 18_000},
    ),
}


def arms(scale: Scale) -> list[Arm]:
    """Every size and budget of both arms, the cheapest first."""
    config = freeze(cifar10n.get_config())
    full, out = scale.steps[-1], []
    scorer = config.scorer if scale.steps[0] > 50 else MLP(width=8, depth=1)
    for steps in scale.steps:
        for size, learner in scale.learners.items():
            reference = replace(
                config.reference, path=f"{steps}-updates", total=f"{REFERENCE * steps} steps"
            )
            selecting = replace(
                config,
                learner=learner,
                scorer=scorer,
                batch_size=scale.batch_size,
                total=f"{steps} steps",
                split=replace(config.split, parts=scale.parts),
                reference=reference,
                evaluate=Evaluate(every="100 %", subset=1000),
                log=Log(every="10 %", snapshots=0),
            )
            for name, one in zip(ARMS, (uniform_of(selecting), selecting), strict=True):
                named: Config = replace(one, name=f"{name}, {size}", baseline=False)
                out.append(Arm(named, steps / full, scale.seeds))
    return out


def row(folder: Path) -> dict:
    """What one finished run contributes."""
    summary = read_summary(folder)
    about = json.loads((folder / "config.json").read_text())
    assert summary is not None, "finished"
    name, size = about["name"].split(", ")
    return {
        "arm": name,
        "size": size,
        "updates": summary["step"],
        "seed": about["seed"],
        "error": 1.0 - summary["final"]["test_full/accuracy"],
        "total_flops": total_flops(summary["flops"]),
        "learner_flops": summary["flops"]["learner_train"] / summary["step"],
        "reference": (summary["reference"] or {}).get("accuracy"),
    }


def frontier(rows: list[dict]) -> list[dict]:
    """The runs that no run of the same cost or less beats, by cost."""
    kept: list[dict] = []
    for one in sorted(rows, key=lambda r: (r["total_flops"], r["error"])):
        if not kept or one["error"] < kept[-1]["error"]:
            kept.append(one)
    return kept


def power_law(causes: Sequence[Sequence[float]], errors: Sequence[float]) -> dict | None:
    """Fits error = factor * product of causes ** -exponent in logarithms.

    Args:
      causes: One sequence of positive numbers a cause.
      errors: As many positive numbers.

    Returns:
      The factor, the exponents and the halves of their 95 % intervals (Student's, with as many
      degrees of freedom as points are left over); None with no point left over.
    """
    y = np.log(np.asarray(errors, float))
    x = np.column_stack([np.ones(len(y)), *(-np.log(np.asarray(c, float)) for c in causes)])
    free = len(y) - x.shape[1]
    if free < 1 or np.linalg.matrix_rank(x) < x.shape[1]:
        return None
    solution, *_ = np.linalg.lstsq(x, y, rcond=None)
    variance = float(np.sum((y - x @ solution) ** 2)) / free
    deviations = np.sqrt(variance * np.diag(np.linalg.inv(x.T @ x)))
    half = stats.t.ppf(0.975, free) * deviations
    return {
        "factor": float(np.exp(solution[0])),
        "exponents": solution[1:].tolist(),
        "halves": half[1:].tolist(),
        "points": len(y),
    }


def fits(rows: list[dict]) -> dict[str, dict]:
    """Both fits of each arm, and the total FLOPs at which its frontier has uniform's middle error.

    The middle error is the geometric mean of the errors on uniform's frontier.
    """
    out: dict[str, dict] = {}
    best_plain = frontier([r for r in rows if r["arm"] == ARMS[0]])
    middle = float(np.exp(np.mean([np.log(r["error"]) for r in best_plain])))
    for arm in ARMS:
        own = [r for r in rows if r["arm"] == arm]
        best = frontier(own)
        law = power_law([[r["total_flops"] for r in best]], [r["error"] for r in best])
        both = [[r[key] for r in own] for key in ("learner_flops", "updates")]
        out[arm] = {
            "frontier": law,
            "size and updates": power_law(both, [r["error"] for r in own]),
            "middle_error": middle,
            "flops_at_middle": None
            if law is None or not law["exponents"][0]
            else (law["factor"] / middle) ** (1 / law["exponents"][0]),
        }
    return out


def draw(result: dict, file: Path) -> None:
    """Error against total FLOPs, both axes logarithmic; a line joins the budgets of one size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5.0), layout="constrained")
    axes, rows = figure.add_subplot(), result["rows"]
    sizes = list(dict.fromkeys(r["size"] for r in rows))
    for arm, color in zip(ARMS, ("C7", "C1"), strict=True):
        for size, marker in zip(sizes, "o^s", strict=False):
            own = [r for r in rows if (r["arm"], r["size"]) == (arm, size)]
            points = [[r[key] for r in own] for key in ("total_flops", "error")]
            axes.plot(*points, marker=marker, color=color, linewidth=0.8, label=f"{arm}, {size}")
        law = result["fits"][arm]["frontier"]
        if law is not None:
            best = frontier([r for r in rows if r["arm"] == arm])
            ends = np.array([best[0]["total_flops"], best[-1]["total_flops"]])
            fitted = law["factor"] * ends ** -law["exponents"][0]
            axes.plot(ends, fitted, color=color, linestyle="--", linewidth=2.0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("total FLOPs, scoring and the reference's training included")
    axes.set_ylabel("error on the clean test set")
    axes.grid(True, which="both", color=LIGHT["grid"], linewidth=0.5)
    axes.legend(fontsize=8, frameon=False)
    save_svg(figure, file)


def table(result: dict) -> str:
    """Markdown: every run, then the fits."""
    rows = result["rows"]
    lines = [
        "| learner | updates | uniform's error, % | learnability's error, % "
        "| reference's own error, % | total FLOPs over uniform's |",
        f"|{' --- |' * 6}",
    ]
    by = {(r["size"], r["updates"], r["arm"]): r for r in rows}
    for size, updates in dict.fromkeys((r["size"], r["updates"]) for r in rows):
        plain, ours = (by.get((size, updates, arm)) for arm in ARMS)
        if plain is None or ours is None:
            continue
        own = "-" if ours["reference"] is None else f"{100 * (1 - ours['reference']):.1f}"
        lines.append(
            f"| {size} | {updates:,} | {100 * plain['error']:.1f} | {100 * ours['error']:.1f} "
            f"| {own} | {ours['total_flops'] / plain['total_flops']:.2f} |"
        )
    middle = result["fits"]["uniform"]["middle_error"]
    lines += [
        "",
        "| arm | exponent of total FLOPs on the frontier | of the learner's size | of the updates "
        f"| FLOPs to reach {middle:.1%} error |",
        f"|{' --- |' * 5}",
    ]
    for arm, fit in result["fits"].items():
        first, both = _exponents(fit["frontier"]), _exponents(fit["size and updates"])
        flops = fit["flops_at_middle"]
        cells = [arm, *(first or ["-"]), *(both or ["-", "-"])]
        lines.append(f"| {' | '.join([*cells, '-' if flops is None else f'{flops:.2e}'])} |")
    return "\n".join(lines)


def _exponents(law: dict | None) -> list[str]:
    if law is None:
        return []
    return [f"{e:.3f} ± {h:.3f}" for e, h in zip(law["exponents"], law["halves"], strict=True)]


def main() -> None:
    """Runs what is missing, and writes the result after each seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="desk")
    parser.add_argument("--out", type=Path, default=Path("runs/scaling_law"))
    parser.add_argument("--list", action="store_true", help="print the arms, run nothing")
    args = parser.parse_args()
    show_log()
    scale, smoke = SCALES[args.scale], args.scale == "smoke"
    every, name = arms(scale), f"scaling_law_{args.scale}"
    show(every)
    if args.list:
        return
    out = args.out / args.scale
    folder = out if smoke else RESULTS
    for folders in run_all(every, out, None if smoke else RESULTS / name):
        rows = sorted(map(row, folders), key=lambda r: (r["learner_flops"], r["updates"]))
        result = {"rows": rows, "fits": fits(rows)}
        (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        draw(result, folder / f"{name}.svg")
    print(table(result))


if __name__ == "__main__":
    main()
