"""Fine-tuning a published ViT on human labels of which 41 % are wrong: who gains, at equal cost?

    python -m experiments.finetune --scale=smoke|desk [--phase tune] [--out runs/finetune]

First the ViT is pretrained here and exported in timm's layout (experiments/finetune_data.py), then
fine-tuned as configs/finetune.py does it. All arms train on the same pool; references are
cross-fitted on it, so no example is held out for them. Each arm runs for as many updates as cost
uniform's total FLOPs, its wall-clock, and half of its wall-clock, with everything charged: scorers,
references, and the pass that stores features. Seconds are numbers of updates times the time of one,
measured in turns in one process. The same command goes on where it was stopped.

Phase `tune` judges four learning rates of uniform training on the part `tune`; the final arms use
the best of them on other seeds, and read the test set once.
"""

import argparse
import dataclasses
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from active_learning import distributed
from active_learning.config import freeze
from active_learning.core import policies
from active_learning.cost import ledger
from active_learning.data.sources.arrays import Arrays
from active_learning.metrics import show_log
from active_learning.models import OnFeatures, ViT
from active_learning.references import CrossFitted
from active_learning.settings import Config, Evaluate, Log, Optim, Select, Split
from active_learning.train.build import Experiment, build
from active_learning.train.feature_pass import Bill, with_features
from configs import finetune
from experiments.arms import Arm, run_all
from experiments.finetune_data import pretrain, write_data
from experiments.step_times import in_turns, stepper

RESULTS = Path(__file__).parent / "results"
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
SMALL, HEADS = "learnability, small scorer", "learnability, heads on stored features"
FILTER = "filter first, by cross-fitted heads"
# Kept by the filter: the true fraction of right labels, which a curator would have to estimate.
KEPT = 0.6
# Difference between two budgets, as a fraction of the updates, below which they share a run.
SAME = 0.05


@dataclass(frozen=True)
class Scale:
    """How much of everything.

    `least`: updates of the shortest run.
    """

    pretraining: int
    steps: int
    least: int
    batch_size: int
    reference: str
    seeds: tuple[int, ...]
    parts: dict[str, int]


SCALES = {
    "smoke": Scale(8, 20, 10, 16, "8 steps", (500,), {"pool": 600, "tune": 200}),
    "desk": Scale(2400, 400, 10, 64, "10 epochs", (510, 511, 512), {"pool": 8_000, "tune": 1_000}),
}


