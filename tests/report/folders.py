"""Synthetic run folders whose numbers can be followed by hand."""

import json
import re

import numpy as np

REFERENCE = {"accuracy": 0.4, "flops": 10.0, "seconds": 5.0, "charged": True}


def write_run(
    root,
    name,
    steps,
    seed,
    values,
    *,
    baseline=False,
    reference=None,
    cost=1.0,
    snapshot=False,
    **extra,
):
    """A run of `steps` updates with `values` as evenly spaced accuracies; an update costs `cost`
    FLOPs and 0.1 s.
    """
    folder = root / re.sub(r"\W", "_", f"{name}-{steps}-{seed}")
    folder.mkdir(parents=True)
    lines = []
    for n, value in enumerate(values, 1):
        step = steps * n // len(values)
        flops = dict.fromkeys(
            ("online_score", "online_train", "reference_score", "reference_train"), 0.0
        )
        flops |= {
            "learner_train": cost * step,
            "reference_train": reference["flops"] if reference else 0.0,
        }
        lines.append(
            {
                "step": step,
                "examples": 4 * step,
                "candidates": 8 * step,
                "flops": flops,
                "train_seconds": 0.1 * step,
            }
        )
        lines[-1] |= {"test/accuracy": value} | extra
    end = {
        key: lines[-1][key] for key in ("step", "examples", "candidates", "flops", "train_seconds")
    }
    final = {
        "test/accuracy": values[-1],
        "test_full/accuracy": values[-1],
        "test_full/worst_class": 0.1,
    }
    end |= {
        "complete": True,
        "final": final,
        "window_steps": steps,
        "reference": reference,
        "device": "cpu",
    }
    config = {
        "name": name,
        "seed": seed,
        "total_steps": steps,
        "batch_size": 4,
        "policy": "p",
        "baseline": baseline,
    }
    names = ["cat", "<dog>"]
    (folder / "config.json").write_text(
        json.dumps(config | {"config": {"batch_size": 4}, "hash": "h", "class_names": names})
    )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "summary.json").write_text(json.dumps(end))
    if snapshot:
        write_snapshot(folder, steps // 2)
    return folder


def write_snapshot(folder, step):
    (folder / "snapshots").mkdir()
    arrays = {"scores": np.linspace(-1, 1, 32, dtype=np.float32)}
    for side in ("top", "bottom"):
        arrays[f"image_{side}"] = np.full((3, 8, 8, 3), 99, np.uint8)
        arrays[f"label_{side}"] = np.array([0, 1, 0], np.int32)
        arrays[f"clean_label_{side}"] = np.array([0, 0, -1], np.int32)  # right, wrong, unknown
        arrays[f"score_{side}"] = np.array([1.0, 0.5, 0.2], np.float32)
    np.savez(folder / "snapshots" / f"{step:06d}.npz", **arrays)


def write_uniform(root):
    """Two seeds of the baseline: 100 updates end at 0.5, and cost 100 FLOPs and 10 s."""
    for seed, shift in ((1, -0.02), (2, 0.02)):
        write_run(
            root,
            "uniform",
            100,
            seed,
            [0.2 + shift, 0.3 + shift, 0.4 + shift, 0.5 + shift],
            baseline=True,
        )
    return root
