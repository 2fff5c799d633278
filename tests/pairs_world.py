"""A small world of image-text pairs: tars of 8 x 8 images whose captions name their colour and
brightness, and tiny towers.
"""

import dataclasses
import io
import json
import tarfile
from pathlib import Path

import numpy as np

from active_learning.core import policies
from active_learning.data import images
from active_learning.data.sources.webdataset import WebDataset
from active_learning.models import MLP, Text, TwoTower
from active_learning.references import Trained
from active_learning.settings import (
    Checkpoint,
    Config,
    Evaluate,
    Log,
    Optim,
    Pairs,
    Select,
    Split,
)

COLOURS = {
    "red": (200, 30, 30),
    "green": (30, 200, 30),
    "blue": (30, 30, 200),
    "grey": (120, 120, 120),
}


def write_tars(folder: Path, train: int = 96, test: int = 24, seed: int = 0) -> Path:
    """train-0.tar and test-0.tar with KEY.jpg and KEY.json ("captions": two each)."""
    rng = np.random.default_rng(seed)
    for part, count in (("train", train), ("test", test)):
        with tarfile.open(folder / f"{part}-0.tar", "w") as tar:
            for n in range(count):
                name = list(COLOURS)[n % 4]
                dark = rng.random() < 0.5
                pixels = np.clip(
                    np.array(COLOURS[name]) * (0.5 if dark else 1) + rng.normal(0, 8, (8, 8, 3)),
                    0,
                    255,
                )
                text = [
                    f"a {'dark' if dark else 'bright'} {name} square",
                    f"the {name} one is {'dark' if dark else 'bright'}",
                ]
                about = {"captions": text, "filename": f"{part}{n}.jpg"}
                for suffix, blob in (
                    (".jpg", images.encode(pixels.astype(np.uint8))),
                    (".json", json.dumps(about).encode()),
                ):
                    member = tarfile.TarInfo(f"{part}{n:04d}{suffix}")
                    member.size = len(blob)
                    tar.addfile(member, io.BytesIO(blob))
    return folder


def towers(width: int = 8, **text) -> TwoTower:
    fields = {"vocab": 320, "context": 8, "width": width, "depth": 0, "heads": 1} | text
    return TwoTower(MLP(width=width, depth=1), Text(**fields), image_out=8, text_out=8)


def config(folder: Path, **changes) -> Config:
    """Dot-product learnability at ratio 2 with half of the pool's captions exchanged; `changes`
    replace fields.
    """
    base = Config(
        data=WebDataset(path=str(folder), size=8, label="", text="captions", threads=1),
        task=Pairs(shuffled_captions={"pool": 0.5}),
        learner=towers(16),
        scorer=towers(8),
        split=Split(parts={"pool": 64, "reference": 16, "gate": 8, "tune": 8}),
        batch_size=16,
        total="4 steps",
        optim=Optim(learning_rate=3e-3),
        select=Select(policy=policies.learnability, ratio=2, until="50 %"),
        reference=Trained(total="0 steps", batch_size=8),
        evaluate=Evaluate(every="2 steps", subset=24, batch_size=24, gate="gate"),
        log=Log(every="1 steps", chosen=True, snapshots=3),
        checkpoint=Checkpoint(every="50 %"),
    )
    return dataclasses.replace(base, **changes)
