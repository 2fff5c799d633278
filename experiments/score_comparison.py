"""All policies under one ledger: mislabelled CIFAR-10 (no clean label anywhere) and the same on
clean labels, ratio 2.

    python -m experiments.score_comparison --scale=smoke|desk [--workers 2] [--out DIR] [--list]

Same models, data, rates and number of updates for all, T = 1 where a policy samples (nothing is
tuned for any of them); beside them the sharper recipe of configs/cifar10n.py, whose ratio and
temperature were chosen by single runs of another seed on the gate and `tune`. Each policy is
compared with uniform training of the same seed twice: at equal updates, and at equal total FLOPs,
for which uniform is trained at longer budgets too, each with its own decayed schedule, and
interpolated. Rows marked control keep the others honest. RHO with a reference of another size than
the learner is expected to be worst on compute.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import stats

from active_learning.config import freeze
from active_learning.core import policies
from active_learning.metrics import show_log
from active_learning.models import MLP
from active_learning.references import (
    CopyOfOnline,
    CoTrained,
    CrossFitted,
    Reference,
    Trained,
)
from active_learning.report.charts import save_svg
from active_learning.report.runs import total_flops
from active_learning.settings import Config, Evaluate, Log, Select
from configs import cifar10n
from experiments.arms import Arm, run_all, shared_by, show

RESULTS = Path(__file__).parent / "results"
SETTINGS = ("noisy", "clean")
LONGER = (1.25, 1.75, 1.9)  # uniform's other budgets, over the policies'
CLEAN = {"pool": "label", "reference": "label", "gate": "label", "tune": "label"}
SCORED = (
    policies.hard,
    policies.hard_learner,
    policies.easy_reference,
    policies.learnability,
    policies.cautious_learnability,
    policies.rho,
    policies.gradient_norm,
    policies.margin,
    policies.entropy,
    policies.divbs,
    policies.offline_filter,
)


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    steps: int
    reference_steps: int
    seeds: tuple[int, ...]
    more: dict[
        str, tuple[int, ...]
    ]  # by setting: further seeds of uniform and of the recipe, for narrower intervals
    parts: dict[str, int]
    judged: str  # the part that accuracy is of
    every: str  # between two evaluations
    models: dict  # learner and scorer where they are not the config's


TINY = {"learner": MLP(width=64, depth=1), "scorer": MLP(width=16, depth=1)}
WHOLE = {"pool": 27_000, "reference": 18_000, "gate": 2_500, "tune": 2_500}
MORE = {
    "noisy": (303, 304),
    "clean": tuple(range(303, 310)),
}  # five were not enough for 'no harm' on clean labels
SCALES = {
    "smoke": Scale(
        10,
        10,
        (300,),
        {},
        {"pool": 600, "reference": 400, "gate": 100, "tune": 100},
        "tune",
        "50 %",
        TINY,
    ),
    "desk": Scale(400, 1200, (300, 301, 302), MORE, WHOLE, "test", "50 %", {}),
}


def base(scale: Scale, setting: str) -> Config:
    """Uniform training, to which each arm adds its policy."""
    config = freeze(cifar10n.get_config("uniform"))
    labels = CLEAN if setting == "clean" else {}
    return replace(
        config,
        **scale.models,
        total=f"{scale.steps} steps",
        split=replace(config.split, parts=scale.parts, labels=labels),
        reference=Trained(path=f"{setting}", total=f"{scale.reference_steps} steps"),
        evaluate=Evaluate(every=scale.every, sets=(scale.judged,)),
        log=Log(every=scale.every, snapshots=0),
    )


def arms(scale: Scale, setting: str) -> list[Arm]:
    """Uniform, every policy, references that need no held-out data, and the controls."""
    plain = base(scale, setting)

    def arm(name: str, config: Config, budget: float = 1.0, more: bool = False) -> Arm:
        named = replace(
            config,
            name=name,
            baseline=name == "uniform",
            total=f"{round(budget * scale.steps)} steps",
        )
        return Arm(
            named, budget, (*scale.seeds, *scale.more.get(setting, ())) if more else scale.seeds
        )

    def scored(policy, reference: Reference = plain.reference) -> Config:
        gate = "gate" if {"online", "reference"} <= set(policy.needs) else ""
        return replace(
            plain,
            select=Select(policy=policy, ratio=2, score_chunk=128),
            reference=reference,
            evaluate=replace(plain.evaluate, gate=gate),
        )

    learnability, both = policies.learnability, ("pool", "reference")
    crossfitted = scored(
        learnability, plain.reference.as_kind(CrossFitted, path=f"{setting}-folds")
    )
    unused = replace(plain, reference=Trained())
    cautious = scored(policies.cautious_learnability)
    recipe = replace(cautious, select=freeze(cifar10n.get_config()).select)
    return [
        *(arm("uniform", unused, budget, more=budget < max(LONGER)) for budget in (1.0, *LONGER)),
        *(arm(policy.name, scored(policy)) for policy in SCORED),
        arm(
            "cautious_learnability, ratio 4, T 0.5",
            replace(recipe, select=replace(recipe.select, until="100 %")),
        ),
        arm("cautious_learnability, ratio 4, T 0.5, window 60 %", recipe, more=True),
        arm("learnability, co-trained reference", scored(learnability, CoTrained())),
        arm("learnability, cross-fitted references", crossfitted),
        arm("control: scores of 0", scored(learnability, CopyOfOnline())),
        arm(
            "control: uniform on pool + reference part",
            replace(unused, split=replace(plain.split, train_on=both)),
        ),
    ]


def interval(values: Iterable[float]) -> dict[str, float] | None:
    """Mean and 95 % interval by Student's t; None of fewer than two values."""
    values = np.asarray(list(values))
    if len(values) < 2:
        return None
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return {
        "mean": float(values.mean()),
        "low": float(values.mean() - half),
        "high": float(values.mean() + half),
    }


