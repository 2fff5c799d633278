"""Is the default safe? Plain training against the recipes on data that nobody tuned them for.

    python -m experiments.safety --scale=smoke|desk [--cells PATTERN] [--workers 2] [--list]

Cells: {CIFAR-10 images, Fashion-MNIST} x {clean, 20 % and 40 % of the labels wrong} x {balanced,
long-tailed 50:1} x {5,000 examples, all}. Arms at equal total FLOPs: uniform training, the average
of its weights (both from one run), the recipe tuned on mislabeled CIFAR-10, and the default of
configs for own data. Every arm has the same pool; wrong labels are uniform over the other classes
and are everywhere but in the test set. Cells that a run did not finish are listed as not run.
"""

import argparse
import fnmatch
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from active_learning.config import freeze
from active_learning.core import policies
from active_learning.data.order import hash64, permutation
from active_learning.data.sources.arrays import Arrays
from active_learning.metrics import show_log
from active_learning.models import MLP
from active_learning.references import Trained
from active_learning.report.runs import total_flops
from active_learning.settings import Config, Evaluate, Log, Optim, Select
from configs import arrays as own_data
from experiments.arms import Arm, run_all, shared_by, show

RESULTS = Path(__file__).parent / "results"
CLASSES, TAIL = 10, 50
LONGER = 1.25  # uniform's other budget: equal total FLOPs are interpolated between the two


@dataclass(frozen=True)
class Cell:
    """One data set: which images, how many, how many wrong labels, how imbalanced."""

    images: str
    wrong: float
    long_tailed: bool
    examples: int  # 0: all

    @property
    def name(self) -> str:
        shape = "long-tailed" if self.long_tailed else "balanced"
        size = self.examples or "all"
        return f"{self.images}-{self.wrong:.0%}-{shape}-{size}".replace("%", "")


CELLS = [
    Cell(images, wrong, long_tailed, examples)
    for examples in (5000, 0)
    for images in ("fashion_mnist", "cifar10n")
    for long_tailed in (False, True)
    for wrong in (0.0, 0.4, 0.2)
]


@dataclass(frozen=True)
class Scale:
    """How much of everything: passes over the pool, seeds, sizes of the models."""

    epochs: float
    seeds: tuple[int, ...]
    learner: MLP
    scorer: MLP
    limit: int  # examples of a cell at most; 0: no limit
    test: int


SCALES = {
    "smoke": Scale(4.0, (0,), MLP(width=64, depth=1), MLP(width=8, depth=1), 600, 300),
    "desk": Scale(20.0, (400, 401), MLP(width=512, depth=2), MLP(width=32, depth=1), 0, 10_000),
}


def tail(labels: np.ndarray, count: int) -> np.ndarray:
    """Rows of which class k keeps a fraction TAIL ** (-k / (CLASSES - 1)) of the first class's.

    `count`: rows in all, or 0 for as many as there are.
    """
    share = TAIL ** (-np.arange(CLASSES) / (CLASSES - 1))
    have = np.bincount(labels, minlength=CLASSES)
    head = min(have.min() / share.max(), count / share.sum() if count else np.inf)
    keep = np.maximum(np.round(head * share).astype(int), 1)
    return np.sort(np.concatenate([np.flatnonzero(labels == k)[: keep[k]] for k in range(CLASSES)]))


def write_cell(cell: Cell, scale: Scale, folder: Path) -> None:
    """Writes train.npz (image, label, clean) and test.npz of a cell, the same on every machine."""
    if (folder / "test.npz").exists():
        return
    opened = Arrays(name=cell.images, clean_label="").open()
    folder.mkdir(parents=True, exist_ok=True)
    for part, source in (("train", opened.train), ("test", opened.test)):
        clean = source.labels("label")
        rows = permutation(len(clean), 0x5AFE)
        count = cell.examples
        if scale.limit:
            count = min(count or scale.limit, scale.limit)
        if part == "test":
            rows, label = rows[: scale.test], clean
        else:
            label = corrupted(clean, cell.wrong)
            rows = rows[tail(clean[rows], count)] if cell.long_tailed else rows[: count or None]
        image = source.gather(rows)["image"]
        columns = {"label": label[rows], "clean": clean[rows]}
        np.savez(folder / f"{part}.npz", image=image, **columns)


def corrupted(clean: np.ndarray, wrong: float) -> np.ndarray:
    """The labels, a fraction `wrong` of them replaced by another class, drawn by row number."""
    at = np.arange(len(clean))
    replaced = hash64(0xBAD, at) < np.uint64(round(wrong * (2**64 - 1)))
    other = 1 + (hash64(0x07E2, at) % np.uint64(CLASSES - 1)).astype(np.int64)
    return np.where(replaced, (clean + other) % CLASSES, clean).astype(np.int32)


