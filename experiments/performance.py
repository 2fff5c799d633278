"""Fills docs/performance.md from the committed results:

`python -m experiments.performance [--check]`.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from active_learning.report import measures
from experiments import bench_parts, bench_scaling, bench_step, noise

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "experiments" / "results", ROOT / "docs" / "performance.md"
PLAN = {
    2: "plan_classact_vit_l_v5e_16x16.txt",
    5: "plan_classact_vit_l_v5e_16x16_ratio_5.txt",
}  # by ratio
GIB = 2**30


def read(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def fenced(text: str) -> str:
    return f"```text\n{text.strip()}\n```"


def steps() -> str:
    """The table of bench_step."""
    return fenced("\n".join(bench_step.table(read("bench_step_cpu"))))


def parts() -> str:
    """The table of bench_parts."""
    return bench_parts.table(read("bench_parts_cpu"))


def scaling() -> str:
    """The table of bench_scaling."""
    result = read("bench_scaling")
    return fenced("\n".join(bench_scaling.table(result["emulated"] + result["pods"])))


def plan(ratio: int) -> str:
    """The compiler's report of the paper's setting on 256 chips, from the output of `plan`."""
    text = (RESULTS / PLAN[ratio]).read_text()
    return text[text.index("compiled for") :]


def pod() -> str:
    """The plans at both ratios."""
    return "\n\n".join(f"Ratio {ratio}:\n\n{fenced(plan(ratio))}" for ratio in PLAN)


def pods() -> dict[tuple[str, int], dict]:
    """Rows of the pods by (topology, fsdp)."""
    return {
        (row["topology"], row["mesh"].get("fsdp", 1)): row for row in read("bench_scaling")["pods"]
    }


def shared() -> str:
    """Memory and traffic of a learner that is sharded over 16 chips."""
    whole, split = (pods()["v5e:4x4", fsdp] for fsdp in (1, 16))
    gib = lambda row, name: f"{row[name] / GIB:.2f}"
    return (
        f"ViT-L/16 on 16 chips: a uniform update with `fsdp=16` holds "
        f"{gib(split, 'stays_bytes')} GiB a chip and needs "
        f"{gib(split, 'temporary_bytes')} GiB of temporaries, against "
        f"{gib(whole, 'stays_bytes')} and {gib(whole, 'temporary_bytes')} GiB for a replicated "
        f"learner (ratio {whole['ratio']}). It sends {split['learner_moved_bytes'] / 1e9:.2f} GB "
        f"an update instead of {whole['learner_moved_bytes'] / 1e9:.2f}."
    )


def growth() -> str:
    """How a chip's memory and traffic grow from 16 to 256 chips."""
    small, large = pods()["v5e:4x4", 1], pods()["v5e:16x16", 1]
    over = lambda name: f"{large[name] / small[name] - 1:+.1%}"
    selection = [row["selection_moved_bytes"] / 1e6 for row in (small, large)]
    return (
        f"From 16 to 256 chips, for one chip: payload of the learner's collectives "
        f"{over('learner_payload_bytes')}; bytes that a ring sends for it "
        f"{over('learner_moved_bytes')}, all due to the ring's (n - 1) / n ({15 / 16:.3f} and "
        f"{255 / 256:.3f}); state and batch {over('stays_bytes')}; temporaries "
        f"{over('temporary_bytes')}. Selection sends {selection[0]:.1f} MB on 16 chips and "
        f"{selection[1]:.1f} MB on 256."
    )


