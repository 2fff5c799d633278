"""Does a reference from elsewhere help? References by what they were trained on, on two pools.

    python -m experiments.transfer --scale=smoke|desk [--list] [--out runs/transfer]

The pool holds images of the odd classes of CIFAR-10 with the human labels `worse`, of which 40 %
are wrong, or with their true labels. References:

    same data        a small ViT, trained on another part whose labels are as good as the pool's
    curated + rest   the same ViT, trained on that part and a small one with true labels
    other data       a head, fitted to that part, on features of a ViT that was pretrained on
                     other classes (experiments.finetune_data: the even classes of CIFAR-10, and
                     Fashion-MNIST)

Uniform training stands beside them on each pool. Training the references, the pass that stores
features, and scoring are charged; pretraining, which is paid for already, is not.
"""

import argparse
import json
import statistics
from dataclasses import dataclass, replace
from pathlib import Path

from active_learning.core import policies
from active_learning.data.sources.arrays import Arrays
from active_learning.metrics import read_summary, show_log
from active_learning.models import MLP, OnFeatures, ViT
from active_learning.references import Trained
from active_learning.report import measures
from active_learning.report.runs import total_flops
from active_learning.settings import Config, Evaluate, Log, Optim, Select, Split
from experiments.arms import Arm, run_all, show
from experiments.finetune_data import pretrain, write_data

RESULTS = Path(__file__).parent / "results"
# Label column of the pool, and of the reference's larger part.
POOLS = {"clean": "label", "noisy": "label_worse"}
PRETRAINING_STEPS = 2400


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    learner: ViT | MLP
    scorer: ViT | MLP
    steps: int
    reference_steps: int
    batch_size: int
    parts: dict[str, int]
    seeds: tuple[int, ...]
    pools: tuple[str, ...] = tuple(POOLS)


SCALES = {
    "smoke": Scale(
        MLP(width=32, depth=1),
        MLP(width=8, depth=1),
        4,
        4,
        16,
        {"pool": 600, "rest": 300, "curated": 60},
        (700,),
        ("noisy",),
    ),
    "desk": Scale(
        ViT(width=96, depth=3, heads=6, patch=8),
        ViT(width=32, depth=2, heads=1, patch=8),
        300,
        600,
        64,
        {"pool": 14_000, "rest": 6_000, "curated": 1_000},
        (700, 701),
    ),
}


def arms(scale: Scale, data: Path, published: Path, features: Path) -> list[Arm]:
    """Every reference on both pools, uniform training first.

    Args:
      scale: How much of everything.
      data: Folder of the images.
      published: Weights that were pretrained on other classes.
      features: Folder for what is stored of them.
    """
    select = Select(policy=policies.cautious_learnability, ratio=4, temperature=0.5, until="60 %")
    out = []
    for pool in scale.pools:
        column = POOLS[pool]
        labels = {"pool": column, "rest": column, "curated": "label"}
        uniform = Config(
            data=Arrays(
                path=str(data), name="half of CIFAR-10N", label="label_worse", clean_label="label"
            ),
            learner=scale.learner,
            scorer=scale.scorer,
            split=Split(parts=scale.parts, labels=labels),
            batch_size=scale.batch_size,
            total=f"{scale.steps} steps",
            optim=Optim(learning_rate=1e-3),
            evaluate=Evaluate(every="100 %", subset=1000),
            log=Log(every="10 %", snapshots=0),
            baseline=True,
        )
        same = Trained(
            part="rest", total=f"{scale.reference_steps} steps", batch_size=scale.batch_size
        )
        ours = replace(uniform, baseline=False, select=select, reference=same)
        curated = replace(same, part="curated", also=("rest",))
        trunk = OnFeatures(of=str(published), store=str(features))
        for name, config in (
            ("uniform", uniform),
            ("same data", ours),
            ("curated + rest", replace(ours, reference=curated)),
            ("other data", replace(ours, scorer=trunk)),
        ):
            out.append(Arm(replace(config, name=f"{pool} pool, {name}"), 1.0, scale.seeds))
    return out


