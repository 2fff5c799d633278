"""What experiments/finetune.py fine-tunes, and on what: both made here from the same two data sets.

Pretraining sees the images of the even classes of CIFAR-10 with their true labels, and images of
Fashion-MNIST: 15 classes. Fine-tuning sees the images of the odd classes, with the human labels
`worse`, which may name any of the ten classes. No image is in both.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from active_learning.data.sources.arrays import ENVIRONMENT, Arrays
from active_learning.export import export
from active_learning.models import ViT
from active_learning.settings import Config, Evaluate, Log, Optim
from active_learning.train import loop

# Another form of the layout "timm": class token, exact GELU, biases of queries, keys and values.
TIMM = {"pool": "cls", "prefix_positions": 1, "activation": "gelu", "qkv_bias": "qkv"}
LEARNER = ViT(width=128, depth=4, heads=4, patch=8, **TIMM)
SMOKE = ViT(width=16, depth=1, heads=2, patch=16, **TIMM)


def _archive(name: str, part: str) -> dict[str, np.ndarray]:
    with np.load(Path(os.environ[ENVIRONMENT]) / name / f"{part}.npz") as file:
        return dict(file)


def _stratified(labels: np.ndarray, count: int) -> np.ndarray:
    """The first rows of each class, `count` in all."""
    classes = np.unique(labels)
    return np.sort(
        np.concatenate([np.flatnonzero(labels == c)[: count // len(classes)] for c in classes])
    )


def _pretraining_part(part: str, count: int) -> dict[str, np.ndarray]:
    cifar, fashion = _archive("cifar10n", part), _archive("fashion_mnist", part)
    even = np.flatnonzero(cifar["label"] % 2 == 0)
    rows = _stratified(fashion["label"], count)
    gray = np.pad(fashion["image"][rows], ((0, 0), (2, 2), (2, 2), (0, 0)))
    image = np.concatenate([cifar["image"][even], np.repeat(gray, 3, axis=3)])
    label = np.concatenate([cifar["label"][even] // 2, 5 + fashion["label"][rows]])
    return {"image": image, "label": label.astype(np.int32)}


def _tuning_part(part: str, size: int) -> dict[str, np.ndarray]:
    cifar = _archive("cifar10n", part)
    odd = np.flatnonzero(cifar["label"] % 2 == 1)[: size or None]
    kept = {name: cifar[name][odd] for name in ("image", "label", "label_worse") if name in cifar}
    return kept


def write_data(out: Path, smoke: bool) -> tuple[Path, Path]:
    """Writes the data of pretraining and of fine-tuning, where they are not there yet.

    Returns:
      Their two folders, as `Arrays` reads them.
    """
    folders = out / "pretraining_data", out / "tuning_data"
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "test"):
        file = folders[0] / f"{part}.npz"
        if not file.exists():
            np.savez(file, **_pretraining_part(part, 20_000 if part == "train" else 2_000))
        file = folders[1] / f"{part}.npz"
        if not file.exists():
            np.savez(file, **_tuning_part(part, 1500 if smoke else 0))
    return folders


def pretrain(out: Path, steps: int, smoke: bool) -> Path:
    """Pretrains the ViT and exports it in timm's layout, as a publisher would.

    Returns:
      The folder of the published weights.
    """
    data, _ = write_data(out, smoke)
    published = out / "published"
    if published.exists():
        return published
    config = Config(
        data=Arrays(path=str(data), name="half of CIFAR-10 and Fashion-MNIST"),
        learner=SMOKE if smoke else LEARNER,
        scorer=replace(SMOKE, width=8),
        name="pretraining",
        batch_size=128,
        total=f"{steps} steps",
        optim=Optim(learning_rate=1e-3, weight_decay=0.05, decay_applies_to="kernels"),
        evaluate=Evaluate(every="20 %", subset=1000),
        log=Log(every="5 %", snapshots=0),
    )
    summary = loop.run(config, out / "pretraining")
    if not summary["complete"]:
        raise SystemExit("stopped; the same command continues it")
    export(out / "pretraining", published, "timm")
    return published