def quotients(result: dict) -> list[tuple[str, str, str, str]]:
    """Rows of the targets that bench_step measures."""
    (case,) = result["cases"]
    memory = case["scoring_temporary_bytes"]
    return [
        (
            "integration quotient, two cores",
            "at most 1.05",
            f"{case['integration']:.3f} ({case['cpu']['integration']:.3f} in CPU time)",
            "other load on the machine (spread below; CPU time is steadier); then selection "
            "and the gather of the selected rows",
        ),
        (
            "efficiency quotient, two cores",
            "at most 1.25",
            f"{case['efficiency']:.3f} ({case['cpu']['efficiency']:.3f} in CPU time)",
            "the scorers' width of 32: layer norms, GELU and residuals are bound by memory "
            "bandwidth; a wider scorer comes closer but costs more",
        ),
        (
            "scoring's memory, ratio 10 over 2",
            "within 10 %",
            f"{memory['ratio 10'] / memory['ratio 2'] - 1:+.1%}",
            "the scores and loop counters",
        ),
        (
            "selecting from 65,536",
            "20 ms",
            f"{result['selection_65536_ms']:.2f} ms",
            "one sort of the scores",
        ),
        (
            "the same, as a fraction of a ViT-B/16 update at b = 4,096",
            "1 %",
            f"{result['selection_over_vit_b_step']:.1e}",
            "from analytic FLOPs at the learner's measured FLOP/s",
        ),
    ]


def big_vision(beside: dict) -> list[tuple[str, str, str, str]]:
    if "skipped" in beside:
        return []
    reached = f"{beside['ours_over_theirs']:.3f} ({beside['ours_over_theirs_cpu']:.3f} in CPU time)"
    why = (
        "matrix products are the same; attention and GELU are written differently, and which "
        "of these costs the difference is not known"
    )
    return [("uniform ViT-Ti/16 step, ours / big_vision's", "at most 1", reached, why)]


def of_pods() -> list[tuple[str, str, str, str]]:
    """Rows of the targets that are read from the TPU compiler's report."""
    small, large = pods()["v5e:4x4", 1], pods()["v5e:16x16", 1]
    needs = [re.search(r"([\d.]+) of 16 GiB", plan(ratio))[1] for ratio in PLAN]
    cost = re.search(r"planned in (\d+) s of CPU time with ([\d.]+) GiB", plan(5))
    bound = large["chips"] * 224 * 224 * 3 / 1e6
    payload = large["learner_payload_bytes"] / small["learner_payload_bytes"] - 1
    ring = large["learner_moved_bytes"] / small["learner_moved_bytes"] - 1
    return [
        (
            "memory of a chip, 256 chips, ratio 2 and 5",
            "16 GB",
            f"{needs[0]} and {needs[1]} GiB",
            "activations that `remat=dots` keeps, and gradients; a higher ratio adds only "
            "uint8 candidates",
        ),
        (
            "traffic of selection on 256 chips",
            f"one exchange among all chips, {bound:.1f} MB",
            f"{large['selection_moved_bytes'] / 1e6:.1f} MB",
            "one round of each exchange, a row for each of 16 chips; random choices take three "
            "or four rounds in all",
        ),
        (
            "payload of the learner's collectives, 256 over 16 chips",
            "within 5 %",
            f"{payload:+.1%} ({ring:+.1%} sent by a ring)",
            "the payload of a chip is the same; a ring of n sends (n - 1) / n of it, "
            "which alone exceeds 5 %",
        ),
        (
            "planning 256 chips",
            "8 minutes, 4 GB",
            f"{cost[1]} s of CPU time, {cost[2]} GiB",
            "the compiler runs once for the step and twice to count layers",
        ),
    ]


def of_noise(result: dict) -> list[tuple[str, str, str, str]]:
    """Rows of the headline experiment: wall-clock saved, and selecting one update ahead."""
    seconds, arms = result["step_seconds"], {arm["name"]: arm for arm in result["arms"]}
    selected, plain = arms["learnability"], arms[result["baseline"]]["budgets"][-1]
    budgets = {budget["updates"]: budget for budget in selected["budgets"]}
    spent = budgets[selected["beta_budget_updates"]]
    reference = spent["flops"]["reference_train"] / plain["total_flops"]
    # FLOP/s of the reference's updates over those of the learner's.
    slower = (
        spent["flops"]["reference_train"]
        / noise.SCALES["desk"].reference_steps
        / seconds["reference"]
    ) / (plain["total_flops"] / plain["updates"] / seconds["uniform"])
    (ahead,) = arms["learnability, chosen one update ahead"]["budgets"]
    exact = budgets[ahead["updates"]]
    gap = measures.difference(
        *(dict(zip(b["seeds"], b["finals"], strict=True)) for b in (ahead, exact))
    )
    error = "" if gap.error is None else f" ± {100 * gap.error:.1f}"
    return [
        (
            "wall-clock saved in `noise`, two cores",
            "20 %",
            f"{selected['wall_clock_saved']:.1%}, where "
            f"{selected['total_flops_saved']:.1%} of the FLOPs are saved",
            f"training the reference: {reference:.0%} of uniform's FLOPs, at "
            f"{slower:.0%} of the learner's FLOP/s (narrow layers)",
        ),
        (
            "`schedule='ahead'`, two cores",
            "hides selection",
            f"{seconds['ahead'] / seconds['active']:.2f} of an update's time; "
            f"{100 * gap.mean:+.1f}{error} points of accuracy",
            "two cores are never idle, so nothing is hidden; the scores are one update older",
        ),
    ]


