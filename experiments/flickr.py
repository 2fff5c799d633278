"""Image-text pairs of which half carry another image's caption: who learns to retrieve with how
much less, and with what reference?

    python -m experiments.flickr --scale=smoke|desk [--phase final|tune|methods] [--workers 2]
                                 [--list]
    python -m experiments.flickr --phase=methods --times    # on a quiet machine, after the runs

Setting (a): a clean held-out third trains the reference; its control is the learner trained
uniformly on that third. Setting (b): reference, gate and tune are as noisy as the pool. Arms by
joint selection have the sigmoid loss, and a uniform run and a control of that loss. What was chosen
(docs/image_text.md) was chosen on `tune`, by another seed. Figures: mean log(1 + rank), lower is
better, and mean recall (of R@1, 5, 10 both ways) on the whole test set, those on val beside them;
95 % intervals by bootstrap over test images. Phase `methods`: setting (a) by newer objectives and
by cheaper forms of joint selection.
"""

import argparse
import json
import math
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot as plt

from active_learning.metrics import show_log
from active_learning.report import measures
from active_learning.report.__main__ import write
from active_learning.report.runs import total_flops
from experiments.arms import Arm, run_all, shared_by, show
from experiments.flickr_arms import (
    SCALES,
    final_arms,
    method_arms,
    store_embeddings,
    tune_arms,
)
from experiments.flickr_cost import gap, mean_accounts, step_times
from experiments.score_comparison import interval

matplotlib.use("Agg")
RESULTS = Path(__file__).parent / "results"


def _spread(values: list[float]) -> dict[str, float | None]:
    return {
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }


def _cell(value: dict | None, times: float = 1.0) -> str:
    if value is None:
        return "-"
    spread = "" if value["sd"] is None else f" ± {times * value['sd']:.2g}"
    return f"{times * value['mean']:.3g}{spread}"


def row(folders: list[Path]) -> dict:
    """One line of the table: the runs of an arm at one budget."""
    result = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    about = json.loads((folders[0] / "config.json").read_text())
    lines = [
        [json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()]
        for f in folders
    ]
    shares = [
        [
            (li["step"], li["select/corrupted_fraction"])
            for li in of
            if "select/corrupted_fraction" in li and li.get("select/open")
        ]
        for of in lines
    ]
    finals = [s["final"] for s in result]
    test = next(name for name in ("test_full", "tune_full") if f"{name}/log_rank" in finals[0])
    images = np.mean([f[f"{test}/per_image"] for f in finals], axis=0)
    draws = np.random.default_rng(0).integers(0, len(images), (2000, len(images)))
    references = [s["reference"]["accuracy"] for s in result if s["reference"]]
    return {
        "arm": about["name"],
        "updates": about["total_steps"],
        "seeds": [json.loads((f / "config.json").read_text())["seed"] for f in folders],
        "log_rank": _spread([f[f"{test}/log_rank"] for f in finals]),
        "log_rank_interval": np.percentile(images[draws].mean(axis=1), [2.5, 97.5]).tolist(),
        "log_rank_by_seed": [f[f"{test}/log_rank"] for f in finals],
        "recall": _spread([f[f"{test}/recall"] for f in finals]),
        "val_log_rank": _spread([f["val_full/log_rank"] for f in finals])
        if "val_full/log_rank" in finals[0]
        else None,
        "val_recall": _spread([f["val_full/recall"] for f in finals])
        if "val_full/recall" in finals[0]
        else None,
        "reference_recall": float(np.mean(references))
        if references and None not in references
        else None,
        "exchanged_chosen": [
            [step, float(np.mean([s[n][1] for s in shares]))]
            for n, (step, _) in enumerate(shares[0])
        ],
        "lead": [
            [li["step"], li["gate/online_log_rank"] - li["gate/reference_log_rank"]]
            for li in lines[0]
            if "gate/online_log_rank" in li
        ],
        "flops": float(np.mean([total_flops(s["flops"]) for s in result])),
        "accounts": mean_accounts(result),
        "window_updates": float(np.mean([s["window_steps"] for s in result])),
        "seconds": float(np.mean([s["train_seconds"] for s in result])),
        "curve": [[li["step"], li[k]] for li in lines[0] for k in ("test/log_rank",) if k in li],
    }


def _uniform(rows: list[dict]) -> dict:
    """The row that others are compared with."""
    return next((r for r in rows if r["arm"].endswith("uniform")), rows[0])


