"""The headline: CIFAR-10 with human labels of which 40 % are wrong; who reaches plain training's
accuracy with how much less?

    python -m experiments.noise --scale=smoke|desk|gpu [--phase final|tune] [--workers 2]
    python -m experiments.noise --scale=long [--list] [--done]    # four times the updates
    python -m experiments.noise --scale=desk --times    # on a quiet machine: times of one update

Setting (i): no clean label anywhere: pool, reference part, gate and tune carry the human labels
`worse`. Setting (ii): reference part, gate and tune are clean. Choices read `tune` and the gate
only, on other seeds (phase `tune`: 0 and 1); the final arms read the test set on seeds nobody had
used. At the scale `long` all arms keep an average of their weights (`ema`), and filtering first and
InfoBatch stand beside the recipe and the default of configs for own data.
"""

import argparse
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from active_learning.config import freeze
from active_learning.core import policies
from active_learning.metrics import show_log
from active_learning.models import MLP
from active_learning.references import CopyOfOnline, CrossFitted, Kernel, Trained
from active_learning.report.__main__ import write
from active_learning.settings import Config, Evaluate, Log, Select
from configs import arrays, cifar10n
from experiments.arms import Arm, done, run_all, shared_by, show
from experiments.step_times import step_seconds

RESULTS = Path(__file__).parent / "results"
DOCS = RESULTS.parents[1] / "docs"
TITLE = "Mislabelled CIFAR-10: uniform training and learnability selection"
YARDSTICK = "yardstick: uniform on clean labels"
# Fitted to the same examples as the reference that is trained.
KERNEL = Kernel(part="reference", size="medium")
CLEAN = {"reference": "label", "gate": "label", "tune": "label"}


@dataclass(frozen=True)
class Scale:
    """How much of everything.

    `deciding`: the budget at which the headline is expected to reach uniform's full budget.
    """

    steps: int
    reference_steps: int
    budgets: tuple[float, ...]
    deciding: float
    equal_flops: float
    equal_seconds: float
    seeds: tuple[int, ...]
    headline_seeds: tuple[int, ...]


SCALES = {
    "smoke": Scale(30, 40, (0.5, 1.0), 0.5, 0.6, 0.7, (200,), (200, 201)),
    "desk": Scale(
        2400,
        5000,
        (0.25, 0.33, 0.4, 0.5, 0.55, 0.65, 1.0),
        0.5,
        0.66,
        0.85,
        (210, 211, 212),
        (210, 211, 212, 213, 214),
    ),
    "long": Scale(
        9600, 12_000, (0.4, 0.5, 0.65, 0.8), 0.65, 0.8, 0.9, (220, 221, 222), (220, 221, 222)
    ),
    "gpu": Scale(
        20_000,
        30_000,
        (0.25, 0.33, 0.4, 0.5, 0.65, 1.0),
        0.4,
        0.5,
        0.55,
        (200, 201, 202),
        (200, 201, 202, 203, 204),
    ),
}


def base(scale: Scale) -> Config:
    """The headline arm of setting (i) at its full budget, before names, budgets and seeds."""
    config = freeze(cifar10n.get_config())
    small = (
        {"parts": {"pool": 600, "reference": 400, "gate": 100, "tune": 100}}
        if scale.steps < 100
        else {}
    )
    models = {"learner": MLP(width=64, depth=1), "scorer": MLP(width=16, depth=1)} if small else {}
    return replace(
        config,
        **models,
        total=f"{scale.steps} steps",
        split=replace(config.split, **small),
        reference=replace(config.reference, path="worse", total=f"{scale.reference_steps} steps"),
        log=Log(every="2 %", snapshots=10),
    )


def arm(config: Config, name: str, budget: float, seeds: tuple[int, ...], scale: Scale) -> Arm:
    steps = round(scale.steps * budget)
    return Arm(replace(config, name=name, total=f"{steps} steps"), budget, seeds)


def uniform_of(config: Config, **split) -> Config:
    """Plain training on other parts or labels; nothing else differs."""
    return replace(
        config,
        select=Select(),
        reference=Trained(),
        split=replace(config.split, **split),
        evaluate=replace(config.evaluate, gate=""),
    )


