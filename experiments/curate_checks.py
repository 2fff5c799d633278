"""Checks of curation: planted faults, and intervals of the fraction of wrong labels."""

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from active_learning.curation import estimate, kernel, pipeline, scores
from active_learning.curation.folds import assign_folds
from active_learning.curation.records import Record
from active_learning.data.decisions import read_rows
from active_learning.data.images import cover, encode, encode_png
from active_learning.data.sources.from_path import section_of

FASHION = (
    "tshirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip
_SAME = {
    "duplicate": ("duplicate",),
    "near_duplicate": ("near_duplicate", "duplicate"),
    "leak": ("leak",),
    "unreadable": ("unreadable",),
}


def plant(
    folder: Path, images: np.ndarray, labels: np.ndarray, names: tuple, seed: int = 0
) -> dict:
    """Writes train and test folders of PNGs with known faults, in shares of the training images.

    3 % of the labels exchanged among each other's classes, 2 % exact and 1 % near duplicates
    (resized and compressed), 1/300 of the training images taken from the test set, 1/600 files
    that are no image. The test set is a sixth.

    Returns:
      Paths relative to `train` by kind of fault.
    """
    rng, n = np.random.default_rng(seed), len(images) * 6 // 7
    given = labels.copy()
    moved = rng.permutation(n)[: round(0.03 * n)]
    given[moved] = (given[moved] + rng.integers(1, len(names), len(moved))) % len(names)
    faults = {
        kind: set() for kind in ("label", "duplicate", "near_duplicate", "leak", "unreadable")
    }

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


def found_faults(records: Sequence[Record], faults: dict[str, set[str]]) -> dict:
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


def planted(data: Path, work: Path, examples: int = 3500) -> dict:
    """The faults of `plant` in 3,000 training images of Fashion-MNIST, all of it."""
    with np.load(data / "fashion_mnist" / "train.npz") as archive:
        images, labels = archive["image"][:examples], archive["label"][:examples].astype(int)
    images = images if images.ndim == 4 else images[..., None]
    folder = Path(tempfile.mkdtemp(dir=work))
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
    interval = [
        round(v, 4)
        for v in (summary.corrupted.low, summary.corrupted.value, summary.corrupted.high)
    ]
    return result | {"wrong_labels": interval, "seconds": round(seconds), "page_bytes": page}


def estimates(
    images: np.ndarray, columns: dict[str, np.ndarray], features: np.ndarray
) -> dict[str, dict]:
    """Intervals of the fraction of wrong labels on nine label sets, by the strength of the model.

    weak: the kernel classifier on raw pixels; middle: the models of `curate`; strong: the same
    classifier on Fashion-MNIST, and on CIFAR-10N with a stand-in for a strong model's features,
    which encode the true class, blurred where the real features confuse it (no pretrained weights
    are at hand; the estimator itself sees neither clean labels nor which model it judges).
    """
    examples = len(images)
    clean, rng = columns.pop("clean"), np.random.default_rng(7)
    for share in (0, 10, 20, 40):
        wrong = rng.random(examples) < share / 100
        columns[f"synthetic {share} %"] = np.where(
            wrong, (clean + rng.integers(1, 10, examples)) % 10, clean
        )
    pixels = images.reshape(examples, -1)[:, ::16].astype(np.float32)
    pixels -= pixels.mean(axis=0)
    pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
    settings = kernel.KernelSettings(landmarks=1024)
    middle = kernel.kernel_map(features, settings, 0)
    models = {"weak": kernel.kernel_map(pixels, settings, 0), "middle": middle}
    models["strong"] = kernel.kernel_map(
        stand_in(features, clean, predict(middle, clean)), settings, 0
    )
    out = {}
    for model, mapped in models.items():
        for name, labels in columns.items():
            p = predict(mapped, labels)
            result = estimate.corrupted_fraction(estimate.agreement(p, labels))
            truth = float((labels != clean).mean())
            out[f"{model}/{name}"] = {
                "truth": round(truth, 4),
                "low": round(result.low, 4),
                "value": round(result.value, 4),
                "high": round(result.high, 4),
                "contains": result.low <= truth <= result.high,
                "accuracy_on_clean": round(float((p.argmax(axis=1) == clean).mean()), 4),
            }
    return out


def predict(mapped: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Out-of-fold probabilities of the kernel classifier, in five folds of ten classes."""
    fold = assign_folds(labels, np.arange(len(labels)), 5, 0)
    out = np.zeros((len(labels), 10))
    for part in range(5):
        out[fold == part] = kernel.held_out_outputs(mapped, labels, 10, fold == part, 1.0)
    return kernel.probabilities(out, labels)


def stand_in(features: np.ndarray, clean: np.ndarray, p: np.ndarray) -> np.ndarray:
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
