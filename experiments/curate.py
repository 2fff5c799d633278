"""How well curation finds wrong labels, duplicates and leaks, beside cleanlab on equal predictions.

    python -m experiments.curate [--arm=worse ...] [--examples=10000]
    python -m experiments.curate --planted|--estimates|--humans

Labels: CIFAR-10N's five human label sets on the same 10,000 images (drawn by seed 0). The models
see given labels only; the clean ones decide afterwards what was right. cleanlab (extra `dev`)
gets the same out-of-fold predictions: of each kind of model, of all averaged, and with the
neighbors' votes averaged in; its best score of all is the row to beat. The weights of the combined
score were chosen on `worse` and `random1`; whitening, kernel width and ridge, which help both
sides alike, on all five.

Each arm is one part of experiments/results/curate.json; an arm that is there is not run again.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np

from active_learning.curation import crossfit, scores
from active_learning.curation.features import patch_features
from active_learning.storage.pieces import Pieces, signature
from experiments import curate_checks, curate_humans

RESULTS = Path(__file__).parent / "results" / "curate.json"
WORK = Path("runs/curate")
LABEL_SETS = ("worse", "random1", "random2", "random3", "aggre")


def data_folder() -> Path:
    """The folder with cifar10n and fashion_mnist."""
    if not os.environ.get("ACTIVE_LEARNING_DATA"):
        raise SystemExit("error: set ACTIVE_LEARNING_DATA to the folder with cifar10n/train.npz")
    return Path(os.environ["ACTIVE_LEARNING_DATA"])


def cifar_n(examples: int, extra: Path | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images and label columns of a fixed random subset; `clean` is the truth."""
    with np.load(data_folder() / "cifar10n" / "train.npz") as archive:
        rows = np.sort(np.random.default_rng(0).permutation(len(archive["label"]))[:examples])
        images = archive["image"][rows]
        columns = {
            name.removeprefix("label_"): archive[name][rows].astype(np.int64)
            for name in archive.files
            if name.startswith("label_")
        }
        columns["clean"] = archive["label"][rows].astype(np.int64)
    if extra is not None:
        with np.load(extra) as archive:
            columns |= {
                name: archive[name][rows].astype(np.int64) for name in ("random2", "random3")
            }
    return images, columns


def cached_features(images: np.ndarray, name: str) -> np.ndarray:
    """Features of the images, kept in the work folder."""
    pieces = Pieces(WORK, signature(images))
    piece = pieces.load(f"features-{name}")
    if piece is None:
        piece = {"features": patch_features(images)}
        pieces.save(f"features-{name}", piece)
    return piece["features"]


def judge(
    features: np.ndarray, labels: np.ndarray, classes: int, name: str, **settings
) -> tuple[crossfit.Evidence, float]:
    """The evidence on one label set, and the seconds it took (0 where it was there)."""
    examples = crossfit.Examples(features, labels, classes, np.arange(len(labels)))
    chosen = crossfit.CrossFit(**settings)
    began = time.monotonic()
    pieces = Pieces(WORK / name, signature(features, labels, chosen))
    return crossfit.cross_fit(examples, chosen, pieces), time.monotonic() - began


