"""What scorers lose that see a small view, and what selecting ahead loses: drawn shapes of 96 px,
20 % wrong labels. A quarter of an hour on two cores at desk scale; the same command in a second
terminal shares it.

    python -m experiments.small_view [--scale=smoke|desk] [--out runs/small_view]

Plain training; selection by scorers that see all 96 px, and 32 px (made on the device); the last
one also a step ahead. One architecture of scorers, so the view is the only difference. Prints
accuracy, FLOPs and seconds; desk scale keeps them in experiments/results. Judged on `tune`: nothing
here is chosen by the test set.
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from active_learning.core import policies
from active_learning.data.sources.shapes import Shapes
from active_learning.metrics import show_log
from active_learning.models import MLP, ViT
from active_learning.references import Trained
from active_learning.settings import (
    Checkpoint,
    Config,
    Evaluate,
    Log,
    Optim,
    Select,
    Split,
)
from experiments.arms import Arm, run_all, show


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    steps: int
    images: int
    full: int  # px
    small: int
    seeds: tuple[int, ...]
    learner: Any
    scorer: Any


SCALES = {
    "smoke": Scale(4, 800, 32, 16, (400,), MLP(width=16, depth=1), MLP(width=8, depth=1)),
    "desk": Scale(
        1200,
        8000,
        96,
        32,
        (400, 401),
        ViT(width=64, depth=2, heads=2, patch=16),
        ViT(width=32, depth=2, heads=1, patch=8),
    ),
}


def arms(scale: Scale) -> list[Arm]:
    """The four runs, alike but for what the scorers see and when."""
    plain = Config(
        data=Shapes(train=scale.images, test=10, size=scale.full, noise=0.2),
        split=Split(parts={"pool": 0.5, "reference": 0.35, "tune": 0.15}),
        learner=scale.learner,
        scorer=scale.scorer,
        batch_size=32,
        total=f"{scale.steps} steps",
        optim=Optim(learning_rate=2e-3),
        scorer_optim=Optim(learning_rate=2e-3),
        augment=False,  # it costs more than the models at this size
        evaluate=Evaluate(every="50 %", sets=("tune",)),
        log=Log(every="10 %", snapshots=0),
        checkpoint=Checkpoint(every="100 %"),
    )
    select = Select(policy=policies.cautious_learnability, ratio=4, temperature=0.5, until="60 %")

    def arm(name: str, small: int = 0, **changes) -> Arm:
        path, rate = f"{small or scale.full}px", Optim(learning_rate=2e-3)
        reference = Trained(path=path, total=f"{scale.steps} steps", batch_size=32, optim=rate)
        config = (
            plain
            if not changes
            else replace(plain, select=replace(select, **changes), reference=reference)
        )
        return Arm(
            replace(config, name=name, data=replace(plain.data, small=small)), 1.0, scale.seeds
        )

    return [
        arm("uniform"),
        arm(f"scorers see {scale.full} px", schedule="exact"),
        arm(f"scorers see {scale.small} px", scale.small, schedule="exact"),
        arm(f"scorers see {scale.small} px, selecting ahead", scale.small, schedule="ahead"),
    ]


def row(name: str, summaries: list[dict]) -> dict:
    """Means over seeds; the spread is the standard deviation of the accuracy."""
    accuracy = [s["final"]["tune_full/accuracy"] for s in summaries]
    spread = float(np.std(accuracy, ddof=1)) if len(accuracy) > 1 else None
    return {
        "arm": name,
        "seeds": len(summaries),
        "accuracy": float(np.mean(accuracy)),
        "spread": spread,
        "scoring_flops": float(
            np.mean([s["flops"]["online_score"] + s["flops"]["reference_score"] for s in summaries])
        ),
        "total_flops": float(np.mean([sum(s["flops"].values()) for s in summaries])),
        "train_seconds": float(np.mean([s["train_seconds"] for s in summaries])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="desk")
    parser.add_argument("--out", type=Path, default=Path("runs/small_view"))
    args = parser.parse_args()
    show_log()
    scale, out = SCALES[args.scale], args.out / args.scale
    todo = arms(scale)
    show(todo)
    *_, folders = run_all(todo, out)
    runs = [
        (
            json.loads((f / "config.json").read_text())["name"],
            json.loads((f / "summary.json").read_text()),
        )
        for f in folders
    ]
    rows = [
        row(arm.config.name, [s for name, s in runs if name == arm.config.name]) for arm in todo
    ]
    for r in rows:
        spread = "" if r["spread"] is None else f" ± {100 * r['spread']:.1f}"
        print(
            f"{r['arm']:40s} {100 * r['accuracy']:5.1f}{spread} %  scoring "
            f"{r['scoring_flops']:.3g} FLOPs  {r['train_seconds']:.0f} s"
        )
    text = (
        json.dumps(
            {"full": scale.full, "small": scale.small, "updates": scale.steps, "rows": rows},
            indent=1,
        )
        + "\n"
    )
    (out / "small_view.json").write_text(text)
    if args.scale != "smoke":
        (Path(__file__).parent / "results" / f"small_view_{args.scale}.json").write_text(text)


if __name__ == "__main__":
    main()
