"""How often is what a kernel reference says of the labels right, and when is it a reason to select?

    python -m experiments.label_draws

Draws of CIFAR-10 and Fashion-MNIST (2,500, 5,000 and 12,000 images, balanced and long-tailed 50:1),
their labels clean, 10, 20 and 40 % of them replaced, or human ones of CIFAR-10N; three sizes of the
reference. Each is asked as in a run with `select.until='auto'`, and what such a run would decide is
written down. Minutes on one core.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from active_learning.curation.features import PatchFeatures, fit_patches, fitted_features
from active_learning.curation.kernel import KernelSettings, Landmarks, best_temperature, softmax
from active_learning.data import splits
from active_learning.data.sources.arrays import Arrays
from active_learning.metrics import write_atomic
from active_learning.references.kernel import FOLDS, SAMPLE, SIZES
from active_learning.references.kernel_fit import fit_kernel
from active_learning.tasks.base import LabelCheck
from active_learning.tasks.labels import check_of
from active_learning.train import economics
from experiments import safety

RESULTS = Path(__file__).parent / "results" / "label_draws.json"
COUNTS = (2500, 5000, 12_000)
REFERENCES = ("tiny", "small", "medium")
HUMAN = ("worse", "random1", "aggre")
BLOCK = 500  # images at a time


def draws() -> list[tuple[str, np.ndarray, dict[str, np.ndarray], np.ndarray]]:
    """Name, images, labels by how they are given, and true labels of each draw."""
    out = []
    for name in ("cifar10n", "fashion_mnist"):
        source = Arrays(name=name, clean_label="").open().train
        clean = source.labels("label").astype(np.int64)
        given = {"clean": clean}
        given |= {
            f"{wrong:.0%} replaced": safety.corrupted(clean, wrong) for wrong in (0.1, 0.2, 0.4)
        }
        if name == "cifar10n":
            given |= {f"human, {one}": source.labels(f"label_{one}") for one in HUMAN}
        for count in COUNTS:
            for shape in ("balanced", "long-tailed"):
                rows = np.arange(count) if shape == "balanced" else safety.tail(clean, count)
                labels = {one: values[rows].astype(np.int64) for one, values in given.items()}
                images = source.gather(rows)["image"]
                out.append((f"{name} {count} {shape}", images, labels, clean[rows]))
    return out


def described(images: np.ndarray, settings: PatchFeatures) -> np.ndarray:
    """Features of all images, fitted to the first of them."""
    fitted = fit_patches(images[:SAMPLE], settings)
    features = jax.jit(lambda block: fitted_features(settings, fitted, block))
    blocks = [images[at : at + BLOCK] for at in range(0, len(images), BLOCK)]
    return np.concatenate([np.asarray(features(jnp.asarray(block))) for block in blocks])


def asked(features: np.ndarray, labels: np.ndarray, landmarks: int) -> LabelCheck:
    """What a reference says of labels that it was not fitted to."""
    fold, read = splits.fold_of(np.arange(len(labels)), FOLDS), lambda at: features[at]
    points = Landmarks.of(features[:landmarks], KernelSettings.width)
    fit = fit_kernel(read, labels, fold, safety.CLASSES, points, KernelSettings.ridge)
    outputs = fit.outputs(read, len(labels), fold)
    return check_of(softmax(outputs / best_temperature(outputs, labels)), labels, labels)


def main() -> None:
    rows = []
    for name, images, given, clean in draws():
        for size in REFERENCES:
            features = described(images, SIZES[size].patches)
            for kind, labels in given.items():
                check = asked(features, labels, SIZES[size].landmarks)
                truth, interval = float((labels != clean).mean()), check.corrupted
                row = {"draw": name, "size": size, "labels": kind, "truth": truth}
                row |= {"estimate": interval.value, "low": interval.low, "high": interval.high}
                row |= {"contains": interval.low <= truth <= interval.high}
                rows.append(row | {"decision": economics.opening(check).decision})
                print(row, flush=True)
    write_atomic(RESULTS, json.dumps({"draws": rows}, indent=1) + "\n")
    print(table({"draws": rows}))


def table(result: dict) -> str:
    """Markdown: by how the labels are given, intervals, estimates and decisions."""
    lines = [
        "| labels | corrupted, % | draws | interval contains it | estimates, % | selects |",
        f"|{' --- |' * 6}",
    ]
    for kind in dict.fromkeys(row["labels"] for row in result["draws"]):
        own = [row for row in result["draws"] if row["labels"] == kind]
        estimates = sorted(100 * row["estimate"] for row in own)
        cells = [kind, f"{100 * np.mean([row['truth'] for row in own]):.0f}", str(len(own))]
        cells += [str(sum(row["contains"] for row in own))]
        cells += [f"{estimates[0]:.0f} to {estimates[-1]:.0f}"]
        cells += [str(sum(row["decision"] == "select" for row in own))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