def table(rows: list[dict]) -> str:
    """Markdown, in the order of the arms."""
    full = _uniform(rows)
    out = [
        "| arm | updates | seeds | log(1 + rank), test [95 %] | recall, test, % | "
        "log(1 + rank), val | recall, val, % | reference's recall, % | "
        "exchanged among the chosen, % | total FLOPs / uniform |",
        "|" + " --- |" * 10,
    ]
    for r in rows:
        low, high = r["log_rank_interval"]
        chosen = [share for _, share in r["exchanged_chosen"]]
        shares = f"{100 * chosen[0]:.0f} → {100 * chosen[-1]:.0f}" if chosen else "-"
        name = r["arm"] + measures.VALIDITY_REMARK[_counts(rows, r)]
        own = "-" if r["reference_recall"] is None else f"{100 * r['reference_recall']:.1f}"
        cells = [
            name,
            str(r["updates"]),
            str(len(r["seeds"])),
            f"{_cell(r['log_rank'])} [{low:.3f}, {high:.3f}]",
            _cell(r["recall"], 100),
            _cell(r["val_log_rank"]),
            _cell(r["val_recall"], 100),
            own,
            shares,
            f"{r['flops'] / full['flops']:.2f}",
        ]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)


def _level(rows: list[dict], r: dict) -> dict:
    """Recall of uniform training by a row's own loss: the level that its reference has to lie
    below.
    """
    plain = "uniform, sigmoid" if "joint" in r["arm"] or "sigmoid" in r["arm"] else "uniform"
    return next((row["recall"] for row in rows if row["arm"] == plain), {"mean": None, "sd": None})


def _counts(rows: list[dict], r: dict) -> bool | None:
    return measures.is_valid_comparison(
        bool(r["exchanged_chosen"]), r["reference_recall"], _level(rows, r)["mean"]
    )


def rule(rows: list[dict]) -> str:
    """Markdown: how it was decided which rows count, and which of them pass by less than the
    spread.
    """
    words = (
        "A row counts when its reference alone is below uniform training by the same "
        "loss; judged by recall, as the references' "
        "log(1 + rank) was not kept."
    )
    levels = [(r, _level(rows, r)) for r in rows]
    near = [
        r
        for r, own in levels
        if measures.is_inconclusive(r["reference_recall"], own["mean"], own["sd"])
    ]
    names = dict.fromkeys(r["arm"] for r in near)
    return words + (f"\n\n{'; '.join(names)}: {measures.INCONCLUSIVE}" if names else "")


def saved(rows: list[dict]) -> str:
    """Markdown: of the arms that reach uniform's log(1 + rank) sooner, the shortest budget at which
    they do, and what it saves.
    """
    full = next((r for r in rows if r["arm"] == "uniform"), None)
    out = ["| | updates | updates saved | total FLOPs saved |", "|" + " --- |" * 4]
    reached: dict[str, dict] = {}
    for r in sorted(rows, key=lambda r: r["updates"]) if full else ():
        other = "sigmoid" not in r["arm"] and r["arm"] != full["arm"]
        sooner = other and r["updates"] < full["updates"]
        if sooner and r["log_rank"]["mean"] <= full["log_rank"]["mean"]:
            reached.setdefault(r["arm"], r)
    for name, r in reached.items():
        beta = r["updates"] / full["updates"]
        tried = measures.BetaBudget(
            beta, r["updates"], sum(other["arm"] == name for other in rows)
        ).mark
        marks = measures.VALIDITY_REMARK[_counts(rows, r)] + (f" ({tried})" if tried else "")
        marks += (
            " (trained on the clean third as well, uniform is not)"
            if name.startswith("(a+)")
            else ""
        )
        out.append(
            f"| {name}{marks} | {r['updates']} | {100 - 100 * beta:.0f} % | "
            f"{100 - 100 * r['flops'] / full['flops']:.0f} % |"
        )
    return "\n".join(out)


COMPARED = (  # each claim, and what it has to beat
    ("(a+) learnability on pool + clean third", "(a) control: uniform on the clean third"),
    ("(b) easy reference", "uniform"),
    (
        "(b+) easy reference, cross-fitted on pool + reference part",
        "(b) control: uniform on pool + reference part",
    ),
)


