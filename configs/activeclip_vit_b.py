"""ActiveCLIP (arXiv 2312.05328): a ViT-B/16 two-tower with the softmax loss on noisy web pairs, scored by ViT-Ti towers.

    python -m active_learning.plan.__main__ --config=configs/activeclip_vit_b.py --examples=1000000000
    python -m active_learning.main --config=configs/activeclip_vit_b.py --config.data.path='DIR/train-{0000..9999}.tar' --workdir=runs/clip

Half of each super-batch is kept, by the paper's l_act: the dot product of a pair's own embeddings. `:uniform` is plain training. Hardware:
64-256 TPU v5e or 16-64 H100; 3 billion examples are about 4e20 FLOPs of the learner. Expected on noisy web pairs, from the paper: 48-51 % fewer
updates than uniform at equal figures. What the reference was trained on matters most: a small clean set (as `reference.part`, or
`--config.reference.kind=loaded --config.reference.path=RUN`) doubles the gain.

Known from the paper: ViT-B/16 learner, small ViT scorers, ratio 2, a reference of cleaner pairs. Uncertain, marked (?): batch size, all of
Adam but its name, text towers, score scale, the number of examples, the split.
"""

from active_learning.config import check_arm, section
from active_learning.core import policies
from active_learning.data.sources.webdataset import WebDataset
from active_learning.models import VARIANTS, Text, TwoTower, ViT
from active_learning.settings import Config, Optim, Pairs, Reference, Select, Split


def towers(variant: str, context: int = 64, keep: float = 1.0, **scan):
    """Both towers of one size: 224 px, patches of 16, a vocabulary of 32,000."""
    size = VARIANTS[variant]
    image = section(ViT, patch=16, pool="map", keep=keep, **size, **scan)
    text = section(Text, vocab=32_000, context=context, pool="last", pad=1, **size, **scan)
    return section(TwoTower, image=image, text=text, image_out=0, text_out=size["width"])


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
            score_scale=30.0,
            text="caption",
            tokenizer="sentencepiece.model",
            pixel_norm="symmetric",
        ),  # (?)
        split=section(
            Split, parts={"pool": 0.95, "reference": 0.05}
        ),  # (?) a clean part of its own is better
        learner=towers("B", scan=True, remat="dots"),
        scorer=towers("Ti", scan=True),
        batch_size=16_384,  # (?)
        total="3000000000 examples",  # (?)
        optim=optim,
        scorer_optim=optim,
        select=section(Select) if uniform else select,
        reference=section(Reference, total="100000000 examples", batch_size=16_384, optim=optim),
        dtype="bfloat16",
    )