def rows_of(folders: list[Path]) -> list[dict]:
    """One row an arm, from the finished run folders."""
    runs: dict[str, dict[int, dict]] = {}
    for folder in folders:
        about, summary = json.loads((folder / "config.json").read_text()), read_summary(folder)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        chosen = [
            line["select/corrupted_fraction"]
            for line in lines
            if line.get("select/open") and "select/corrupted_fraction" in line
        ]
        runs.setdefault(about["name"], {})[about["seed"]] = {"summary": summary, "chosen": chosen}
    rows = []
    for name, by_seed in runs.items():
        pool, reference = name.split(" pool, ")
        summaries = [run["summary"] for run in by_seed.values()]
        own = [(s["reference"] or {}).get("accuracy") for s in summaries]
        chosen = [value for run in by_seed.values() for value in run["chosen"]]
        rows.append(
            {
                "pool": pool,
                "reference": reference,
                "seeds": list(by_seed),
                "accuracy": [s["final"]["test_full/accuracy"] for s in summaries],
                "reference_accuracy": None if None in own else statistics.fmean(own),
                "corrupted_selected": statistics.fmean(chosen) if chosen else None,
                "total_flops": statistics.fmean(total_flops(s["flops"]) for s in summaries),
            }
        )
    return rows


def table(result: dict) -> str:
    """Markdown: every reference on both pools, differences to uniform training on the same pool."""
    lines = [
        "| pool | reference | seeds | accuracy, % | to uniform, points | reference's own, % "
        "| corrupted labels selected, % | total FLOPs over uniform's |",
        f"|{' --- |' * 8}",
    ]
    uniform = {row["pool"]: row for row in result["rows"] if row["reference"] == "uniform"}
    percent = lambda value, digits=1: "-" if value is None else f"{100 * value:.{digits}f}"
    for row in result["rows"]:
        plain = uniform[row["pool"]]
        sd = measures.spread(row["accuracy"])
        gap = measures.difference(
            *(dict(zip(r["seeds"], r["accuracy"], strict=True)) for r in (row, plain))
        )
        error = "" if gap.error is None else f" ± {100 * gap.error:.1f}"
        cells = [
            row["pool"],
            row["reference"],
            str(len(row["seeds"])),
            percent(statistics.fmean(row["accuracy"]))
            + ("" if sd is None else f" ± {100 * sd:.1f}"),
            "-" if row is plain else f"{100 * gap.mean:+.1f}{error}",
            percent(row["reference_accuracy"]),
            percent(row["corrupted_selected"], 0),
            f"{row['total_flops'] / plain['total_flops']:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Runs what is missing, and writes the result after each seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="desk")
    parser.add_argument("--out", type=Path, default=Path("runs/transfer"))
    parser.add_argument(
        "--pretraining",
        type=Path,
        default=Path("runs/finetune"),
        help="folder of experiments.finetune, whose data and pretrained weights are used",
    )
    parser.add_argument("--list", action="store_true", help="print the arms, train none")
    args = parser.parse_args()
    show_log()
    scale, smoke, name = SCALES[args.scale], args.scale == "smoke", f"transfer_{args.scale}"
    source = args.pretraining / args.scale
    _, data = write_data(source, smoke)
    published = pretrain(source, 8 if smoke else PRETRAINING_STEPS, smoke)
    out = args.out / args.scale
    every = arms(scale, data, published, out / "features")
    show(every)
    if args.list:
        return
    folder = out if smoke else RESULTS
    for folders in run_all(every, out, None if smoke else RESULTS / name):
        rows = rows_of(folders)
        order = [arm.config.name for arm in every]
        rows.sort(key=lambda row: order.index(f"{row['pool']} pool, {row['reference']}"))
        result = {"rows": rows}
        (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


if __name__ == "__main__":
    main()
