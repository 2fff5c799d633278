"""How well curation finds wrong labels, duplicates and leaks, beside cleanlab on equal predictions.

    python -m experiments.curate [--arm=worse ...] [--examples=10000] [--planted] [--estimates]

Labels: CIFAR-10N's five human label sets on the same 10,000 images (drawn by seed 0). The models
see given labels only; the clean ones decide afterwards what was right. cleanlab (extra `dev`)
gets the same out-of-fold predictions: of each kind of model, of all averaged, and with the
neighbors' votes averaged in; its best score of all is the row to beat. The weights of the combined
score were chosen on `worse` and `random1`; the other three sets had no say.

Each arm is one part of experiments/results/curate.json; an arm that is there is not run again.
Human entropy (CIFAR-10H) is the second target: whether suspicion under the test set's clean
labels finds pictures people disagree about.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np

from active_learning.curation import crossfit, scores
from active_learning.curation.features import patch_features
from active_learning.curation.folds import Pieces, signature

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
            columns |= {name: archive[name][rows].astype(np.int64) for name in ("random2", "random3")}
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
    found = {name: measures(score, wrong) for name, score in ours.items()}
    return {
        "examples": len(labels),
        "wrong": round(float(wrong.mean()), 4),
        "ours": found,
        "cleanlab_best": {"name": best, **rivals[best]},
        "cleanlab_best_with_neighbors": {"name": best_strict, **strict[best_strict]},
        "cleanlab": rivals,
        "gain": round(found["combined"]["auc"] - rivals[best]["auc"], 4),
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


def plant(folder: Path, images: np.ndarray, labels: np.ndarray, names: tuple, seed: int = 0) -> dict:
    """Writes train and test folders of PNGs with known faults, in shares of the training images.

    3 % of the labels exchanged among each other's classes, 2 % exact and 1 % near duplicates
    (resized and compressed), 1/300 of the training images taken from the test set, 1/600 files
    that are no image. The test set is a sixth.

    Returns:
      Paths relative to `train` by kind of fault.
    """
    from active_learning.data.images import cover, encode, encode_png

    rng, n = np.random.default_rng(seed), len(images) * 6 // 7
    given = labels.copy()
    moved = rng.permutation(n)[: round(0.03 * n)]
    given[moved] = (given[moved] + rng.integers(1, len(names), len(moved))) % len(names)
    faults = {kind: set() for kind in ("label", "duplicate", "near_duplicate", "leak", "unreadable")}

    def write(part: str, label: int, name: str, blob: bytes) -> str:
        path = folder / part / names[label] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob)
        return f"{names[label]}/{name}"

    for row in range(len(images)):
        part = "train" if row < n else "test"
        path = write(part, given[row], f"{row:05d}.png", encode_png(images[row]))
        if row in set(moved.tolist()):
            faults["label"].add(path)
    others = rng.permutation(np.setdiff1d(np.arange(n), moved))
    exact, near = np.split(others[: round(0.03 * n)], [round(0.02 * n)])
    for row in exact:
        blob = encode_png(images[row])
        faults["duplicate"].add(write("train", given[row], f"{row:05d}-copy.png", blob))
    for row in near:
        color = np.repeat(images[row], 3, axis=2) if images[row].shape[2] == 1 else images[row]
        blob = encode(cover(color, 40), 80)
        faults["near_duplicate"].add(write("train", given[row], f"{row:05d}-near.jpg", blob))
    for row in range(n, n + max(1, n // 300)):
        blob = encode_png(images[row])
        faults["leak"].add(write("train", given[row], f"{row:05d}-leak.png", blob))
    for number in range(max(1, n // 600)):
        blob = encode_png(images[number])[:100]
        faults["unreadable"].add(write("train", given[number], f"{number:05d}-bad.png", blob))
    return faults


def found_faults(records, faults: dict[str, set[str]]) -> dict:
    """Share of each kind of fault that was found, and how exchanged labels rank.

    An exact copy may be reported under the name of either file, so copies are compared in number
    with the same picture number.
    """
    out = {}
    for kind in ("duplicate", "near_duplicate", "leak", "unreadable"):
        hits = {r.path.split("/")[-1][:5] for r in records if r.issue in _SAME[kind]}
        planted = {path.split("/")[-1][:5] for path in faults[kind]}
        reported = {r.path.split("/")[-1][:5] for r in records if r.issue == kind}
        out[kind] = {
            "planted": len(planted),
            "found": len(planted & hits),
            "reported": len(reported),
        }
    judged = [r for r in records if r.probability is not None]
    order = sorted(judged, key=lambda r: -r.score)
    hits = np.array([r.path in faults["label"] for r in order])
    precision, recall = np.cumsum(hits) / np.arange(1, len(hits) + 1), np.cumsum(hits) / hits.sum()
    out["label"] = {
        "planted": len(faults["label"]),
        "recall_at_precision_0.9": round(float(recall[precision >= 0.9].max(initial=0.0)), 4),
        "recall_at_twice_their_number": round(float(recall[2 * int(hits.sum()) - 1]), 4),
        "precision_at_their_number": round(float(precision[int(hits.sum()) - 1]), 4),
        "auc": round(scores.area_under_roc(-np.arange(len(hits), dtype=float), hits), 4),
    }
    return out


_SAME = {
    "duplicate": ("duplicate",),
    "near_duplicate": ("near_duplicate", "duplicate"),
    "leak": ("leak",),
    "unreadable": ("unreadable",),
}


def planted(examples: int = 3500) -> dict:
    """The faults of `plant` in 3,000 training images of Fashion-MNIST, through the whole pipeline."""
    import shutil
    import tempfile

    from active_learning.curation import pipeline
    from active_learning.curation.decisions import read_rows
    from active_learning.curation.records import Record
    from active_learning.data.sources.from_path import section_of

    with np.load(data_folder() / "fashion_mnist" / "train.npz") as archive:
        images, labels = archive["image"][:examples], archive["label"][:examples].astype(int)
    images = images if images.ndim == 4 else images[..., None]
    folder = Path(tempfile.mkdtemp(dir=WORK))
    try:
        faults = plant(folder / "data", images, labels, FASHION)
        began = time.monotonic()
        section = section_of(str(folder / "data"))
        summary = pipeline.curate(section, folder / "out", pipeline.Options(), "planted")
        seconds = time.monotonic() - began
        rows = read_rows(folder / "out" / "scores.parquet")
        result = found_faults([Record(**row) for row in rows], faults)
        page = (folder / "out" / "index.html").stat().st_size
    finally:
        shutil.rmtree(folder)
    interval = [round(v, 4) for v in (summary.corrupted.low, summary.corrupted.value, summary.corrupted.high)]
    return result | {"wrong_labels": interval, "seconds": round(seconds), "page_bytes": page}


FASHION = ("tshirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")  # fmt: skip


def estimates(extra: Path | None, examples: int = 10_000) -> dict:
    """Intervals of the fraction of wrong labels on nine label sets, by the strength of the model.

    weak: the kernel classifier on raw pixels; middle: the models of `curate`; strong: the same
    classifier on Fashion-MNIST, and on CIFAR-10N with a stand-in for a strong model's features,
    which encode the true class, blurred where the real features confuse it (no pretrained weights
    are at hand; the estimator itself sees neither clean labels nor which model it judges).
    """
    from active_learning.curation import estimate, kernel

    images, columns = cifar_n(examples, extra)
    clean, rng = columns.pop("clean"), np.random.default_rng(7)
    for share in (0, 10, 20, 40):
        wrong = rng.random(examples) < share / 100
        columns[f"synthetic {share} %"] = np.where(wrong, (clean + rng.integers(1, 10, examples)) % 10, clean)
    features = cached_features(images, "cifar10n")
    pixels = images.reshape(examples, -1)[:, ::16].astype(np.float32)
    pixels -= pixels.mean(axis=0)
    pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
    settings = kernel.KernelSettings(landmarks=1024)

    def predict(mapped, labels):
        fold = crossfit.assign_folds(labels, np.arange(examples), 5, 0)
        out = np.zeros((examples, 10))
        for part in range(5):
            out[fold == part] = kernel.held_out_outputs(mapped, labels, 10, fold == part, 1.0)
        return kernel.probabilities(out, labels)

    middle = kernel.kernel_map(features, settings, 0)
    models = {"weak": kernel.kernel_map(pixels, settings, 0), "middle": middle}
    models["strong"] = kernel.kernel_map(_stand_in(features, clean, predict(middle, clean)), settings, 0)
    out = {}
    for model, mapped in models.items():
        for name, labels in columns.items():
            p = predict(mapped, labels)
            found = estimate.corrupted_fraction(estimate.agreement(p, labels))
            truth = float((labels != clean).mean())
            out[f"{model}/{name}"] = {
                "truth": round(truth, 4),
                "low": round(found.low, 4),
                "value": round(found.value, 4),
                "high": round(found.high, 4),
                "contains": found.low <= truth <= found.high,
                "accuracy_on_clean": round(float((p.argmax(axis=1) == clean).mean()), 4),
            }
    return out


def _stand_in(features: np.ndarray, clean: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Class directions mixed with those of the likeliest other class for the hardest quarter."""
    rng, n = np.random.default_rng(1), len(clean)
    margin = scores.margin(p, clean)
    others = p.copy()
    others[np.arange(n), clean] = -1
    hard = np.clip(scores.ranks(-margin) + 0.15 * rng.normal(size=n), 0, 1)
    mixed = (np.clip((hard - 0.75) / 0.25, 0, 1) * 0.6)[:, None]
    axes = rng.normal(size=(10, 64))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    own = features[:, :64] / np.linalg.norm(features[:, :64], axis=1, keepdims=True)
    classes = (1 - mixed) * axes[clean] + mixed * axes[others.argmax(axis=1)]
    out = np.concatenate([0.5 * own, classes + 0.05 * rng.normal(size=(n, 64))], axis=1)
    return (out / np.linalg.norm(out, axis=1, keepdims=True)).astype(np.float32)


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
    args = parser.parse_args(argv)
    WORK.mkdir(parents=True, exist_ok=True)
    if args.planted:
        keep("planted", planted())
        return
    if args.estimates:
        keep("estimates", estimates(args.more_labels))
        return
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in args.arm or LABEL_SETS:
        if f"cifar10n/{name}" in known:
            continue
        result = label_set(name, args.examples, args.more_labels)
        keep(f"cifar10n/{name}", result)
        ours, theirs = result["ours"]["combined"], result["cleanlab_best"]
        print(f"{name}: {ours['auc']:.4f}, cleanlab {theirs['auc']:.4f} ({theirs['name']})", flush=True)


if __name__ == "__main__":
    main()
