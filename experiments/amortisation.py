"""What part of the bill is already paid: four scorer sizes at four levels of amortisation, each
level run as a mode of its own.

    python -m experiments.amortisation --scale=smoke|desk [--workers 2] [--out runs/amortisation]

Levels: none (the reference is trained too), pretrained (it is loaded), foundation dataset (its
scores are read), replayed policy (another run's choices are). Ends with stacked bars over uniform
training at the same number of updates, as in the paper's figure, and their JSON.
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from active_learning import distributed, store_scores
from active_learning.config import config_hash, freeze
from active_learning.core import policies
from active_learning.cost.accounts import ACCOUNT_LABELS, ACCOUNTS
from active_learning.metrics import LOG, show_log
from active_learning.models import MLP, ViT
from active_learning.references import Loaded, Stored, Trained, replay
from active_learning.report.charts import LIGHT, save_svg
from active_learning.settings import Config, Evaluate, Log, Select
from configs import cifar10n
from experiments.arms import locked, shared_by, trained

RESULTS = Path(__file__).parent / "results"
SCORERS = {
    "a quarter": ViT(width=64, depth=3, heads=2, patch=8),
    "a sixth": ViT(width=48, depth=3, heads=2, patch=8),
    "a 19th": ViT(width=32, depth=2, heads=1, patch=8),
    "a 94th": ViT(width=16, depth=1, heads=1, patch=8),
}
LEVELS = ("none", "pretrained", "foundation dataset", "replayed policy")


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    steps: int
    reference_steps: int
    seeds: tuple[int, ...]
    parts: dict[str, int]
    scorers: dict
    judged: str  # the part that accuracy is of
    learner: object


SCALES = {
    "smoke": Scale(
        6,
        8,
        (400,),
        {"pool": 600, "reference": 400, "gate": 100, "tune": 100},
        {"tiny": MLP(width=16, depth=1)},
        "tune",
        MLP(width=64, depth=1),
    ),
    "desk": Scale(
        400,
        1200,
        (400, 401),
        {"pool": 27_000, "reference": 18_000, "gate": 2_500, "tune": 2_500},
        SCORERS,
        "test",
        ViT(width=128, depth=3, heads=4, patch=8),
    ),
}


def base(scale: Scale, seed: int) -> Config:
    config = freeze(cifar10n.get_config("uniform"))
    return replace(
        config,
        name="uniform",
        baseline=True,
        seed=seed,
        learner=scale.learner,
        total=f"{scale.steps} steps",
        split=replace(config.split, parts=scale.parts),
        reference=Trained(),
        evaluate=Evaluate(every="50 %", sets=(scale.judged,)),
        log=Log(every="50 %", snapshots=0),
    )


def modes(plain: Config, scale: Scale, out: Path) -> dict[str, dict]:
    """Summaries of the four levels with one scorer; each level uses what the one before has left on
    disk.
    """
    select = Select(
        policy=policies.cautious_learnability, ratio=2, temperature=0.5, score_chunk=128
    )
    ours = replace(plain, baseline=False, select=select)
    made = out / "none" / "reference"
    full = replace(
        ours,
        name="none",
        reference=Trained(total=f"{scale.reference_steps} steps"),
        log=replace(ours.log, chosen=True),
    )
    done = {"none": trained(full, out / "none")}
    loaded = replace(ours, name="pretrained", reference=Loaded(path=str(made), charge=False))
    done["pretrained"] = trained(loaded, out / "pretrained")
    file = out / "scores.npz"
    if not file.exists():
        store_scores.store(made, full, out=file)
    read = replace(full, name="foundation dataset", reference=Stored(path=str(file)))
    done["foundation dataset"] = trained(read, out / "foundation")
    done["foundation dataset"]["overlap"] = overlap(out / "none", out / "foundation")
    replayed = replace(ours, name="replayed policy", select=Select(replay=str(out / "none")))
    done["replayed policy"] = trained(replayed, out / "replayed")
    return done


def finished(scale: Scale, out: Path, store: Path) -> dict[tuple[int, str], dict[str, dict]]:
    """The summaries by level of every (seed, scorer or "uniform"), run or found in `store`, where
    each is kept as soon as it is complete.
    """
    groups = {}
    for seed in scale.seeds:
        plain = base(scale, seed)
        groups[seed, "uniform"] = (plain, lambda plain, folder: {"none": trained(plain, folder)})
        for name, scorer in scale.scorers.items():
            groups[seed, name] = (
                replace(plain, scorer=scorer),
                lambda ours, folder: modes(ours, scale, folder),
            )
    done: dict[tuple[int, str], dict[str, dict]] = {}
    distributed.enable_compilation_cache()
    store.mkdir(parents=True, exist_ok=True)
    for wait in (False, True):  # what another process has at work is waited for last
        for (seed, name), (config, make) in groups.items():
            slug = f"{name.replace(' ', '-')}-seed{seed}-{config_hash(config)}"
            kept = store / f"{slug}.json"
            with locked(out / slug, wait) as ours:
                if ours and (seed, name) not in done:
                    if not kept.exists():
                        kept.write_text(json.dumps(make(config, out / slug)))
                        LOG.info("seed %d, %s: done", seed, name)
                    done[seed, name] = json.loads(kept.read_text())
    return done


def overlap(live: Path, other: Path) -> float:
    """Share of the chosen ids that two runs, each left to itself, have in common, update by update:
    1 as long as no rounding has decided.
    """
    about = json.loads((other / "config.json").read_text())
    size, hash_ = about["batch_size"], about["data"]["hash"]
    one, two = (replay.read(run, size, about["total_steps"], hash_).ids for run in (live, other))
    return float(np.mean([np.isin(mine, theirs) for mine, theirs in zip(two, one, strict=True)]))


def summed(runs: list[dict], uniform: float, judged: str) -> dict:
    """Means over seeds: accounts over uniform's FLOPs, accuracy, seconds; `overlap` where it was
    measured.
    """

    def mean(values):
        return sum(values) / len(runs)

    accounts = {a: mean(r["flops"][a] for r in runs) / uniform for a in (*ACCOUNTS, "recompute")}
    accuracy = [r["final"][f"{judged}_full/accuracy"] for r in runs]
    common = {"overlap": [r["overlap"] for r in runs]} if "overlap" in runs[0] else {}
    return common | {
        "accounts": accounts,
        "total": sum(accounts.values()),
        "accuracy": accuracy,
        "seconds": mean(r["train_seconds"] for r in runs),
    }


def draw(result: dict, file: Path) -> None:
    """Stacked bars, one group a scorer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5.2), layout="constrained")
    axes, names, place = figure.add_subplot(), [], 0.0
    for scorer, levels in result["scorers"].items():
        for level, row in levels.items():
            left = 0.0
            for account in ACCOUNTS:
                first = {"label": ACCOUNT_LABELS[account]} if not names else {}
                axes.barh(place, row["accounts"][account], left=left, color=LIGHT[account], **first)
                left += row["accounts"][account]
            names.append((place, f"{scorer}: {level}"))
            place -= 1.0
        place -= 0.6
    axes.axvline(1.0, color=LIGHT["ink"], linewidth=1.0, linestyle=":")
    axes.set_yticks([at for at, _ in names], [name for _, name in names])
    axes.set_xlabel("FLOPs over uniform training's, at the same number of updates")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    save_svg(figure, file)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="desk")
    parser.add_argument("--out", type=Path, default=Path("runs/amortisation"))
    parser.add_argument(
        "--workers", type=int, default=1, help="processes that share the work, each on its own core"
    )
    args = parser.parse_args()
    show_log()
    scale, out = SCALES[args.scale], args.out / args.scale
    with shared_by(args.workers):
        found = finished(
            scale,
            out,
            out / "finished" if args.scale == "smoke" else RESULTS / f"amortisation_{args.scale}",
        )
    plain = [found[seed, "uniform"]["none"] for seed in scale.seeds]
    uniform = sum(plain[0]["flops"].values())
    rows = {
        name: {
            level: summed([found[seed, name][level] for seed in scale.seeds], uniform, scale.judged)
            for level in LEVELS
        }
        for name in scale.scorers
    }
    result = {
        "steps": scale.steps,
        "seeds": scale.seeds,
        "uniform": summed(plain, uniform, scale.judged),
        "scorers": rows,
    }
    folder = out if args.scale == "smoke" else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"amortisation_{args.scale}.json").write_text(json.dumps(result, indent=1))
    draw(result, folder / f"amortisation_{args.scale}.svg")
    for name, levels in rows.items():
        for level, row in levels.items():
            accuracy = sum(row["accuracy"]) / len(row["accuracy"])
            common = (
                f"   {min(row['overlap']):.1%} of the live run's ids" if "overlap" in row else ""
            )
            print(
                f"scorer {name:10s} {level:20s} {row['total']:5.2f} x uniform's FLOPs   "
                f"accuracy {accuracy:.3f}{common}"
            )
    print(folder / f"amortisation_{args.scale}.svg")


if __name__ == "__main__":
    main()