def base(cell: Cell, scale: Scale, folder: Path) -> Config:
    """Uniform training on a cell, to which each arm adds its own."""
    return Config(
        data=Arrays(path=str(folder), name=cell.name, clean_label="clean"),
        learner=scale.learner,
        scorer=scale.scorer,
        split=freeze(own_data.get_config()).split,
        batch_size=64,
        total=f"{scale.epochs:g} epochs",
        ema="5 %",
        optim=Optim(learning_rate=1e-3),
        scorer_optim=Optim(learning_rate=2e-3),
        evaluate=Evaluate(every="5 %", subset=500),
        log=Log(every="10 %", snapshots=0),
    )


def reference(cell: Cell, scale: Scale, epochs: float) -> Trained:
    """Trained for so many passes over its own part."""
    path = f"{cell.name}-{epochs:g}"
    return Trained(path=path, total=f"{epochs * scale.epochs:g} epochs", batch_size=64)


def arms(cell: Cell, scale: Scale, folder: Path, parts: bool) -> list[Arm]:
    """Uniform at two budgets and the two recipes; `parts`: what the default was put together from.

    Passes of a reference over its own part, a fifth of the data, are in multiples of the run's.
    """
    plain, default = base(cell, scale, folder), freeze(own_data.get_config()).select

    def selected(name: str, passes: float, **changes) -> Config:
        select = Select(policy=policies.cautious_learnability, ratio=4, temperature=0.5)
        return replace(
            plain,
            name=name,
            select=replace(select, **changes),
            reference=reference(cell, scale, passes),
            evaluate=replace(plain.evaluate, gate="gate"),
        )

    longer = replace(plain, name="uniform", total=f"{LONGER * scale.epochs:g} epochs")
    configs = [
        (replace(plain, name="uniform", baseline=True), 1.0),
        (longer, LONGER),
        (selected("tuned recipe", 6.0, until="60 %"), 1.0),
        (replace(selected("safe default", 2.0), select=default), 1.0),
    ]
    if parts:
        not_centred = replace(default, policy=policies.cautious_learnability)
        centred = policies.class_centred_learnability
        configs += [
            (selected("window 25 %", 2.0, until="25 %"), 1.0),
            (selected("window 25 %, class-centred", 2.0, until="25 %", policy=centred), 1.0),
            (selected("window 60 %, class-centred", 2.0, until="60 %", policy=centred), 1.0),
            (replace(selected("default, not class-centred", 2.0), select=not_centred), 1.0),
        ]
    return [Arm(config, budget, scale.seeds) for config, budget in configs]


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


def table(cells: dict[str, list[dict]]) -> str:
    """Markdown: means over seeds, in points."""
    lines = [
        "| cell | arm | seeds | accuracy, % | worst class, % | total FLOPs over uniform's | window, % "
        "| accuracy, points at equal FLOPs | worst class, points at equal FLOPs |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, rows in cells.items():
        for arm in dict.fromkeys(row["arm"] for row in rows):
            own = [row for row in rows if row["arm"] == arm]
            mean = {k: float(np.mean([row[k] for row in own])) for k in own[0] if k not in TEXT}
            lines.append(
                f"| {name} | {arm} | {len(own)} | {100 * mean['accuracy']:.1f} | "
                f"{100 * mean['worst_class']:.1f} | {mean['flops']:.2f} | "
                f"{100 * mean['window']:.0f} | {100 * mean['accuracy_gap']:+.1f} | "
                f"{100 * mean['worst_class_gap']:+.1f} |"
            )
    return "\n".join(lines) + "\n"


TEXT = ("arm", "decisions")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scale", choices=SCALES, default="desk")
    parser.add_argument("--out", type=Path, default=Path("runs/safety"))
    parser.add_argument("--cells", default="*", help="pattern of the cells' names")
    parser.add_argument("--seeds", type=int, default=0, help="only the first so many seeds")
    parser.add_argument("--parts", action="store_true", help="also what the default is made of")
    parser.add_argument("--list", action="store_true", help="print the arms, run nothing")
    parser.add_argument("--workers", type=int, default=1, help="processes, each on its own core")
    args = parser.parse_args()
    show_log()
    scale, out = SCALES[args.scale], args.out / args.scale
    scale = replace(scale, seeds=scale.seeds[: args.seeds or None])
    store = None if args.scale == "smoke" else RESULTS / f"safety_{args.scale}"
    file = (out if store is None else RESULTS) / f"safety_{args.scale}.json"
    done = json.loads(file.read_text())["cells"] if file.exists() else {}
    with shared_by(args.workers):
        for cell in CELLS:
            if not fnmatch.fnmatch(cell.name, args.cells):
                continue
            folder = out / "data" / cell.name
            todo = arms(cell, scale, folder, args.parts)
            if args.list:
                print(cell.name)
                show(todo)
                continue
            write_cell(cell, scale, folder)
            packed = None if store is None else store / cell.name
            for folders in run_all(todo, out / cell.name, packed):
                done[cell.name] = compared(folders)
            missing = [c.name for c in CELLS if c.name not in done]
            result = {"seeds": scale.seeds, "cells": done, "not_run": missing}
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(result, indent=1) + "\n")
    if done:
        print(table(done))


if __name__ == "__main__":
    main()
