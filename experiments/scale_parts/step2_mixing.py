"""How well examples are mixed that are shuffled some at a time (`data.shuffle`), and what it costs.

The set is Fashion-MNIST, stored in the worst order, sorted by class, and in a random one. For each
number of examples that are shuffled at a time: how many pairs of a batch lie within 256 rows of
each other, and how many are of one class, relative to batches drawn from all over the set; and the
accuracy of plain training in that order. Writes scale_2_mixing.json, and docs/scale_mixing.png at
desk scale.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from active_learning.config import register, setting
from active_learning.data.order import CHUNK, Chunked, Order, permutation
from active_learning.data.sources.arrays import Arrays
from active_learning.data.sources.source import Memory, Opened, SourceSection
from active_learning.models import MLP
from active_learning.settings import Checkpoint, Config, Evaluate, Log, Optim, Split
from experiments.arms import Arm, run_all

matplotlib.use("Agg")
ROOT = Path(__file__).resolve().parents[2]
BATCH, BATCHES = 64, 400
# Examples that are shuffled at a time (0: all), seeds, epochs, and examples of the set (0: all).
SCALES = {
    "smoke": ((0, 256), (0,), 0.2, 2000),
    "desk": ((0, 32_768, 8192, 2048, 1024, 512, 256), (500, 501, 502), 2.0, 0),
}


@dataclass(frozen=True, eq=False)
class _Stored(Memory):
    """Images in memory that are shuffled some at a time, as if they lay in shards."""

    shuffle: int = 0


@register
@dataclass(frozen=True)
class SortedFashion(SourceSection):
    """Fashion-MNIST of which the first `examples` (0: all) are stored by class, or at random."""

    shuffle: int = setting(0, at_least=0, at_most=2**40)
    by_class: bool = True
    examples: int = setting(0, at_least=0, at_most=60_000)

    def open(self) -> Opened:
        opened = Arrays(name="fashion_mnist").open()
        train, labels = opened.train, opened.train.labels("label")
        rows = np.arange(self.examples or len(train))
        order = np.argsort(labels[rows], kind="stable") if self.by_class else permutation(len(rows))
        rows = rows[order]
        stored = _Stored(
            train.gather(rows)["image"],
            {"label": labels[rows]},
            train.num_classes,
            "label",
            train.class_names,
            shuffle=self.shuffle,
        )
        return Opened(stored, opened.test, opened.test_label)


def alike(labels: np.ndarray, shuffle: int) -> dict[str, float]:
    """Pairs of a batch that are stored within CHUNK rows of each other, and those of one class.

    Both relative to their fraction among all pairs of the set; 1 is what a full shuffle has.
    """
    n = len(labels)
    order = Chunked(np.arange(n), 0, shuffle) if 0 < shuffle < n else Order(n, 0)
    near, same, pairs = 0, 0, 0
    batches = min(BATCHES, n // BATCH)
    for batch in np.linspace(0, n // BATCH - 1, batches).astype(int).tolist():
        rows = np.sort(order.positions(batch * BATCH, BATCH)[0])
        above = np.triu_indices(BATCH, 1)
        near += int((np.abs(rows[:, None] - rows)[above] < CHUNK).sum())
        same += int((labels[rows][:, None] == labels[rows])[above].sum())
        pairs += len(above[0])
    apart = np.arange(1, CHUNK)
    expected = float((n - apart).sum()) / (n * (n - 1) / 2)
    counts = np.bincount(labels).astype(float)
    of_one_class = float((counts * (counts - 1)).sum()) / (n * (n - 1))
    return {"neighbors": near / pairs / expected, "one_class": same / pairs / of_one_class}


def arms(scale: str) -> list[Arm]:
    """Plain training in each order."""
    shuffles, seeds, epochs, examples = SCALES[scale]
    out = []
    for by_class in (True, False):
        for shuffle in shuffles if by_class else (0, shuffles[-1]):
            config = Config(
                data=SortedFashion(shuffle=shuffle, by_class=by_class, examples=examples),
                learner=MLP(width=128, depth=1),
                scorer=MLP(width=8, depth=1),
                split=Split(),
                name=f"{'by class' if by_class else 'random'} {shuffle}",
                batch_size=BATCH,
                total=f"{epochs:g} epochs",
                optim=Optim(learning_rate=1e-3),
                evaluate=Evaluate(every="100 %"),
                log=Log(every="25 %", snapshots=0),
                checkpoint=Checkpoint(every="100 %"),
            )
            out.append(Arm(config, 1.0, seeds))
    return out


def rows_of(scale: str, folders: list[Path]) -> list[dict]:
    """One row an order: how it mixes, and the accuracies by seed."""
    accuracy: dict[str, list[float]] = {}
    for folder in sorted(folders):
        name = json.loads((folder / "config.json").read_text())["name"]
        final = json.loads((folder / "summary.json").read_text())["final"]
        accuracy.setdefault(name, []).append(final["test_full/accuracy"])
    out = []
    for one in arms(scale):
        config = one.config
        labels = config.data.open().train.labels("label")
        values = np.array(accuracy[config.name])
        out.append(
            {
                "stored": "by class" if config.data.by_class else "at random",
                "shuffled_at_a_time": config.data.shuffle or len(labels),
                **alike(labels, config.data.shuffle),
                "accuracy": {
                    "mean": float(values.mean()),
                    "sd": float(values.std(ddof=1)) if len(values) > 1 else None,
                },
            }
        )
    return out


def figure(rows: list[dict], path: Path) -> None:
    """Pairs of one class and accuracy against the number of examples shuffled at a time."""
    shown = [row for row in rows if row["stored"] == "by class"]
    sizes = [row["shuffled_at_a_time"] for row in shown]
    drawing = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = drawing.subplots(1, 2)
    for name, label in (("neighbors", "stored within 256 rows"), ("one_class", "of one class")):
        left.plot(sizes, [row[name] for row in shown], "o-", label=label)
    left.axhline(1.0, color="C7", linewidth=0.8, linestyle=":")
    left.set_ylabel("pairs of a batch, relative to a full shuffle")
    left.set_yscale("log")
    left.legend()
    right.errorbar(
        sizes,
        [100 * row["accuracy"]["mean"] for row in shown],
        [100 * (row["accuracy"]["sd"] or 0.0) for row in shown],
        marker="o",
        color="C1",
    )
    right.set_ylabel("test accuracy, %")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("examples shuffled at a time, of 60,000 stored by class")
    drawing.savefig(path, dpi=130)


def table(result: dict) -> str:
    """Markdown: one row an order."""
    lines = [
        "| stored | shuffled at a time | neighbors in a batch | of one class | accuracy, % |",
        "|" + " --- |" * 5,
    ]
    for row in result["orders"]:
        spread = row["accuracy"]["sd"]
        accuracy = f"{100 * row['accuracy']['mean']:.1f}"
        accuracy += "" if spread is None else f" ± {100 * spread:.1f}"
        cells = [row["stored"], f"{row['shuffled_at_a_time']:,}"]
        cells += [f"{row[name]:.2f}" for name in ("neighbors", "one_class")] + [accuracy]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(scale: str, out: Path) -> dict:
    """Trains in every order; scale_2_mixing.json goes to `out`."""
    if "ACTIVE_LEARNING_DATA" not in os.environ:
        raise SystemExit("ACTIVE_LEARNING_DATA is not set; Fashion-MNIST is needed (README.md)")
    *_, folders = run_all(arms(scale), ROOT / "runs" / "scale_mixing" / scale)
    rows = rows_of(scale, folders)
    for row in rows:
        print(row)
    result = {"scale": scale, "batch": BATCH, "chunk": CHUNK, "orders": rows}
    (out / "scale_2_mixing.json").write_text(json.dumps(result, indent=1) + "\n")
    if scale == "desk":
        figure(rows, ROOT / "docs" / "scale_mixing.png")
    return result
