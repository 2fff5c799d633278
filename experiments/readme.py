"""Write the tables of README.md and docs/ from experiments/results/*.json, between their markers.

No number in those tables is typed by hand.

    python -m experiments.readme            # rewrite them
    python -m experiments.readme --check    # exit 1 if one differs from its results
"""

import argparse
import json
import re
import statistics
import sys
from pathlib import Path

from active_learning.report import measures
from experiments import (
    flickr,
    flickr_cost,
    label_check,
    label_draws,
    noise_table,
    safety_table,
    scaling_law,
    transfer,
)
from experiments.scale_parts import (
    step1_runs,
    step2_index,
    step2_mixing,
    step2_paper,
    step3_workers,
)
from experiments.score_comparison import points

ROOT = Path(__file__).resolve().parents[1]
HEADER = (
    "| arm | updates | seeds | accuracy, % | difference, points | reference's own, % "
    "| corrupted labels selected, % |"
)
DIFFERENCES = (
    "Differences are to uniform's full budget, with standard errors: paired over the seeds that "
    "both have, or, marked w, Welch's for unpaired samples."
)
SAVED = "| | updates saved | total FLOPs saved | wall-clock saved |"


def _percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f}"


def _spread(mean: float, sd: float | None) -> str:
    """In percent, with the standard deviation where there is one."""
    return _percent(mean) + ("" if sd is None else f" ± {_percent(sd)}")


def _row(arm: dict, budget: dict) -> str:
    gap = budget["difference"]
    difference = "-" if gap is None else f"{100 * gap['mean']:+.1f}"
    if gap is not None and gap["standard_error"] is not None:
        difference += f" ± {_percent(gap['standard_error'])}" + ("" if gap["paired"] else " w")
    cells = [
        arm["name"] + measures.VALIDITY_REMARK[arm["valid"]],
        f"{budget['updates']:,}",
        str(len(budget["seeds"])),
    ]
    cells += [_spread(budget["final_mean"], budget["final_sd"]), difference]
    cells += [
        _percent(arm["reference_accuracy"]),
        _percent(budget["selected_corrupted_fraction"], 0),
    ]
    return "| " + " | ".join(cells) + " |"


def table(result: dict) -> str:
    """The arms of one result at every budget, and what the arms that reach the level saved."""
    lines = [f"**{result['headline']}**", "", HEADER, "|" + " --- |" * 7]
    lines += [_row(arm, budget) for arm in result["arms"] for budget in arm["budgets"]]
    lines += ["", DIFFERENCES, *undecided(result), "", SAVED, "|" + " --- |" * 4]
    for arm in result["arms"]:
        if arm["updates_saved"] is None or arm["baseline"]:
            continue
        saved = (arm["updates_saved"], arm["total_flops_saved"], arm["wall_clock_saved"])
        tried = measures.BetaBudget(
            arm["beta_budget"], arm["beta_budget_updates"], arm["budgets_tried"]
        )
        note = f" ({tried.mark})" if tried.mark else ""
        cells = ["-" if value is None else f"{_percent(value)} %" for value in saved]
        lines.append(
            f"| {arm['name']}{measures.VALIDITY_REMARK[arm['valid']]}{note} | "
            + " | ".join(cells)
            + " |"
        )
    return "\n".join([*lines, "", clock(result.get("step_seconds"))])


