"""All policies under one ledger: mislabelled CIFAR-10 (no clean label anywhere) and the same on clean labels, ratio 2.

    python -m experiments.score_comparison --scale=smoke|desk [--setting noisy|clean] [--out runs/score_comparison] [--list]

Same models, data, rates and number of updates for all, T = 1 where a policy samples (nothing is tuned for any of them). Judged by accuracy
and by total FLOPs: a policy that the learner scores pays for it. Rows marked control keep the others honest. RHO with a reference of another
size than the learner is expected to be worst on compute.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from active_learning import policies
from active_learning.config import freeze
from active_learning.metrics import show_log
from active_learning.models import MLP
from active_learning.report.__main__ import write
from active_learning.settings import Config, Evaluate, Log, Reference, Select
from configs import cifar10n
from experiments.arms import Arm, run_all, show
from experiments.noise import keep

CLEAN = {"pool": "label", "reference": "label", "gate": "label", "tune": "label"}
SCORED = (
    policies.hard, policies.hard_learner, policies.easy_reference, policies.learnability, policies.cautious_learnability, policies.rho,
    policies.gradient_norm, policies.margin, policies.entropy, policies.divbs, policies.offline_filter,
)  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    steps: int
    reference_steps: int
    seeds: tuple[int, ...]
    parts: dict[str, int]
    judged: str  # the part that accuracy is of
    every: str  # between two evaluations
    models: dict  # learner and scorer where they are not the config's


TINY = {"learner": MLP(width=64, depth=1), "scorer": MLP(width=16, depth=1)}
WHOLE = {"pool": 27_000, "reference": 18_000, "gate": 2_500, "tune": 2_500}
SCALES = {
    "smoke": Scale(10, 10, (300,), {"pool": 600, "reference": 400, "gate": 100, "tune": 100}, "tune", "50 %", TINY),
    "desk": Scale(600, 1200, (300, 301, 302), WHOLE, "test", "4 %", {}),
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
        reference=Reference(path=f"{setting}", total=f"{scale.reference_steps} steps"),
        evaluate=Evaluate(every=scale.every, sets=(scale.judged,)),
        log=Log(every=scale.every, probes=0),
    )


def arms(scale: Scale, setting: str) -> list[Arm]:
    """Uniform, every policy, the kinds of reference that need no held-out data, and the control."""
    plain = base(scale, setting)

    def arm(name: str, config: Config) -> Arm:
        return Arm(replace(config, name=name, baseline=name == "uniform"), 1.0, scale.seeds)

    def scored(policy, **reference) -> Config:
        gate = "gate" if {"online", "reference"} <= set(policy.needs) else ""
        return replace(
            plain,
            select=Select(policy=policy, ratio=2, chunk=128),
            reference=replace(plain.reference, **reference),
            evaluate=replace(plain.evaluate, gate=gate),
        )

    learnability, both = policies.learnability, ("pool", "reference")
    crossfitted = scored(learnability, kind="crossfitted", path=f"{setting}-folds")
    unused = replace(plain, reference=Reference())
    return [
        arm("uniform", unused),
        *(arm(policy.name, scored(policy)) for policy in SCORED),
        arm("learnability, co-trained reference", scored(learnability, kind="cotrained", path="")),
        arm("learnability, cross-fitted references", crossfitted),
        arm("control: scores of 0", scored(learnability, kind="online", path="")),
        arm("control: uniform on pool + reference part", replace(unused, split=replace(plain.split, train_on=both))),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="desk")
    parser.add_argument("--setting", choices=("noisy", "clean"), action="append")
    parser.add_argument("--out", type=Path, default=Path("runs/score_comparison"))
    parser.add_argument("--list", action="store_true", help="print the arms and their cost, run nothing")
    args = parser.parse_args()
    show_log()
    scale = SCALES[args.scale]
    for setting in args.setting or ("noisy", "clean"):
        todo = arms(scale, setting)
        show(todo)
        if args.list:
            continue
        out = args.out / args.scale / setting
        for folders in run_all(todo, out):
            page = write(folders, out / "report", f"{scale.judged}/accuracy", f"Policies at ratio 2, {setting} labels")
            if args.scale != "smoke":
                keep(page, f"score_comparison_{args.scale}_{setting}")
        print((page / "table.md").read_text())
        print(page / "index.html")


if __name__ == "__main__":
    main()
