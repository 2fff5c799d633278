"""The paper's own setting (arXiv 2312.05328): a ViT-L/16, scored by ViTs 50 or more times cheaper.

    python -m active_learning.plan --config=configs/classact_vit_l.py \\
        --classes=18291 --examples=300000000
    python -m active_learning.main --config=configs/classact_vit_l.py:ti --workdir=runs/vit_l \\
        --config.data.path=DIR

Scorers by name after the colon: `ti` (default), `s`, `b`, `mu`; `uniform` trains without selection.

Hardware: an accelerator pod. On 256 TPU v5e (16 images a chip) the step needs 7.8 of 16 GiB, as
compiled for v5e:16x16. The paper's shortest budget is 0.3 billion examples (5.6e19 multiply-adds
of the learner alone).

Expected, on JFT-300M: 26 % fewer updates and 19 % less compute with `ti`, its training and scoring
included; 28-30 % and 9 % with `s`; 31 % and 45 % *more* compute with `b`.

Known from the paper: models, 224 px, patch 16, ratio 2, T = 1 (no other is shown), Adam with cosine
decay from 1e-3, label smoothing 0.1, float32 scores of images without augmentation, a reference
trained as long as the learner. Uncertain, marked (?): batch size, warm-up, weight decay, b2,
augmentation, the shape of ViT-Mu (only that it is 1000 times smaller), the split. The paper's
JFT-300M is private: bring arrays of your own.
"""

from active_learning.config import check_arm, section
from active_learning.core import policies
from active_learning.data.sources.arrays import Arrays
from active_learning.models import VARIANTS, ViT
from active_learning.settings import Config, Labels, Optim, Reference, Select, Split

SCORERS = {"ti": "Ti", "s": "S", "b": "B", "mu": "mu"}  # names in `models.VARIANTS`


def get_config(scorer: str = "ti"):
    check_arm(scorer, *SCORERS, "uniform")
    uniform = scorer == "uniform"
    small = VARIANTS[SCORERS["ti" if uniform else scorer]]
    optim = section(Optim, learning_rate=1e-3, warmup="5 %", weight_decay=1e-4, b2=0.99)  # (?)
    select = section(Select, policy=policies.learnability, ratio=2, temperature=1.0, score_chunk=32)
    return section(
        Config,
        name="uniform" if uniform else f"classact {scorer}",
        baseline=uniform,
        data=section(Arrays, name="imagenet", label="label", clean_label=""),
        # (?) Held-out; the paper also trains the reference on the pool.
        split=section(Split, parts={"pool": 0.9, "reference": 0.1}),
        learner=section(ViT, patch=16, remat="dots", scan=True, **VARIANTS["L"]),
        scorer=section(ViT, patch=16, scan=True, **small),
        batch_size=4096,  # (?)
        total="300000000 examples",
        optim=optim,
        scorer_optim=optim,
        select=section(Select) if uniform else select,
        reference=section(
            Reference,
            total="300000000 examples",
            batch_size=4096,
            optim=section(Optim, learning_rate=1e-3),
        ),
        augment=True,  # (?)
        task=section(Labels, label_smoothing=0.1),
        dtype="bfloat16",  # (?)
    )