def controls(config: Config) -> dict[str, Config]:
    """What keeps the headline honest, each by its name in the table."""
    whole = replace(config.select, until="100 %")
    untrained = replace(
        config.reference, total="0 steps", path=f"{config.reference.path}-untrained"
    )
    return {
        "learnability, no window": replace(config, select=whole),
        # The paper's score, in which the reference's weight is 1: online minus online is 0.
        "control: scores of 0": replace(
            config,
            select=replace(whole, policy=policies.learnability),
            reference=CopyOfOnline(),
        ),
        "control: untrained reference": replace(config, reference=untrained),
        "control: uniform on pool + reference part": uniform_of(
            config, train_on=("pool", "reference")
        ),
        YARDSTICK: uniform_of(config, labels={"pool": "label"}),
    }


def final_arms(scale: Scale) -> list[Arm]:
    """Every arm of both settings, headline first."""
    noisy, s = base(scale), scale
    uniform = replace(uniform_of(noisy), baseline=True)
    on_reference = uniform_of(noisy, train_on=("reference",))
    arms = [
        arm(uniform, "uniform", 1.0, s.headline_seeds, s),
        arm(noisy, "learnability", s.deciding, s.headline_seeds, s),
    ]
    arms += [arm(noisy, "learnability", 1.0, s.headline_seeds, s)]
    # A budget far from the deciding one shows the shape of the curve and needs one seed.
    others = [b for b in s.budgets if b not in (s.deciding, 1.0)]
    arms += [
        arm(noisy, "learnability", b, s.seeds if abs(b - s.deciding) < 0.11 else s.seeds[:1], s)
        for b in others
    ]
    ahead = replace(noisy, select=replace(noisy.select, schedule="ahead"))
    arms += [arm(ahead, "learnability, chosen one update ahead", s.deciding, s.seeds, s)]
    arms += [
        arm(uniform, "uniform", b, s.seeds, s)
        for b in sorted({s.deciding, s.equal_flops, s.equal_seconds})
    ]
    name = "control: uniform on the reference's data"
    arms += [
        arm(on_reference, name, b, s.seeds if b in (s.deciding, 1.0) else s.seeds[:1], s)
        for b in s.budgets
    ]
    arms += [arm(config, name, 1.0, s.seeds, s) for name, config in controls(noisy).items()]
    # What a perfect filter of labels would reach in so few updates.
    arms += [arm(controls(noisy)[YARDSTICK], YARDSTICK, 0.4, s.seeds, s)]
    clean = replace(
        noisy,
        split=replace(noisy.split, labels=CLEAN),
        reference=replace(noisy.reference, path="clean"),
    )
    on_clean = uniform_of(noisy, train_on=("reference",), labels=CLEAN)
    arms += [arm(clean, "(ii) learnability, clean reference", 1.0, s.seeds, s)]
    arms += [arm(on_clean, "(ii) control: uniform on the reference's clean data", 1.0, s.seeds, s)]
    return arms


def long_arms(scale: Scale) -> list[Arm]:
    """Setting (i) over a longer horizon, with strong controls; one seed where it cannot decide."""
    noisy = replace(base(scale), ema="2 %", log=Log(every="2 %", snapshots=0))
    uniform, shipped = replace(uniform_of(noisy), baseline=True), freeze(arrays.get_config())
    default = replace(noisy, select=shipped.select, reference=shipped.reference)
    by_kernel = replace(noisy, reference=KERNEL)
    filtered = replace(
        noisy,
        select=Select(policy=policies.offline_filter),
        reference=CrossFitted(total=f"{scale.reference_steps // 2} steps"),
    )
    on_reference = uniform_of(noisy, train_on=("reference",))
    pruned = replace(uniform, baseline=False, select=Select(policy=policies.infobatch))
    s, one = scale.seeds, scale.seeds[:1]
    few, half, deciding, most = scale.budgets

    def selecting(budget: float, config: Config = noisy, name: str = "learnability") -> Arm:
        return arm(config, name, budget, s, scale)

    kernel = "learnability, kernel reference"

    return [  # What decides first.
        arm(uniform, "uniform", 1.0, s, scale),
        selecting(half, by_kernel, kernel),
        selecting(few, by_kernel, kernel),
        selecting(half),
        selecting(half, default, "default for own data"),
        selecting(few, default, "default for own data"),
        arm(on_reference, "control: uniform on the reference's data", 1.0, one, scale),
        arm(uniform, "uniform", half, one, scale),
        selecting(deciding),
        arm(filtered, "filter first", deciding, s, scale),
        arm(pruned, "InfoBatch", half, one, scale),
        arm(uniform, "uniform", scale.equal_flops, one, scale),
        selecting(most),
        selecting(few),
    ]


