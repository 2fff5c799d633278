"""The paper's own setting (arXiv 2312.05328): a ViT-L/16 at 224 px, scored by ViTs 50 or more times cheaper, half of each super-batch kept.

    python -m active_learning.plan.__main__ --config=configs/classact_vit_l.py --classes=18291 --examples=300000000
    python -m active_learning.main --config=configs/classact_vit_l.py:ti --config.data.path=DIR --workdir=runs/vit_l

Scorers by name after the colon: `ti` (default), `s`, `b`, `mu`, and `uniform` for plain training. Hardware: an accelerator pod; the paper's
shortest budget is 0.3 billion examples (5.6e19 multiply-adds of the learner alone). Expected, on JFT-300M: 26 % fewer updates and 19 % less
compute with `ti`, all of its training and scoring paid for; 28-30 % and 9 % with `s`; 31 % and 45 % *more* compute with `b`.

Known from the paper: models, 224 px, patch 16, ratio 2, T = 1 (none is shown), Adam with cosine decay from 1e-3, label smoothing 0.1, float32
scores on the plain view, a reference trained as long as the learner. Uncertain, marked (?) below: batch size, warm-up, weight decay, b2,
augmentation, the shape of ViT-Mu (only that it is 1000 times smaller), the split. The paper's JFT-300M is private: bring arrays of your own.
"""

from active_learning.config import check_arm, section
from active_learning.core import policies
from active_learning.data.sources.arrays import Arrays
from active_learning.models import ViT
from active_learning.settings import Config, Optim, Reference, Select, Split

SCORERS = {
    "ti": {"width": 192, "depth": 12, "heads": 3},
    "s": {"width": 384, "depth": 12, "heads": 6},
    "b": {"width": 768, "depth": 12, "heads": 12},
    "mu": {
        "width": 64,
        "depth": 6,
        "heads": 1,
    },  # (?) 0.3 M parameters beside the head and the positions
}


def get_config(scorer: str = "ti"):
    check_arm(scorer, *SCORERS, "uniform")
    small = SCORERS[scorer if scorer != "uniform" else "ti"]
    select = section(Select, policy=policies.learnability, ratio=2, temperature=1.0, chunk=32)
    return section(
        Config,
        name=f"classact {scorer}" if scorer != "uniform" else "uniform",
        baseline=scorer == "uniform",
        data=section(Arrays, name="imagenet", label="label", clean_label=""),
        split=section(
            Split, parts={"pool": 0.9, "reference": 0.1}
        ),  # (?) held-out; the paper also trains it on the pool
        learner=section(ViT, width=1024, depth=24, heads=16, patch=16, remat="dots", scan=True),
        scorer=section(ViT, patch=16, scan=True, **small),
        batch_size=4096,  # (?)
        total="300000000 examples",
        optim=section(
            Optim, learning_rate=1e-3, warmup="5 %", weight_decay=1e-4, b2=0.99
        ),  # (?) but the rate
        scorer_optim=section(
            Optim, learning_rate=1e-3, warmup="5 %", weight_decay=1e-4, b2=0.99
        ),  # (?) but the rate
        select=select if scorer != "uniform" else section(Select),
        reference=section(
            Reference,
            total="300000000 examples",
            batch_size=4096,
            optim=section(Optim, learning_rate=1e-3),
        ),
        augment=True,  # (?)
        label_smoothing=0.1,
        dtype="bfloat16",  # (?)
    )
