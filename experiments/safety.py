"""Is the default safe? Plain training against the recipes on data that nobody tuned them for.

    python -m experiments.safety --scale=smoke|desk [--cells PATTERN] [--seeds N] [--list]

Cells: {CIFAR-10 images, Fashion-MNIST} x {clean, 20 % and 40 % of the labels wrong} x {balanced,
long-tailed 50:1} x {5,000 examples, all}. Arms at equal total FLOPs: uniform training, the average
of its weights (both from one run), the recipe tuned on mislabeled CIFAR-10, and the default of
configs for own data; in some cells also the default with a bad reference: untrained, fitted to 200
examples, fitted to shuffled labels. Every arm has the same pool, though the default needs no part
for its reference; wrong labels are uniform over the other classes and are everywhere but in the
test set. All cells get their first seed first; cells that a run did not finish are listed as not
run.
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
from active_learning.metrics import show_log, write_atomic
from active_learning.models import MLP
from active_learning.references import Trained
from active_learning.settings import Checkpoint, Config, Evaluate, Log, Optim, Select, Split
from configs import arrays as own_data
from experiments.arms import Arm, run_all, show
from experiments.safety_table import compared, table, verdict

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


# Cells that are also run with bad references.
BAD = [
    Cell("fashion_mnist", 0.0, False, 5000),
    Cell("fashion_mnist", 0.4, True, 5000),
    Cell("cifar10n", 0.0, True, 5000),
    Cell("cifar10n", 0.4, False, 0),
]


@dataclass(frozen=True)
class Scale:
    """How much of everything: passes over the pool, seeds, sizes of the models."""

    epochs: float  # of cells of 5,000 examples
    epochs_of_all: float  # of cells of all examples; twice as many where they are long-tailed
    seeds: tuple[int, ...]
    few_seeds: int  # how many of them in cells of all examples, and for what decides nothing
    learner: MLP
    scorer: MLP
    limit: int  # examples of a cell at most; 0: no limit
    test: int
    small: int = 200  # examples of a reference that has seen too little


SCALES = {
    "smoke": Scale(4.0, 4.0, (0,), 1, MLP(width=64, depth=1), MLP(width=8, depth=1), 600, 300, 64),
    "desk": Scale(
        20.0,
        5.0,
        tuple(range(400, 410)),
        3,
        MLP(width=512, depth=2),
        MLP(width=32, depth=1),
        0,
        10_000,
    ),
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
        if source is None:
            raise SystemExit(f"{cell.images}: no {part} set")
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
        shuffled = label[rows][permutation(len(rows), 0x5F1E)]
        columns = {"label": label[rows], "clean": clean[rows], "shuffled": shuffled}
        np.savez(folder / f"{part}.npz", image=image, **columns)


def corrupted(clean: np.ndarray, wrong: float) -> np.ndarray:
    """The labels, a fraction `wrong` of them replaced by another class, drawn by row number."""
    at = np.arange(len(clean))
    replaced = hash64(0xBAD, at) < np.uint64(round(wrong * (2**64 - 1)))
    other = 1 + (hash64(0x07E2, at) % np.uint64(CLASSES - 1)).astype(np.int64)
    return np.where(replaced, (clean + other) % CLASSES, clean).astype(np.int32)


def epochs_of(cell: Cell, scale: Scale) -> float:
    """Passes of a run over its pool."""
    if cell.examples:
        return scale.epochs
    return scale.epochs_of_all * (2 if cell.long_tailed else 1)


def base(cell: Cell, scale: Scale, folder: Path) -> Config:
    """Uniform training on a cell, to which each arm adds its own."""
    return Config(
        data=Arrays(path=str(folder), name=cell.name, clean_label="clean"),
        learner=scale.learner,
        scorer=scale.scorer,
        split=Split(parts={"pool": 0.7, "reference": 0.2, "gate": 0.1}),
        batch_size=64,
        total=f"{epochs_of(cell, scale):g} epochs",
        ema="5 %",
        optim=Optim(learning_rate=1e-3),
        scorer_optim=Optim(learning_rate=2e-3),
        evaluate=Evaluate(every="5 %", subset=500),
        log=Log(every="10 %", snapshots=0),
        checkpoint=Checkpoint(every="100 %"),
    )


def arms(cell: Cell, scale: Scale, folder: Path) -> list[Arm]:
    """Uniform at two budgets, the two recipes and, in cells BAD, the default with bad references.

    The tuned recipe's reference makes six passes over its own part, a fifth of the data, for each
    of the learner's. References that the default rejects before the first update leave a uniform
    run: few seeds show that. Few do for the recipe, too, which is only compared with.
    """
    plain, shipped = base(cell, scale, folder), freeze(own_data.get_config())
    epochs = epochs_of(cell, scale)
    reference = Trained(path=f"{cell.name}-6", total=f"{6 * epochs:g} epochs", batch_size=64)
    gate = replace(plain.evaluate, gate="gate")
    tuned = Select(policy=policies.cautious_learnability, ratio=4, temperature=0.5, until="60 %")
    recipe = replace(plain, name="tuned recipe", select=tuned, reference=reference)
    default = replace(
        plain,
        name="safe default",
        select=shipped.select,
        reference=shipped.reference,
        evaluate=gate,
    )
    longer = replace(plain, name="uniform", total=f"{LONGER * epochs:g} epochs")
    few = scale.seeds[: scale.few_seeds]
    many = scale.seeds if cell.examples else few
    out = [
        Arm(replace(plain, name="uniform", baseline=True), 1.0, many),
        Arm(longer, LONGER, many),
        Arm(recipe, 1.0, few),
        Arm(default, 1.0, many),
    ]
    if cell in BAD:
        small = replace(plain.split, parts=dict(plain.split.parts) | {"reference": scale.small})
        shuffled = replace(plain.split, labels={"reference": "shuffled"})
        held_out = replace(shipped.reference, part="reference")
        untrained = replace(reference, path=f"{cell.name}-none", total="0 steps")
        bad = {
            "untrained": (plain.split, untrained, few),
            f"{scale.small} examples": (small, held_out, many),
            "shuffled labels": (shuffled, held_out, few),
        }
        for name, (split, one, seeds) in bad.items():
            changed = replace(default, name=f"default, reference: {name}", split=split)
            out.append(Arm(replace(changed, reference=one), 1.0, seeds))
    return out


def results(file: Path) -> dict[str, list[dict]]:
    """Cells of an earlier call, by name."""
    return json.loads(file.read_text())["cells"] if file.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scale", choices=SCALES, default="desk")
    parser.add_argument("--out", type=Path, default=Path("runs/safety"))
    parser.add_argument("--cells", default="*", help="pattern of the cells' names")
    parser.add_argument("--seeds", type=int, default=0, help="only the first so many seeds")
    parser.add_argument("--list", action="store_true", help="print the arms, run nothing")
    args = parser.parse_args()
    show_log()
    scale, out = SCALES[args.scale], args.out / args.scale
    store = None if args.scale == "smoke" else RESULTS / f"safety_{args.scale}"
    file = (out if store is None else RESULTS) / f"safety_{args.scale}.json"
    done = results(file)
    seeds = scale.seeds[: args.seeds or None]
    chosen = [cell for cell in CELLS if fnmatch.fnmatch(cell.name, args.cells)]
    chosen.sort(key=lambda cell: cell not in BAD)  # the most telling ones first
    for count in range(1, len(seeds) + 1):
        now = replace(scale, seeds=seeds[:count])
        for cell in chosen:
            folder = out / "data" / cell.name
            if args.list:
                print(cell.name)
                show(arms(cell, now, folder))
                continue
            write_cell(cell, scale, folder)
            packed = None if store is None else store / cell.name
            for folders in run_all(arms(cell, now, folder), out / cell.name, packed):
                done[cell.name] = compared(folders)
            cells = {c.name: done[c.name] for c in CELLS if c.name in done}
            missing = [c.name for c in CELLS if c.name not in done]
            result = {"verdict": verdict(cells), "cells": cells, "not_run": missing}
            write_atomic(file, json.dumps(result, indent=1) + "\n")
    if not args.list:
        print(table(results(file)))


if __name__ == "__main__":
    main()