def summary(result: dict) -> str:
    """The README's four rows: uniform, learnability twice, and uniform on everything it could use.

    Cost is relative to uniform training at its full budget, with the reference's training included.
    """
    arms = {arm["name"]: arm for arm in result["arms"]}
    full = result["baseline_updates"]
    shortest = arms["learnability"]["beta_budget_updates"]
    uniform = _budget(arms["uniform"], full)
    head = "| arm | updates | seeds | accuracy, % | total FLOPs | wall-clock time |"
    lines = [f"**{result['headline']}**", "", head, "|" + " --- |" * 6]
    for name, updates in (
        ("uniform", full),
        ("learnability", shortest),
        ("learnability", full),
        ("control: uniform on pool + reference part", full),
    ):
        budget = _budget(arms[name], updates)
        cells = [name, f"{updates:,}", str(len(budget["seeds"]))]
        cells += [_spread(budget["final_mean"], budget["final_sd"])]
        cells += [f"{budget[key] / uniform[key]:.2f}" for key in ("total_flops", "train_seconds")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _budget(arm: dict, updates: int) -> dict:
    return next(budget for budget in arm["budgets"] if budget["updates"] == updates)


def undecided(result: dict) -> list[str]:
    """A sentence on the arms that pass the level rule by less than the level's spread, if any."""
    names = [arm["name"] for arm in result["arms"] if arm["inconclusive"]]
    return ["", f"{'; '.join(names)}: {measures.INCONCLUSIVE}"] if names else []


def clock(seconds: dict[str, float] | None) -> str:
    """What the column of wall-clock is made of."""
    if seconds is None:
        return (
            "Wall-clock: the training time that the runs measured themselves, on a machine shared "
            "with other work; the reference's is included."
        )
    kinds = ", ".join(f"{kind} {1e3 * value:.1f} ms" for kind, value in seconds.items())
    return (
        f"Wall-clock: the number of updates of each kind times the time of one ({kinds}), measured "
        "alternately in one process; the reference's updates are included."
    )


def reading(result: dict) -> str:
    """What candidates cost to read, from bench_data."""
    cost = result["candidates"]["cost_of_ratio_1"]
    cells = [f"{cost[name]['cpu']:.1f}x" for name in ("naive", "by DCT scale", "prepared")]
    head = "| all candidates in full | by DCT scale | prepared small view |"
    return f"{head}\n|{' --- |' * 3}\n| {' | '.join(cells)} |"


def views(result: dict) -> str:
    """What scorers lose that see a small view, from small_view."""
    lines = ["| | accuracy, % | scoring, FLOPs | total FLOPs over uniform's |", f"|{' --- |' * 4}"]
    for row in result["rows"]:
        total = row["total_flops"] / result["rows"][0]["total_flops"]
        lines.append(
            f"| {row['arm']} | {_spread(row['accuracy'], row['spread'])} "
            f"| {row['scoring_flops']:.3g} | {total:.2f} |"
        )
    return "\n".join(lines)


def bucket(result: dict) -> str:
    """What reading from a bucket costs, and what its failures change, from scale_1_data."""
    rate = lambda row: f"{row['examples_per_second']:,}"
    same = lambda row: "the same" if row["same_ids_and_pixels"] else "OTHERS"
    lines = ["| | examples a second | requests an example | examples |", f"|{' --- |' * 4}"]
    lines.append(f"| from the disk | {rate(result['local'])} | | |")
    for row in result["rates"]:
        cells = [row["what"], rate(row), f"{row['requests_per_example']:.3f}", same(row)]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| | requests that failed | seconds | examples |", f"|{' --- |' * 4}"]
    for row in result["faults"]:
        failed = f"{row['failed']:,} of {row['requests']:,}"
        cells = [row["what"], failed, f"{row['seconds']:.0f}", same(row)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def policies(result: dict) -> str:
    """All policies in both settings, from score_comparison."""
    head = (
        "| labels | policy | seeds | accuracy, % | total FLOPs over uniform's "
        "| at equal updates, points | at equal total FLOPs, points |"
    )
    lines = [head, f"|{' --- |' * 7}"]
    for setting, rows in result["settings"].items():
        for row in rows:
            cells = [
                setting,
                row["arm"],
                str(len(row["seeds"])),
                _spread(row["accuracy"], row["sd"]),
                f"{row['flops']:.2f}",
            ]
            lines.append(
                "| "
                + " | ".join([*cells, points(row["equal_updates"]), points(row["equal_flops"])])
                + " |"
            )
    return "\n".join(lines)


def levels(result: dict) -> str:
    """What is paid at each level of amortisation, from amortisation."""
    head = (
        "| scorer, of the learner's FLOPs | level | total FLOPs over uniform's | accuracy, % "
        "| ids chosen as by the live run, % |"
    )
    lines = [
        head,
        f"|{' --- |' * 5}",
        f"| - | uniform | 1.00 | {_mean(result['uniform']['accuracy'])} | - |",
    ]
    for scorer, rows in result["scorers"].items():
        for level, row in rows.items():
            common = _mean(row["overlap"]) if "overlap" in row else "-"
            lines.append(
                f"| {scorer} | {level} | {row['total']:.2f} | {_mean(row['accuracy'])} | {common} |"
            )
    return "\n".join(lines)


def tuned(result: dict) -> str:
    """What was chosen among, from noise's phase `tune`: best first."""
    lines = [
        "| arm | updates | seeds | accuracy on `tune`, % | corrupted labels selected, % |",
        f"|{' --- |' * 5}",
    ]
    rows = [(arm["name"], budget) for arm in result["arms"] for budget in arm["budgets"]]
    for name, row in sorted(
        rows, key=lambda row: (row[1]["updates"], row[1]["final_mean"]), reverse=True
    ):
        cells = [
            name,
            f"{row['updates']:,}",
            str(len(row["seeds"])),
            _spread(row["final_mean"], row["final_sd"]),
        ]
        lines.append(
            "| " + " | ".join([*cells, _percent(row["selected_corrupted_fraction"], 0)]) + " |"
        )
    return "\n".join(lines)


def _mean(shares: list[float]) -> str:
    return _spread(statistics.fmean(shares), measures.spread(shares))


def pairs(rows: list[dict]) -> str:
    """The arms of flickr, which of them count, what they saved, and each claim with its control."""
    parts = (flickr.table, flickr.rule, flickr.saved, flickr.beside)
    return "\n\n".join(filter(None, (part(rows) for part in parts)))


def methods_at_equal_cost(rows: list[dict]) -> str:
    """The newer methods for pairs beside uniform and the controls at their own cost."""
    times = ROOT / "experiments" / "results" / "flickr_desk_methods_step_times.json"
    return flickr_cost.equal_cost(rows, json.loads(times.read_text()))


def finetuned(result: dict) -> str:
    """Arms of finetune at equal cost; differences to uniform at its full budget, paired."""
    rows = result["rows"]
    whole = next(row for row in rows if row["budget"] == "full")
    uniform = dict(zip(whole["seeds"], whole["accuracy"], strict=True))
    lines = [
        "| arm | budget | updates | seeds | total FLOPs | wall-clock | accuracy, % "
        "| of the EMA, % | to uniform, points |",
        f"|{' --- |' * 9}",
    ]
    for row in rows:
        gaps = [a - uniform[s] for s, a in zip(row["seeds"], row["accuracy"], strict=True)]
        cells = [row["arm"], row["budget"], f"{row['updates']:,}", str(len(row["seeds"]))]
        cells += [f"{row[key] / whole[key]:.2f}" for key in ("total_flops", "seconds")]
        cells += [_mean(row["accuracy"]), _mean(row["ema_accuracy"])]
        cells += ["-" if row is whole else f"{100 * statistics.fmean(gaps):+.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def drilled(result: dict) -> str:
    """What the whole drill found, by part."""
    lines = ["| drill | cases | right | seconds | what is right |", "|" + " --- |" * 5]
    for part in result["parts"]:
        cells = [part["part"], f"{part['cases']:,}", f"{part['right']:,}", str(part["seconds"])]
        lines.append("| " + " | ".join([*cells, part["promise"]]) + " |")
    minutes = sum(part["seconds"] for part in result["parts"]) / 60
    return "\n".join([*lines, "", f"{minutes:.0f} minutes on {result['cores']} cores."])


# By the result's name, with the variant of its table after a colon; the others are reports.
TABLES = {
    "noise_desk_final:summary": summary,
    "noise_long_final": noise_table.long,
    "noise_long_final:summary": noise_table.summary,
    "bench_data": reading,
    "scale_1_data": bucket,
    "scale_1_runs": step1_runs.table,
    "scale_2_index": step2_index.table,
    "scale_2_mixing": step2_mixing.table,
    "scale_2_paper": step2_paper.table,
    "scale_3": step3_workers.table,
    "scale_3:speed": step3_workers.speed_table,
    "small_view_desk": views,
    "score_comparison_desk": policies,
    "amortisation_desk": levels,
    "flickr_desk_final": pairs,
    "flickr_desk_methods": pairs,
    "flickr_desk_methods:cost": methods_at_equal_cost,
    "noise_desk_tune": tuned,
    "finetune_desk": finetuned,
    "safety_desk": safety_table.page,
    "label_check": label_check.table,
    "label_draws": label_draws.table,
    "drill": drilled,
    "scaling_law_desk": scaling_law.table,
    "transfer_desk": transfer.table,
}


def filled(text: str) -> str:
    """`text` with each block between `<!-- table NAME -->` and `<!-- end -->` derived anew.

    NAME is that of a file in experiments/results, optionally followed by a colon and a variant.
    """

    def block(match: re.Match) -> str:
        path = ROOT / "experiments" / "results" / f"{match[1].partition(':')[0]}.json"
        make = TABLES.get(match[1], table)
        content = make(json.loads(path.read_text())) if path.exists() else "(not measured yet)"
        return f"<!-- table {match[1]} -->\n{content}\n<!-- end -->"

    return re.sub(r"<!-- table ([\w:]+) -->\n.*?<!-- end -->", block, text, flags=re.S)


def main() -> None:
    """Rewrite or check every page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = page.read_text()
        if args.check and filled(text) != text:
            sys.exit(f"{page.name} differs from its results; run python -m experiments.readme")
        page.write_text(filled(text))


if __name__ == "__main__":
    main()