def best_rate(file: Path) -> float:
    """Uniform's best rate on `tune`, the middle one where that phase has not been run."""
    if not file.exists():
        return sorted(RATES)[len(RATES) // 2]
    result = json.loads(file.read_text())
    return float(max(result, key=lambda rate: result[rate]["tune_full/accuracy"]))


def base(scale: Scale, out: Path, published: Path, rate: float) -> Config:
    """Uniform fine-tuning as in configs/finetune.py, on these data."""
    config = freeze(finetune.get_config("uniform"))
    _, data = write_data(out, scale.steps < 100)
    return replace(
        config,
        data=Arrays(
            path=str(data), name="half of CIFAR-10N", label="label_worse", clean_label="label"
        ),
        split=Split(parts=scale.parts),
        learner=replace(config.learner, path=str(published)),
        scorer=ViT(width=32, depth=2, heads=1, patch=8),
        batch_size=scale.batch_size,
        total=f"{scale.steps} steps",
        optim=replace(config.optim, learning_rate=rate),
        ema="10 %",
        evaluate=Evaluate(every="20 %", subset=1000, sets=("test",)),
        log=Log(every="10 %", snapshots=0),
    )


def methods(plain: Config, scale: Scale, out: Path) -> dict[str, Config]:
    """Every arm but uniform, by name, before budgets and seeds."""
    select = Select(policy=policies.cautious_learnability, ratio=4, temperature=0.5, until="60 %")
    reference = CrossFitted(
        total=scale.reference, batch_size=scale.batch_size, optim=Optim(learning_rate=2e-3)
    )
    small = replace(plain, select=select, reference=reference, baseline=False)
    heads = replace(small, scorer=OnFeatures(store=str(out / "features")))
    kept = replace(policies.offline_filter, pool_fraction=KEPT)
    return {
        SMALL: small,
        HEADS: heads,
        FILTER: replace(heads, select=Select(policy=kept)),
    }


def _with_data(config: Config) -> tuple[Experiment, Bill]:
    joined = with_features(build(config))
    assert joined is not None, "nobody asked to stop"
    return joined


def step_seconds(plain: Config, arms: dict[str, Config], rounds: int, updates: int) -> dict:
    """Median seconds of an update of each kind, in turns, and of the feature pass."""
    kinds = {"uniform": (plain, False)}
    for name in (SMALL, HEADS):
        own = arms[name].reference.own_runs(arms[name])["fold0"]
        kinds |= {name: (arms[name], True), f"{name}: reference": (own, False)}
    steppers = {
        name: stepper(_with_data(config)[0], active) for name, (config, active) in kinds.items()
    }
    _, bill = _with_data(arms[HEADS])
    return in_turns(steppers, rounds, updates) | {"feature pass": bill.seconds}


@dataclass(frozen=True)
class Cost:
    """What an arm costs: once, and for each update on average over its run."""

    once: float
    update: float

    def of(self, steps: int) -> float:
        """A whole run of so many updates."""
        return self.once + steps * self.update

    def steps_for(self, budget: float, least: int) -> int:
        """Updates that cost a budget, at least so many."""
        return max(least, round((budget - self.once) / self.update))


def costs_of(name: str, config: Config, seconds: dict[str, float]) -> tuple[Cost, Cost]:
    """FLOPs and seconds of an arm, everything charged."""
    experiment, bill = _with_data(config)
    window = experiment.steps.window / experiment.steps.total
    active, plain = (ledger.total(dict(c)) for c in (experiment.costs, experiment.uniform_costs))
    flops, time_ = bill.flops, seconds["feature pass"] if bill.flops else 0.0
    if config.select.policy.reads_reference:
        scorer = HEADS if name == FILTER else name
        for run in config.reference.own_runs(config).values():
            own = build(run)
            flops += own.steps.total * ledger.total(dict(own.uniform_costs))
            time_ += own.steps.total * seconds[f"{scorer}: reference"]
    if config.select.policy.pool_fraction < 1:
        flops += len(experiment.data.train) * experiment.scorer.cost((0, 0, 0)).forward
    update = seconds["uniform"] * (1 - window)
    update += seconds[name] * window if window else 0.0
    return Cost(flops, window * active + (1 - window) * plain), Cost(time_, update)


def final_arms(
    plain: Config, arms: dict[str, Config], scale: Scale, seconds: dict
) -> Iterator[tuple[str, Arm, Cost]]:
    """(budget's name, arm, its seconds) of every run; uniform whole and halved."""
    flops, clock = costs_of("uniform", plain, seconds)
    uniform = replace(plain, name="uniform", baseline=True)
    half = replace(uniform, total=f"{scale.steps // 2} steps")
    yield "full", Arm(uniform, 1.0, scale.seeds), clock
    yield "half the wall-clock", Arm(half, 0.5, scale.seeds), clock
    for name, config in arms.items():
        cost, time_ = costs_of(name, config, seconds)
        steps = {
            "equal total FLOPs": cost.steps_for(flops.of(scale.steps), scale.least),
            "equal wall-clock": time_.steps_for(clock.of(scale.steps), scale.least),
            "half the wall-clock": time_.steps_for(clock.of(scale.steps) / 2, scale.least),
        }
        flops_steps, clock_steps = steps["equal total FLOPs"], steps["equal wall-clock"]
        if abs(flops_steps - clock_steps) < SAME * clock_steps:  # One run stands for both.
            steps = {
                "equal total FLOPs and wall-clock": min(flops_steps, clock_steps),
                "half the wall-clock": steps["half the wall-clock"],
            }
        for budget, count in steps.items():
            run = replace(config, name=name, total=f"{count} steps")
            yield budget, Arm(run, count / scale.steps, scale.seeds), time_


def rows_of(runs: list[tuple[str, Arm, Cost]], folders: list[Path], out: Path) -> list[dict]:
    """One row an arm and budget, from the finished run folders."""
    finished, rows = {folder.name: folder for folder in folders}, []
    for budget, arm, clock in runs:
        own = [folder for _, folder in arm.runs(out) if folder.name in finished]
        read = [json.loads((folder / "summary.json").read_text()) for folder in own]
        if not read:
            continue
        steps = read[0]["step"]
        rows.append(
            {
                "arm": arm.config.name,
                "budget": budget,
                "updates": steps,
                "total_flops": statistics.fmean(ledger.total(s["flops"]) for s in read),
                "seconds": clock.of(steps),
                "measured_seconds": [s["train_seconds"] for s in read],
                "seeds": [int(folder.name.split("seed")[1].split("-")[0]) for folder in own],
                "accuracy": [s["final"]["test_full/accuracy"] for s in read],
                "ema_accuracy": [s["final"]["test_full/ema_accuracy"] for s in read],
                "reference": (read[0]["reference"] or {}).get("accuracy"),
            }
        )
    return rows


def tune(plain: Config, scale: Scale, out: Path) -> dict[str, dict[str, float]]:
    """Final accuracies of uniform training at half of the budget, on `tune`, by the rate."""
    judged = replace(plain.evaluate, sets=("tune",))
    half = replace(plain, evaluate=judged, total=f"{scale.steps // 2} steps")
    result = {}
    for rate in RATES:
        optim = replace(plain.optim, learning_rate=rate)
        arm = Arm(replace(half, name=f"rate {rate:g}", optim=optim), 0.5, (1,))
        (folder,) = list(run_all([arm], out))[-1]
        final = json.loads((folder / "summary.json").read_text())["final"]
        result[f"{rate:g}"] = {k: v for k, v in final.items() if k.endswith("accuracy")}
    return result


def _times(plain: Config, arms: dict[str, Config], out: Path, smoke: bool) -> dict[str, float]:
    """The step times, measured once for each folder of results."""
    file = out / "step_times.json"
    if not file.exists():
        seconds = step_seconds(plain, arms, *((1, 1) if smoke else (7, 6)))
        file.write_text(json.dumps(seconds, indent=1) + "\n")
    return json.loads(file.read_text())


def main() -> None:
    """Runs one phase and prints its result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="desk")
    parser.add_argument("--phase", choices=("final", "tune"), default="final")
    parser.add_argument("--out", type=Path, default=Path("runs/finetune"))
    args = parser.parse_args()
    show_log()
    distributed.enable_compilation_cache()
    scale, smoke = SCALES[args.scale], args.scale == "smoke"
    out = args.out / args.scale
    tuned = (out if smoke else RESULTS) / f"finetune_{args.scale}_tune.json"
    plain = base(scale, out, pretrain(out, scale.pretraining, smoke), best_rate(tuned))
    if args.phase == "tune":
        found = tune(plain, scale, out)
        tuned.write_text(json.dumps(found, indent=1) + "\n")
        print(json.dumps(found, indent=1))
        return
    arms = methods(plain, scale, out)
    seconds = _times(plain, arms, out, smoke)
    runs = list(final_arms(plain, arms, scale, seconds))
    store = None if smoke else RESULTS / "finetune_desk"
    for folders in run_all([arm for _, arm, _ in runs], out, store):
        rows = rows_of(runs, folders, out)
        result = {"scale": dataclasses.asdict(scale), "step_seconds": seconds, "rows": rows}
        target = out / "result.json" if smoke else RESULTS / "finetune_desk.json"
        target.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