def points(result: dict[str, float] | None) -> str:
    """An interval of shares, in points."""
    if result is None:
        return "-"
    return f"{100 * result['mean']:+.1f} [{100 * result['low']:+.1f}, {100 * result['high']:+.1f}]"


def equal_flops(budgets: list[tuple[float, float]], flops: float) -> float | None:
    """Uniform's accuracy at `flops`, linear between its own budgets (FLOPs, accuracy); None outside
    of them.
    """
    known, accuracy = zip(*sorted(budgets), strict=True)
    return (
        float(np.interp(flops, known, accuracy))
        if known[0] <= flops <= known[-1] * (1 + 1e-9)
        else None
    )


def _at(by_seed: dict[int, list], updates: int) -> dict[int, tuple[int, float, float]]:
    """Of each seed the run of that many updates, where it is complete."""
    return {seed: run for seed, runs in by_seed.items() for run in runs if run[0] == updates}


def compared(
    folders: list[Path], metric: str, updates: int, names: Iterable[str] = ()
) -> list[dict]:
    """One row an arm, in the order of `names`: accuracy, FLOPs over uniform's, and the two paired
    differences, over the seeds that are complete.
    """
    result: dict[str, dict[int, list[tuple[int, float, float]]]] = {name: {} for name in names}
    for folder in folders:
        about, summary = (
            json.loads((folder / name).read_text()) for name in ("config.json", "summary.json")
        )
        of_arm = result.setdefault(about["name"], {}).setdefault(about["seed"], [])
        of_arm.append(
            (about["total_steps"], total_flops(summary["flops"]), summary["final"][metric])
        )
    uniform, rows = result.get("uniform", {}), []
    plain = _at(uniform, updates)
    for name, by_seed in result.items():
        mine = {seed: run for seed, run in _at(by_seed, updates).items() if seed in plain}
        if not mine:
            continue
        at_flops = [
            None
            if (level := equal_flops([run[1:] for run in uniform[seed]], flops)) is None
            else accuracy - level
            for seed, (_, flops, accuracy) in mine.items()
        ]
        accuracies = [run[2] for run in mine.values()]
        rows.append(
            {
                "arm": name,
                "seeds": sorted(mine),
                "accuracy": float(np.mean(accuracies)),
                "sd": float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None,
                "flops": float(np.mean([run[1] / plain[seed][1] for seed, run in mine.items()])),
                "equal_updates": interval(run[2] - plain[seed][2] for seed, run in mine.items()),
                "equal_flops": None if None in at_flops else interval(at_flops),
            }
        )
    return rows