def tune_arms(scale: Scale) -> list[Arm]:
    """What the window and uniform's rate were chosen on, evaluated on `tune` only: windows, fixed
    and `auto`, and three rates.
    """
    noisy = replace(base(scale), evaluate=Evaluate(sets=("tune",), subset=2500, gate="gate"))
    plain, arms = replace(uniform_of(noisy), baseline=True), []
    for until in ("25 %", "40 %", "60 %", "80 %", "100 %", "auto"):
        window = replace(noisy, select=replace(noisy.select, until=until))
        arms.append(arm(window, f"learnability, until {until}", scale.deciding, (0, 1), scale))
    for rate in (5e-4, 1e-3, 2e-3):
        optim = replace(noisy.optim, learning_rate=rate)
        arms.append(arm(replace(plain, optim=optim), f"uniform, rate {rate:g}", 1.0, (0,), scale))
    return arms


def keep(page: Path, name: str) -> None:
    """The result and, of the final arms, the figure, where README.md and docs/ find them."""
    shutil.copyfile(page / "report.json", RESULTS / f"{name}.json")
    if name.endswith("final"):
        shutil.copyfile(page / "figure.png", DOCS / f"{name}.png")


def run(arms: list[Arm], out: Path, name: str, times: Path, only_done: bool = False) -> Path:
    """Runs the arms, but for `only_done`, and writes the page after each seed; the last's folder.

    The step times are those of the final arms' ratio.
    """
    smoke, tune = "smoke" in name, name.endswith("tune")
    metric = "tune/accuracy" if tune else "test/accuracy"
    seconds = json.loads(times.read_text()) if times.exists() and not tune else None
    finished = (
        [done(arms, out, RESULTS / name)]
        if only_done
        else run_all(arms, out, None if smoke else RESULTS / name)
    )
    for folders in finished:
        page = write(folders, out / "report", metric, TITLE, seconds)
        if not smoke:
            keep(page, name)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="desk")
    parser.add_argument("--phase", choices=("final", "tune"), default="final")
    parser.add_argument("--out", type=Path, default=Path("runs/noise"))
    parser.add_argument(
        "--list", action="store_true", help="print the arms and their cost, run nothing"
    )
    parser.add_argument(
        "--done", action="store_true", help="tables of what is complete so far, run nothing"
    )
    parser.add_argument(
        "--times",
        action="store_true",
        help="measure the seconds of each kind of update, run nothing",
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="processes that share the work, each on its own core"
    )
    args = parser.parse_args()
    show_log()
    scale, name = SCALES[args.scale], f"noise_{args.scale}"
    times = RESULTS / f"{name}_step_times.json"
    if args.times:
        seconds = step_seconds(base(scale), kernel=KERNEL if args.scale == "long" else None)
        times.write_text(json.dumps(seconds, indent=1) + "\n")
        return
    final = long_arms if args.scale == "long" else final_arms
    arms = (final if args.phase == "final" else tune_arms)(scale)
    show(arms)
    if args.list:
        return
    with shared_by(args.workers):
        out = args.out / args.scale / args.phase
        page = run(arms, out, f"{name}_{args.phase}", times, only_done=args.done)
    print((page / "table.md").read_text())
    print(page / "index.html")


if __name__ == "__main__":
    main()
