"""A small world for the loop's tests: 600 images on disk whose class is their colour, a third of
the labels wrong, an MLP as every model.
"""

import dataclasses
from pathlib import Path

import numpy as np

from active_learning.core import policies
from active_learning.data.sources.arrays import Arrays
from active_learning.models import MLP
from active_learning.references import Trained
from active_learning.settings import (
    Checkpoint,
    Config,
    Evaluate,
    Log,
    Optim,
    Select,
    Split,
)
from active_learning.train.signals import PreemptionGuard

CLASSES = 4


def write_arrays(folder: Path, train: int = 600, test: int = 120, seed: int = 0) -> Path:
    """train.npz and test.npz with columns image, label (a third wrong) and clean."""
    rng = np.random.default_rng(seed)
    tint = rng.integers(40, 216, (CLASSES, 3))
    for part, count in (("train", train), ("test", test)):
        clean = rng.integers(0, CLASSES, count).astype(np.int32)
        image = np.clip(
            tint[clean][:, None, None] + rng.normal(0, 60, (count, 8, 8, 3)), 0, 255
        ).astype(np.uint8)
        label = np.where(
            rng.random(count) < (1 / 3 if part == "train" else 0), (clean + 1) % CLASSES, clean
        ).astype(np.int32)
        np.savez(folder / f"{part}.npz", image=image, label=label, clean=clean)
    return folder


def config(folder: Path, **changes) -> Config:
    """Learnability at ratio 4 with a short window; `changes` replace fields."""
    base = Config(
        data=Arrays(path=str(folder), label="label", clean_label="clean"),
        learner=MLP(width=32, depth=1),
        scorer=MLP(width=8, depth=1),
        split=Split(parts={"pool": 400, "reference": 120, "gate": 40, "tune": 40}),
        batch_size=16,
        total="12 steps",
        optim=Optim(learning_rate=3e-3),
        select=Select(policy=policies.learnability, ratio=4, temperature=0.5, until="50 %"),
        reference=Trained(total="20 steps", batch_size=16),
        evaluate=Evaluate(every="3 steps", subset=60, batch_size=64, gate="gate"),
        log=Log(every="2 steps", chosen=True, snapshots=3),
        checkpoint=Checkpoint(every="50 %"),
    )
    return dataclasses.replace(base, **changes)


class StopAfter(PreemptionGuard):
    """Asks the loop to stop once it has looked `looks` times."""

    def __init__(self, looks: int):
        self.left = looks

    @property
    def requested(self) -> bool:
        self.left -= 1
        return self.left < 0


def own_run(config: Config) -> Config:
    """The run that trains the config's reference."""
    return config.reference.own_runs(config)[""]
