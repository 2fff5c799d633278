"""Fills docs/performance.md from the committed results: `python -m experiments.performance [--check]`."""

import argparse
import json
import re
import sys
from pathlib import Path

from experiments import bench_scaling, bench_step

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "experiments" / "results", ROOT / "docs" / "performance.md"


def read(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def steps() -> str:
    """What bench_step prints."""
    return "```text\n" + "\n".join(bench_step.table(read("bench_step_cpu"))) + "\n```"


def scaling() -> str:
    """What bench_scaling prints."""
    result = read("bench_scaling")
    return "```text\n" + "\n".join(bench_scaling.table(result["emulated"] + result["pods"])) + "\n```"


def pod() -> str:
    """What the plan says of the paper's setting on 256 chips."""
    return "```text\n" + (RESULTS / "plan_classact_vit_l_v5e_16x16.txt").read_text().strip() + "\n```"


def targets() -> str:
    """Each target, the figure, and what would have to change to go further."""
    result = read("bench_step_cpu")
    (case,) = result["cases"]
    memory = case["scoring_temporary_bytes"]
    growth = memory["ratio 10"] / memory["ratio 2"] - 1
    rows = [
        (
            "integration quotient, two cores",
            "at most 1.05",
            f"{case['integration']:.3f} ({case['cpu']['integration']:.3f} in CPU time)",
            "other load on the machine (spread below; CPU time is the steadier figure); then the choice and the take",
        ),
        (
            "efficiency quotient, two cores",
            "at most 1.25",
            f"{case['efficiency']:.3f} ({case['cpu']['efficiency']:.3f} in CPU time)",
            "the scorers' width of 32: layer norms, GELU and residuals move memory for few products; a wider scorer is nearer, and dearer",
        ),
        (
            "scoring's memory, ratio 10 over 2",
            "within 10 %",
            f"{growth:+.1%}",
            "the scores and loop counters themselves",
        ),
        ("selecting from 65,536", "20 ms", f"{result['selection_65536_ms']:.2f} ms", "one sort of the candidates"),
        (
            "the same, of a ViT-B/16 update at b = 4,096",
            "1 %",
            f"{result['selection_over_vit_b_step']:.1e}",
            "analytic FLOPs at the rate that the learner reaches here",
        ),
    ]
    beside = result["big_vision"]
    if "skipped" not in beside:
        rows.append(
            (
                "uniform ViT-Ti/16 step, ours / big_vision's",
                "at most 1",
                f"{beside['ours_over_theirs']:.3f} ({beside['ours_over_theirs_cpu']:.3f} in CPU time)",
                "the products are the same; how attention and GELU are laid out differs, and what of it costs this is not found yet",
            )
        )
    head = "| figure | target | reached | what limits it |\n| --- | --- | --- | --- |\n"
    return head + "\n".join(f"| {' | '.join(row)} |" for row in rows)


def filled(text: str) -> str:
    """`text` with every block between `<!-- made NAME -->` and `<!-- end -->` made anew."""
    make = {"steps": steps, "scaling": scaling, "pod": pod, "targets": targets}

    def block(match: re.Match) -> str:
        try:
            content = make[match[1]]()
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
            "docs/performance.md is not what the results say: python -m experiments.performance"
            if filled(text) != text
            else 0
        )
    PAGE.write_text(filled(text))


if __name__ == "__main__":
    main()
