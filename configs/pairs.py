"""Your own image-text pairs: tars (as img2dataset writes them), a table of paths and captions (CSV,
TSV, JSON lines, COCO's caption files; also open_clip's), a folder with metadata.jsonl or
metadata.csv, Parquet, or what `prepare` wrote.

    python -m active_learning.main --config=configs/pairs.py --config.data.path=DIR_OR_TABLE
    --workdir=runs/mine

Captions are the column `caption`, or where there is none the usual other names (captions, text,
title, ...); another one: `--config.data.text=NAME --config.task.text=NAME`. They are never
shuffled. A tenth of the pictures is held out as the test set where there is none, a fifth of the
rest trains the reference; all rows of one picture stay together. Images are seen at 64 px; larger:
`--config.data.size=224 --config.learner.image.patch=16 --config.scorer.image.patch=16`. Hardware:
anything; as it is a laptop. Expected: `test/recall` above chance (1 / test pairs) within the first
epochs. `configs/pairs.py:uniform` is the plain run beside it.
"""

from active_learning.config import check_arm, section
from active_learning.core import policies
from active_learning.data.sources.from_path import FromPath
from active_learning.models import Text, TwoTower, ViT
from active_learning.settings import SIZES, Config, Optim, Pairs, Reference, Select, Split


def towers(width: int, depth: int, heads: int):
    """Both towers, of one width, for 64 px and 32 tokens."""
    return section(
        TwoTower,
        image=section(ViT, width=width, depth=depth, heads=heads, patch=8),
        text=section(Text, vocab=4096, context=32, width=width, depth=depth, heads=heads),
    )


def get_config(arm: str = "learnability"):
    check_arm(arm, "learnability", "uniform")
    optim = section(Optim, learning_rate=1e-3, warmup="10 %")
    return section(
        Config,
        fit=SIZES,
        name=arm,
        baseline=arm == "uniform",
        data=section(FromPath, path="", size=64, label="", text="caption"),
        task=section(Pairs, loss="softmax", text="caption"),
        split=section(Split, parts={"pool": 0.75, "reference": 0.2, "tune": 0.05}),
        learner=towers(192, 4, 3),
        scorer=towers(48, 2, 1),
        batch_size=64,
        total="20 epochs",
        optim=optim,
        select=section(Select)
        if arm == "uniform"
        else section(Select, policy=policies.learnability, ratio=4, until="60 %"),
        reference=section(Reference, total="20 epochs", batch_size=64, optim=optim),
    )