def draw(settings: dict[str, list[dict]], file: Path) -> None:
    """The paired differences of every arm, a panel a setting."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    panels = figure.subplots(1, len(settings), sharey=True, squeeze=False)[0]
    names = [row["arm"] for rows in settings.values() for row in rows if row["arm"] != "uniform"]
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    for axes, (setting, rows) in zip(panels, settings.items(), strict=True):
        for key, colour, shift in (("equal_updates", "C7", -0.15), ("equal_flops", "C0", 0.15)):
            known = [
                (places[row["arm"]] + shift, row[key])
                for row in rows
                if row["arm"] in places and row[key] is not None
            ]
            for place, one in known:
                axes.plot(
                    [100 * one["low"], 100 * one["high"]],
                    [place, place],
                    color=colour,
                    linewidth=1.5,
                )
            at = [100 * one["mean"] for _, one in known], [place for place, _ in known]
            axes.plot(
                *at,
                "o",
                color=colour,
                markersize=5,
                label=f"at {key.replace('_', ' ').replace('flops', 'total FLOPs')}",
            )
        axes.axvline(0, color="black", linewidth=0.8, linestyle=":")
        axes.set_yticks(list(places.values()), list(places))
        axes.set_title(f"{setting} labels")
    panels[0].invert_yaxis()
    figure.supxlabel("accuracy less uniform's, points (95 %, paired by seed)", fontsize="medium")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    save_svg(figure, file)


def keep(settings: dict[str, list[dict]], scale: Scale, folder: Path, name: str) -> None:
    """The result and its figure."""
    folder.mkdir(parents=True, exist_ok=True)
    result = {"updates": scale.steps, "metric": scale.judged, "settings": settings}
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(settings, folder / f"{name}.svg")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="desk")
    parser.add_argument("--out", type=Path, default=Path("runs/score_comparison"))
    parser.add_argument(
        "--list", action="store_true", help="print the arms and their cost, run nothing"
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="processes that share the work, each on its own core"
    )
    args = parser.parse_args()
    show_log()
    scale, name, smoke = SCALES[args.scale], f"score_comparison_{args.scale}", args.scale == "smoke"
    both = {setting: arms(scale, setting) for setting in SETTINGS}
    for todo in both.values():
        show(todo)
    if args.list:
        return
    settings: dict[str, list[dict]] = {}
    done: dict[str, list[Path]] = {setting: [] for setting in SETTINGS}
    with shared_by(args.workers):
        for seed in sorted(
            {seed for todo in both.values() for arm in todo for seed in arm.seeds}
        ):  # both settings have their first seed early
            for setting, todo in both.items():
                packed = None if smoke else RESULTS / name / setting
                now = [replace(arm, seeds=(seed,)) for arm in todo if seed in arm.seeds]
                *_, folders = run_all(now, args.out / args.scale / setting, packed)
                done[setting] += folders
                names = [arm.config.name for arm in todo]
                settings[setting] = compared(
                    done[setting], f"{scale.judged}_full/accuracy", scale.steps, names
                )
                keep(settings, scale, args.out / args.scale if smoke else RESULTS, name)
    for setting, rows in settings.items():
        print(f"{setting} labels")
        for row in rows:
            gaps = f"{points(row['equal_updates']):22s} {points(row['equal_flops'])}"
            print(
                f"  {row['arm']:42s} {100 * row['accuracy']:5.1f} %  {row['flops']:.2f} "
                f"x FLOPs  {gaps}"
            )


if __name__ == "__main__":
    main()