def beside(rows: list[dict]) -> str:
    """Markdown: log(1 + rank) of each claim less that of the row it has to beat which costs most
    nearly as much, paired by seed; empty where there is no claim.
    """
    out = ["| | FLOPs | against | FLOPs | difference [95 %], paired by seed |", "|" + " --- |" * 5]
    for claim, other in COMPARED:
        others = [r for r in rows if r["arm"] == other]
        for mine in (r for r in rows if r["arm"] == claim and others):
            theirs = min(others, key=lambda r: abs(math.log(r["flops"] / mine["flops"])))
            known = dict(zip(theirs["seeds"], theirs["log_rank_by_seed"], strict=True))
            pairs = zip(mine["seeds"], mine["log_rank_by_seed"], strict=True)
            result = interval(value - known[seed] for seed, value in pairs if seed in known)
            if result:
                cells = [
                    f"{claim}, {mine['updates']}",
                    f"{mine['flops']:.2e}",
                    f"{other}, {theirs['updates']}",
                    f"{theirs['flops']:.2e}",
                ]
                out.append(f"| {' | '.join([*cells, gap(result)])} |")
    return "\n".join(out) if len(out) > 2 else ""


def figure(rows: list[dict], path: Path) -> None:
    """mean log(1 + rank) of every arm with its interval, and the share of exchanged pairs among the
    chosen over time.
    """
    fig, (left, right) = plt.subplots(
        1, 2, figsize=(14, 0.28 * len(rows) + 2), width_ratios=(3, 2), layout="constrained"
    )
    longest = {r["arm"]: r["updates"] for r in sorted(rows, key=lambda r: r["updates"])}
    for place, r in enumerate(rows):
        low, high = r["log_rank_interval"]
        colour = "C7" if "control" in r["arm"] or r["arm"].startswith("uniform") else "C1"
        left.plot([low, high], [place, place], color=colour)
        left.plot(r["log_rank"]["mean"], place, "o", color=colour)
        if r["exchanged_chosen"] and r["updates"] == longest[r["arm"]]:
            line = plt.get_cmap("tab20")(len(right.lines) % 20)
            right.plot(
                *zip(*r["exchanged_chosen"], strict=True),
                color=line,
                label=f"{r['arm']}, {r['updates']}",
            )
    left.axvline(_uniform(rows)["log_rank"]["mean"], color="C7", linewidth=0.8, linestyle=":")
    left.set_yticks(
        range(len(rows)),
        [f"{r['arm']}, {r['updates']} updates, seeds {len(r['seeds'])}" for r in rows],
        fontsize=8,
    )
    left.invert_yaxis()
    left.set_xlabel("mean log(1 + rank) on test, lower is better; 95 % over images")
    right.set_xlabel("updates")
    right.set_ylabel("share of exchanged pairs among the chosen")
    fig.legend(fontsize=7, loc="outside lower center", ncols=4)
    path.parent.mkdir(exist_ok=True)
    fig.savefig(path, dpi=130)
    plt.close(fig)


def rows_of(arms: list[Arm], out: Path, done: list[Path]) -> list[dict]:
    """Lines of the arms of which some run is complete."""
    result = []
    for one in arms:
        folders = [folder for _, folder in one.runs(out) if folder in done]
        if folders:
            result.append(row(folders))
    return result


def kept(arms: list[Arm], out: Path, done: list[Path], name: str) -> list[dict]:
    """The lines of what is complete, written to results/NAME.json and docs/NAME.png (not at smoke
    scale).
    """
    rows = rows_of(arms, out, done)
    if "smoke" not in name:
        figure(rows, RESULTS.parents[1] / "docs" / f"{name}.png")
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="desk")
    parser.add_argument("--phase", choices=("final", "tune", "methods"), default="final")
    parser.add_argument("--out", type=Path, default=Path("runs/flickr"))
    parser.add_argument(
        "--list", action="store_true", help="print the arms and their cost, run nothing"
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
    scale = SCALES[args.scale]
    arms = {"final": final_arms, "tune": tune_arms, "methods": method_arms}[args.phase](scale)
    show(arms)
    if args.list:
        return
    out, name = args.out / args.scale / args.phase, f"flickr_{args.scale}_{args.phase}"
    packed = None if args.scale == "smoke" else RESULTS / name
    if args.phase == "methods":
        store_embeddings(scale, out)
    if args.times:
        seconds = step_times(arms, out) | {"reference updates": scale.reference_steps}
        (RESULTS / f"{name}_step_times.json").write_text(json.dumps(seconds, indent=1) + "\n")
        return
    with shared_by(args.workers):
        for done in run_all(arms, out, packed):
            rows = kept(arms, out, done, name)
    metric = "tune/recall" if args.phase == "tune" else "test/recall"
    page = write(
        done, out / "report", metric, "Exchanged captions: uniform training and selection of pairs"
    )
    print("\n\n".join(part(rows) for part in (table, rule, saved, beside)))
    print(page / "index.html")


if __name__ == "__main__":
    main()