def targets() -> str:
    """Each target, what was reached, and what limits it."""
    result = read("bench_step_cpu")
    rows = [
        *quotients(result),
        *of_noise(read("noise_desk_final")),
        *big_vision(result["big_vision"]),
        *of_pods(),
    ]
    rows.append(
        (
            "quotients and MFU on a GPU",
            "1.03, 1.15 and 55 %",
            "not measured",
            "no accelerator was available",
        )
    )
    head = "| metric | target | reached | limited by |\n| --- | --- | --- | --- |\n"
    return head + "\n".join(f"| {' | '.join(row)} |" for row in rows)


def evaluation() -> str:
    """Peak memory of evaluating large sets."""
    result = read("evaluation_memory")
    head = (
        "| evaluation | examples | decoded images | similarities | peak memory of the process |\n"
        "| --- | --- | --- | --- | --- |\n"
    )
    rows = [
        f"| {name} | {result['count']:,} at {result['size']} px | {result['decoded_gib']:.1f} GiB "
        f"| {held} | {result[name]['peak_gib']:.2f} GiB |"
        for name, held in (
            ("accuracy", "-"),
            ("retrieval", f"{result['similarities_gib']:.1f} GiB"),
        )
    ]
    return head + "\n".join(rows)


def joint() -> str:
    """What joint selection costs an update, from bench_joint."""
    cost = read("bench_joint_cpu")["cost"]
    rows = [
        "| an update of | arithmetic | FLOPs | time | CPU time | CPU time over arithmetic |",
        f"|{' --- |' * 6}",
    ]
    for name, arm in cost["arms"].items():
        over = arm["cpu_time"] / arm["arithmetic"] - 1
        values = (f"{arm[key]:.0%}" for key in ("arithmetic", "flops", "time", "cpu_time"))
        rows.append(f"| {name} | {' | '.join(values)} | {over:+.0%} |")
    about = (
        f"b {cost['b']}, ratio {cost['ratio']}, {cost['device']}, medians of {cost['rounds']} "
        f"rounds; a pass at the low resolution is {cost['low_over_full_pass']:.0%} of a full one."
    )
    return "\n".join([*rows, "", about])


MAKE = {
    "joint": joint,
    "targets": targets,
    "steps": steps,
    "parts": parts,
    "shared": shared,
    "pod": pod,
    "scaling": scaling,
    "growth": growth,
    "evaluation": evaluation,
}


def filled(text: str) -> str:
    """The page with every block from `<!-- made NAME -->` to `<!-- end -->` made again."""

    def block(match: re.Match) -> str:
        try:
            content = MAKE[match[1]]()
        except FileNotFoundError:
            content = "(not measured yet)"
        return f"<!-- made {match[1]} -->\n{content}\n<!-- end -->"

    return re.sub(r"<!-- made (\w+) -->\n.*?<!-- end -->", block, text, flags=re.S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    text = PAGE.read_text()
    if args.check:
        sys.exit(
            "docs/performance.md differs from the results; run python -m experiments.performance"
            if filled(text) != text
            else 0
        )
    PAGE.write_text(filled(text))


if __name__ == "__main__":
    main()
