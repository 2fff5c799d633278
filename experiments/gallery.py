"""One page of the results for image-text pairs, for references from elsewhere, and of scaling.

    python -m experiments.gallery [--out runs/gallery/index.html]

Made from the committed experiments/results/*.json and figures; nothing is trained. What has not
been measured is said on the page.
"""

import argparse
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from active_learning.metrics import write_atomic
from active_learning.report.gallery import Section, render
from experiments import flickr_arms, readme, scaling_law, transfer
from experiments.arms import Arm

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results"
# (name of an arm, runs of it) of each row of a result.
Runs = Iterable[tuple[str, int]]


@dataclass(frozen=True)
class Experiment:
    """One experiment and where its results are."""

    # Of the JSON in experiments/results.
    name: str
    title: str
    about: str
    command: str
    table: Callable[[Any], str]
    # The runs that a result holds, and the arms that it should hold.
    runs: Callable[[Any], Runs]
    arms: Callable[[], list[Arm]]
    figures: tuple[tuple[str, str], ...]
    page: str

    def section(self, out: Path) -> Section:
        """The experiment on a page in the folder `out`."""
        file, results, links = RESULTS / f"{self.name}.json", "", []
        if file.exists():
            result = json.loads(file.read_text())
            results = "\n\n".join((self.count(result), self.table(result)))
            links.append(("all numbers", file))
        links.append(("more", ROOT / self.page))
        return Section(
            self.name,
            self.title,
            self.about,
            self.command,
            results,
            tuple((text, ROOT / figure) for text, figure in self.figures),
            tuple((text, os.path.relpath(to, out)) for text, to in links),
        )

    def count(self, result: Any) -> str:
        """How many of the planned runs a result holds, and which arms lack some."""
        planned, found = Counter(), Counter()
        for arm in self.arms():
            planned[arm.config.name] += len(arm.seeds)
        for name, runs in self.runs(result):
            found[name] += runs
        there = sum(min(found[name], runs) for name, runs in planned.items())
        text = f"{there} of {planned.total()} runs are measured."
        lacking = [
            f"{name} ({found[name]} of {n})" for name, n in planned.items() if found[name] < n
        ]
        return f"{text} Missing: {'; '.join(lacking)}." if lacking else text


def _flickr(phase: str, title: str, about: str, arms: Callable) -> Experiment:
    name = f"flickr_desk_{phase}"
    return Experiment(
        name,
        title,
        about,
        f"python -m experiments.flickr --scale=desk --phase={phase}",
        readme.pairs,
        lambda rows: ((row["arm"], len(row["seeds"])) for row in rows),
        lambda: arms(flickr_arms.SCALES["desk"]),
        (
            (
                "mean log(1 + rank) of each arm with its interval, and the fraction of exchanged "
                "captions among the chosen pairs",
                f"docs/{name}.png",
            ),
        ),
        "docs/image_text.md",
    )


def _beaten(own: float | None, learner: float) -> bool:
    return own is not None and own >= learner


def scaling(result: dict) -> str:
    """The tables of scaling_law, after a sentence on how many comparisons count."""
    error = {(r["size"], r["updates"]): r["error"] for r in result["rows"] if r["arm"] == "uniform"}
    ours = [r for r in result["rows"] if r["arm"] != "uniform"]
    void = [_beaten(r["reference"], 1 - error[r["size"], r["updates"]]) for r in ours]
    return f"{_void(sum(void), len(void))}\n\n{scaling_law.table(result)}"


def transferred(result: dict) -> str:
    """The table of transfer, after the same sentence."""
    mean = lambda row: sum(row["accuracy"]) / len(row["accuracy"])
    uniform = {r["pool"]: mean(r) for r in result["rows"] if r["reference"] == "uniform"}
    ours = [r for r in result["rows"] if r["reference"] != "uniform"]
    void = [_beaten(r["reference_accuracy"], uniform[r["pool"]]) for r in ours]
    return f"{_void(sum(void), len(void))}\n\n{transfer.table(result)}"


def _void(void: int, total: int) -> str:
    return (
        f"In {void} of {total} comparisons the reference alone is at least as good as uniform "
        "training: no saving is claimed there."
    )


EXPERIMENTS = (
    _flickr(
        "methods",
        "Image-text pairs: newer objectives, cheaper joint selection",
        "Flickr8k, half of the captions exchanged, a clean held-out third trains the reference. "
        "Joint selection with two passes, forward reuse, stored embeddings and two resolutions; "
        "distillation; concept balance. Lower log(1 + rank) is better.",
        flickr_arms.method_arms,
    ),
    _flickr(
        "final",
        "Image-text pairs: which reference",
        "The same pairs. Setting (a): the reference learns from a clean held-out third, its "
        "control is the learner trained on that third. Setting (b): no clean caption anywhere.",
        flickr_arms.final_arms,
    ),
    Experiment(
        "scaling_law_desk",
        "Error against total compute",
        "CIFAR-10 with human labels of which 40 % are wrong; three learner sizes at four budgets, "
        "one seed, one scorer for all sizes, its reference trained for each budget and charged.",
        "python -m experiments.scaling_law --scale=desk",
        scaling,
        lambda result: ((f"{r['arm']}, {r['size']}", 1) for r in result["rows"]),
        lambda: scaling_law.arms(scaling_law.SCALES["desk"]),
        (
            (
                "error against total FLOPs, by learner size and arm",
                "experiments/results/scaling_law_desk.svg",
            ),
        ),
        "docs/results.md",
    ),
    Experiment(
        "transfer_desk",
        "References from elsewhere",
        "Five classes of CIFAR-10 with clean or human labels; references trained on the same data, "
        "on a small curated part and the rest, or on features of other images.",
        "python -m experiments.transfer --scale=desk",
        transferred,
        lambda result: (
            (f"{r['pool']} pool, {r['reference']}", len(r["seeds"])) for r in result["rows"]
        ),
        lambda: transfer.arms(transfer.SCALES["desk"], Path(), Path(), Path()),
        (),
        "docs/choosing.md",
    ),
)


def write(out: Path) -> None:
    """Writes the page."""
    out.parent.mkdir(parents=True, exist_ok=True)
    sections = [one.section(out.resolve().parent) for one in EXPERIMENTS]
    lead = (
        "Four experiments on choosing what to train on. A comparison counts only where the "
        "reference alone is worse than uniform training; what does not count is marked."
    )
    write_atomic(out, render("Selection beyond labels: pairs, transfer, scale", lead, sections))


def main() -> None:
    """Writes the page and says where."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/gallery/index.html"))
    args = parser.parse_args()
    write(args.out)
    print(args.out)


if __name__ == "__main__":
    main()
