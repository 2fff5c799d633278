"""Does the printed interval of corrupted labels contain the truth, with three kinds of models?

    python -m experiments.label_check [--examples 10000] [--more-labels cifar10n_labels.npz]

Ten label sets: CIFAR-10N's five human ones, 0, 10, 20 and 40 % wrong labels on the same images, and
20 % on Fashion-MNIST. The shipped model is the reference of configs/arrays.py, and its interval the
one that a run prints; the weak one is the scorer of that config after five passes over a fifth of
the examples. The strong one is a cross-fitted kernel classifier, on CIFAR-10 with a stand-in for
the features of a pretrained model (experiments/curate_checks.py), for none is at hand; the check
sees predictions and labels only.
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np

from active_learning import distributed
from active_learning.config import freeze
from active_learning.curation import kernel
from active_learning.data.sources.arrays import Arrays
from active_learning.metrics import show_log, write_atomic
from active_learning.references import Reference, Trained
from active_learning.settings import Config
from active_learning.tasks.labels import check_of
from active_learning.train import loop
from active_learning.train.build import build
from configs import arrays as own_data
from experiments import curate, curate_checks, safety

RESULTS = Path(__file__).parent / "results" / "label_check.json"
WEAK_PASSES = 5
MODELS = ("weak", "shipped", "strong")


def label_sets(
    examples: int, more: Path | None
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Images, given labels and true labels of each set, by name."""
    images, columns = curate.cifar_n(examples, more)
    clean = columns.pop("clean")
    out = {f"CIFAR-10N {name}": (images, labels, clean) for name, labels in columns.items()}
    for wrong in (0.0, 0.1, 0.2, 0.4):
        out[f"CIFAR-10, {wrong:.0%} wrong"] = (images, safety.corrupted(clean, wrong), clean)
    source = Arrays(name="fashion_mnist", clean_label="").open().train
    rows = np.arange(examples)
    clean = source.labels("label")[rows]
    labels = safety.corrupted(clean, 0.2)
    out["Fashion-MNIST, 20 % wrong"] = (source.gather(rows)["image"], labels, clean)
    return out


def printed(images: np.ndarray, labels: np.ndarray, work: Path, weak: bool) -> dict:
    """What a run prints of the labels of its pool, where it is long enough to ask its reference."""
    for part in ("train", "test"):
        count = len(labels) if part == "train" else 500
        np.savez(work / f"{part}.npz", image=images[:count], label=labels[:count])
    shipped = freeze(own_data.get_config())
    config = dataclasses.replace(shipped, data=Arrays(path=str(work), clean_label=""))
    if weak:
        parts = {"pool": 0.7, "reference": 0.2, "gate": 0.1}
        split = dataclasses.replace(shipped.split, parts=parts)
        reference = Trained(total=f"{WEAK_PASSES} epochs")
        config = dataclasses.replace(config, split=split, reference=reference)
    else:
        config = dataclasses.replace(config, reference=sized(config))
    config = dataclasses.replace(config, total="1 steps")
    return loop.run(config, work / f"run-{weak}")["labels"]


def sized(config: Config) -> Reference:
    """The reference of the whole run for one of a single update, and free of charge."""
    return dataclasses.replace(build(config).reference, charge=False)


def strong(images: np.ndarray, labels: np.ndarray, clean: np.ndarray, name: str) -> dict:
    """The check of a cross-fitted kernel classifier."""
    features = curate.cached_features(images, name)
    settings = kernel.KernelSettings(landmarks=1024)
    mapped = kernel.kernel_map(features, settings, 0)
    if images.shape[-1] == 3:
        own = curate_checks.stand_in(features, clean, curate_checks.predict(mapped, clean))
        mapped = kernel.kernel_map(own, settings, 0)
    labels = labels.astype(np.int64)
    return check_of(curate_checks.predict(mapped, labels), labels, labels).as_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--more-labels", type=Path, help="with random2 and random3 of CIFAR-10N")
    args = parser.parse_args()
    show_log()
    distributed.enable_compilation_cache()
    curate.WORK.mkdir(parents=True, exist_ok=True)
    done: dict[str, dict] = json.loads(RESULTS.read_text())["sets"] if RESULTS.exists() else {}
    out = {name: one for name, one in done.items() if set(MODELS) <= set(one)}
    sets = label_sets(args.examples, args.more_labels)
    for name, (images, labels, clean) in sets.items():
        if name in out:
            continue
        truth = float((labels != clean).mean())
        with tempfile.TemporaryDirectory() as work:
            checks = {
                "weak": printed(images, labels, Path(work), weak=True),
                "shipped": printed(images, labels, Path(work), weak=False),
                "strong": strong(images, labels, clean, name.split(",")[0].split("N ")[0]),
            }
        out[name] = {"truth": truth}
        for model, check in checks.items():
            low, high = check["corrupted"]["low"], check["corrupted"]["high"]
            out[name][model] = check | {"contains": low <= truth <= high, "width": high - low}
            print(f"{name}, {model}: {truth:.1%} in {low:.1%} .. {high:.1%}", flush=True)
        out = {name: out[name] for name in sets if name in out} | out  # in the order of the sets
        result = {"examples": args.examples, "sets": out, "summary": summary(out)}
        write_atomic(RESULTS, json.dumps(result, indent=1) + "\n")


def table(result: dict) -> str:
    """Markdown: the truth, and each model's interval."""
    lines = [
        "| labels | corrupted, % | interval of the weak model | it predicts, % "
        "| interval of the shipped model | estimate | it predicts, % "
        "| interval of the strong model | it predicts, % |",
        f"|{' --- |' * 9}",
    ]
    for name, one in result["sets"].items():
        cells = [name, f"{100 * one['truth']:.1f}"]
        for model in MODELS:
            interval, mark = one[model]["corrupted"], "" if one[model]["contains"] else " (missed)"
            cells.append(f"{100 * interval['low']:.1f} to {100 * interval['high']:.1f}{mark}")
            if model == "shipped":
                cells.append(f"{100 * interval['value']:.1f}")
            cells.append(f"{100 * one[model]['agreement']['value']:.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(sets: dict[str, dict]) -> dict:
    """By model: in how many sets the interval contains the truth, and the widest one."""
    return {
        model: {
            "contains": sum(one[model]["contains"] for one in sets.values()),
            "of": len(sets),
            "widest": max(one[model]["width"] for one in sets.values()),
        }
        for model in MODELS
    }


if __name__ == "__main__":
    main()