def measures(score: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
    """Area under the ROC, average precision, precision among the top 1, 5 and 10 %."""
    out = {"auc": scores.area_under_roc(score, wrong), "ap": scores.average_precision(score, wrong)}
    out |= {f"p@{share}": scores.precision_at(score, wrong, share / 100) for share in (1, 5, 10)}
    return {name: round(value, 4) for name, value in out.items()}


def cleanlab_scores(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Every label quality score of cleanlab, negated: higher = more suspect."""
    from cleanlab.rank import get_label_quality_scores

    out = {}
    for method in ("self_confidence", "normalized_margin", "confidence_weighted_entropy"):
        for adjust in (False, True) if method != "confidence_weighted_entropy" else (False,):
            name = method + ("_adjusted" if adjust else "")
            out[name] = -get_label_quality_scores(
                labels, probabilities, method=method, adjust_pred_probs=adjust
            )
    return out


def compare(evidence: crossfit.Evidence, labels: np.ndarray, wrong: np.ndarray) -> dict:
    """All scores of one label set."""
    from cleanlab.rank import get_label_quality_ensemble_scores

    rows = np.arange(len(labels))
    kernel, network = evidence.kernel.mean(axis=0), evidence.last.mean(axis=0)
    sets = {
        "kernel, one repeat": evidence.kernel[0],
        "kernel": kernel,
        "network, one repeat": evidence.last[0],
        "network": network,
        "network, all checkpoints": evidence.trained.mean(axis=0),
        "all, arithmetic mean": (kernel + evidence.trained.mean(axis=0)) / 2,
        "all, geometric mean": evidence.probabilities,
    }
    rivals = {
        f"{name}: {method}": measures(score, wrong)
        for name, probabilities in sets.items()
        for method, score in cleanlab_scores(probabilities, labels).items()
    }
    every = [np.maximum(p, scores.FLOOR) for p in (*evidence.kernel, *evidence.last)]
    ensemble = -get_label_quality_ensemble_scores(
        labels, [p / p.sum(axis=1, keepdims=True) for p in every], verbose=False
    )
    rivals["ensemble of all: self_confidence"] = measures(ensemble, wrong)
    with_votes = (kernel + evidence.trained.mean(axis=0) + evidence.votes) / 3
    strict = {
        f"all and neighbors: {method}": measures(score, wrong)
        for method, score in cleanlab_scores(with_votes, labels).items()
    }
    ours = {
        "combined": crossfit.suspicion(evidence, labels),
        "lift": scores.lift(evidence.probabilities, labels, 1.5, 1.0),
        "out-of-fold loss": scores.mean_loss(
            np.concatenate([evidence.kernel, evidence.trained]), labels
        ),
        "area under the margin": -evidence.margins.mean(axis=0),
        "epoch learned": evidence.learned.mean(axis=0),
        "forgetting": evidence.forgotten.mean(axis=0),
        "neighbors": -evidence.votes[rows, labels],
    }
    best = max(rivals, key=lambda name: rivals[name]["auc"])
    best_strict = max(strict, key=lambda name: strict[name]["auc"])
    result = {name: measures(score, wrong) for name, score in ours.items()}
    return {
        "examples": len(labels),
        "wrong": round(float(wrong.mean()), 4),
        "ours": result,
        "cleanlab_best": {"name": best, **rivals[best]},
        "cleanlab_best_with_neighbors": {"name": best_strict, **strict[best_strict]},
        "cleanlab": rivals,
        "gain": round(result["combined"]["auc"] - rivals[best]["auc"], 4),
    }


def label_set(name: str, examples: int, extra: Path | None) -> dict:
    """One of CIFAR-10N's label sets."""
    images, columns = cifar_n(examples, extra)
    labels, clean = columns[name], columns["clean"]
    features = cached_features(images, "cifar10n")
    evidence, seconds = judge(features, labels, 10, name)
    result = compare(evidence, labels, labels != clean)
    result["accuracy_on_clean"] = round(
        float((evidence.probabilities.argmax(axis=1) == clean).mean()), 4
    )
    return result | {"seconds": round(seconds)}


def human_votes(examples: int) -> dict:
    """Labels of one person each, with the votes of 50 to judge them by."""
    images, clean, counts = curate_humans.votes(data_folder(), examples)
    labels = curate_humans.drawn_labels(counts)
    evidence, seconds = judge(cached_features(images, "cifar10h"), labels, 10, "humans")
    result = compare(evidence, labels, labels != clean)
    ambiguous = curate_humans.ambiguity(evidence, labels, counts)
    return result | {"ambiguity": ambiguous, "seconds": round(seconds)}


def human_table() -> str:
    """The table of docs/curate.md on CIFAR-10H."""
    return curate_humans.table(json.loads(RESULTS.read_text())["cifar10h"]["ambiguity"])


def auc_table() -> str:
    """The table of docs/curate.md."""
    known = json.loads(RESULTS.read_text())
    lines = [
        "| labels | wrong | curate | cleanlab's best | difference | cleanlab with neighbors |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in LABEL_SETS:
        row = known[f"cifar10n/{name}"]
        ours, best, strict = (
            row["ours"]["combined"], row["cleanlab_best"], row["cleanlab_best_with_neighbors"]
        )  # fmt: skip
        cells = [f"{one['auc']:.4f} ({one['p@5']:.2f})" for one in (ours, best, strict)]
        gain = f"{ours['auc'] - best['auc']:+.4f}"
        lines.append(
            f"| {name} | {row['wrong']:.1%} | {cells[0]} | {cells[1]} | {gain} | {cells[2]} |"
        )
    return "\n".join(lines)


def planted_table() -> str:
    """The second table of docs/curate.md."""
    known = json.loads(RESULTS.read_text())["planted"]
    lines = ["| fault | planted | found | reported |", "| --- | --- | --- | --- |"]
    for kind in ("duplicate", "near_duplicate", "leak", "unreadable"):
        row = known[kind]
        lines.append(f"| {kind} | {row['planted']} | {row['found']} | {row['reported']} |")
    row = known["label"]
    share = row["recall_at_precision_0.9"]
    twice = row["recall_at_twice_their_number"]
    planted = row["planted"]
    result = f"{share:.0%} at a precision of 90 %, {twice:.0%} among the first {2 * planted}"
    lines.append(f"| exchanged label | {planted} | {result} | AUC {row['auc']:.3f} |")
    return "\n".join(lines)


def keep(name: str, value: dict) -> None:
    """Adds one arm to the results file, atomically."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known[name] = value
    partial = RESULTS.with_suffix(".tmp")
    partial.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    partial.replace(RESULTS)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.curate", description=__doc__)
    parser.add_argument("--arm", action="append", choices=LABEL_SETS)
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--more-labels", type=Path, help="cifar10n_labels.npz, for random2 and 3")
    parser.add_argument("--planted", action="store_true", help="only the planted faults")
    parser.add_argument("--estimates", action="store_true", help="only the intervals")
    parser.add_argument("--humans", action="store_true", help="only the votes of CIFAR-10H")
    args = parser.parse_args(argv)
    WORK.mkdir(parents=True, exist_ok=True)
    if args.planted:
        keep("planted", curate_checks.planted(data_folder(), WORK))
        return
    if args.humans:
        keep("cifar10h", human_votes(args.examples))
        return
    if args.estimates:
        images, columns = cifar_n(args.examples, args.more_labels)
        features = cached_features(images, "cifar10n")
        keep("estimates", curate_checks.estimates(images, columns, features))
        return
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in args.arm or LABEL_SETS:
        if f"cifar10n/{name}" in known:
            continue
        result = label_set(name, args.examples, args.more_labels)
        keep(f"cifar10n/{name}", result)
        ours, theirs = result["ours"]["combined"], result["cleanlab_best"]
        print(
            f"{name}: {ours['auc']:.4f}, cleanlab {theirs['auc']:.4f} ({theirs['name']})",
            flush=True,
        )


if __name__ == "__main__":
    main()
