"""ActiveCLIP (arXiv 2312.05328): a ViT-B/16 two-tower on noisy web pairs, scored by ViT-Ti towers.

    python -m active_learning.plan --config=configs/activeclip_vit_b.py \\
        --examples=1000000000 --topology=v5litepod-64
    python -m active_learning.main --config=configs/activeclip_vit_b.py --workdir=runs/clip \\
        --config.data.path='DIR/train-{0000..9999}.tar'

The loss is the softmax one. Half of each super-batch is selected by the paper's l_act, the dot
product of a pair's own embeddings; `:uniform` trains without selection.

Hardware: 64-256 TPU v5e or 16-64 H100. On 64 TPU v5e (256 pairs a chip) the step needs 7.5 of
16 GiB, as compiled for v5e:8x8; without remat it would need over 30. 3 billion examples are about
4e20 FLOPs of the learner, and a third of that again for rematerialization.

Expected on noisy web pairs, from the paper: 48-51 % fewer updates than uniform for equal metrics.
What the reference was trained on matters most: a small clean set (as `reference.part`, or
`--config.reference.kind=loaded --config.reference.path=RUN`) doubles the gain.

Known from the paper: ViT-B/16 learner, small ViT scorers, ratio 2, a reference of cleaner pairs.
Uncertain, marked (?): batch size, all of Adam but its name, text towers, score scale, the number of
examples, the split.
"""

from active_learning.config import check_arm, section
from active_learning.core import policies
from active_learning.data.sources.webdataset import WebDataset
from active_learning.models import VARIANTS, Text, TwoTower, ViT
from active_learning.settings import Config, Optim, Pairs, Reference, Select, Split


def towers(variant: str, context: int = 64, keep: float = 1.0):
    """Both towers of one size: 224 px, patches of 16, a vocabulary of 32,000.

    With full rematerialization, so that 256 pairs fit a chip of 16 GiB.
    """
    shared = VARIANTS[variant] | {"scan": True, "remat": "full"}
    image = section(ViT, patch=16, pool="map", keep=keep, **shared)
    text = section(Text, vocab=32_000, context=context, pool="last", pad=1, **shared)
    return section(TwoTower, image=image, text=text, image_out=0, text_out=shared["width"])


def get_config(arm: str = "learnability"):
    check_arm(arm, "learnability", "uniform")
    uniform = arm == "uniform"
    optim = section(Optim, learning_rate=1e-3, warmup="5 %", weight_decay=1e-4, b2=0.95)  # (?)
    select = section(Select, policy=policies.learnability, ratio=2, score_chunk=64)
    return section(
        Config,
        name="uniform" if uniform else "ActiveCLIP",
        baseline=uniform,
        data=section(WebDataset, path="", size=224, label="", text="caption"),
        task=section(
            Pairs,
            loss="softmax",
            loss_chunk=1024,
            score_scale=30.0,  # (?)
            text="caption",
            tokenizer="sentencepiece.model",
            pixel_norm="symmetric",
        ),
        # (?) A clean part of its own is better.
        split=section(Split, parts={"pool": 0.95, "reference": 0.05}),
        learner=towers("B"),
        scorer=towers("Ti"),
        batch_size=16_384,  # (?)
        total="3000000000 examples",  # (?)
        optim=optim,
        scorer_optim=optim,
        select=section(Select) if uniform else select,
        reference=section(Reference, total="100000000 examples", batch_size=16_384, optim=optim),
        dtype="bfloat16",
    )
