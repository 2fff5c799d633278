"""Flickr8k (8,000 photos, five captions each) with half of the pool's captions exchanged: the
setting of experiments/flickr.py.

    python -m active_learning.main --config=configs/flickr8k.py --workdir=runs/flickr
    python -m active_learning.evaluate runs/flickr

Reads tars in the WebDataset layout (train-*.tar, val-*.tar, test-*.tar) in
$ACTIVE_LEARNING_DATA/flickr8k; elsewhere: --config.data.path='DIR/train-*.tar'
--config.data.test_path='DIR/test-*.tar' --config.evaluate.also.val.path=... alike. Arms after the
colon: `learnability` (default), `easy`, `loss`, `joint`, `uniform`. Hardware: two CPU cores, a few
minutes. Expected: docs/image_text.md.
"""

import os

from active_learning.config import check_arm, section
from active_learning.core import policies
from active_learning.data.sources.webdataset import WebDataset
from active_learning.models import Text, TwoTower, ViT
from active_learning.settings import Config, Evaluate, Optim, Pairs, Reference, Select, Split

ARMS = {
    "learnability": policies.learnability,
    "easy": policies.easy_reference,
    "loss": policies.pair_learnability,
    "joint": policies.joint,
    "uniform": policies.uniform,
}
CLASSES = ("dog", "boy", "girl", "man", "woman", "water", "snow", "beach", "ball", "bike")


def towers(width: int, depth: int, heads: int):
    """Both towers, of one width, for 48 px and 16 tokens."""
    return section(
        TwoTower,
        image=section(ViT, width=width, depth=depth, heads=heads, patch=16),
        text=section(Text, vocab=2048, context=16, width=width, depth=1, heads=heads),
    )


def source(test: str = "test"):
    """The tars, judged by those whose names start with `test`."""
    folder = f"{os.environ.get('ACTIVE_LEARNING_DATA', 'data')}/flickr8k"
    paths = {"path": f"{folder}/train-*.tar", "test_path": f"{folder}/{test}-*.tar"}
    return section(WebDataset, **paths, size=48, label="", text="captions")


def get_config(arm: str = "learnability"):
    check_arm(arm, *ARMS)
    uniform = arm == "uniform"
    select = section(Select, policy=ARMS[arm], ratio=5, until="60 %")
    return section(
        Config,
        name=arm,
        baseline=uniform,
        data=source(),
        task=section(
            Pairs,
            loss="sigmoid" if arm == "joint" else "softmax",
            shuffled_captions={"pool": 0.5},
            pixel_norm="symmetric",
            classes=CLASSES,
        ),
        split=section(Split, parts={"pool": 3_500, "reference": 2_000, "gate": 250, "tune": 250}),
        learner=towers(64, 2, 2),
        scorer=towers(32, 1, 1),
        batch_size=128,
        total="300 steps",
        optim=section(Optim, learning_rate=3e-3, warmup="10 %", weight_decay=0.01),
        scorer_optim=section(Optim, learning_rate=3e-3, warmup="10 %", weight_decay=0.01),
        select=section(Select) if uniform else select,
        reference=section(
            Reference,
            total="300 steps",
            optim=section(Optim, learning_rate=3e-3, warmup="10 %", weight_decay=0.01),
        ),
        evaluate=section(
            Evaluate, every="10 %", gate="" if uniform else "gate", also={"val": source("val")}
        ),
    )
