"""JEST (arXiv 2406.17711): a ViT-B/16 two-tower; sub-batches selected jointly at ratio 5.

    python -m active_learning.main --config=configs/jest_vit_b.py --workdir=runs/jest \\
        --config.data.path='DIR/train-{0000..9999}.tar'

Scored by the learner itself and a reference of its size, as in the paper; `:cheap` by ViT-Ti towers
that see a quarter of the patches (nearer to the cost of Flexi-JEST); `:uniform` is plain SigLIP.

Hardware: 256 TPU v5e or more, b = 32,768, B = 163,840. On 256 of them (128 pairs and 640 candidates
a chip) the step needs 7.0 of 16 GiB, as compiled for v5e:16x16; selection sends 48 MB a chip.

Expected, from the paper (JEST++, its reference trained on a curated set): ImageNet zero-shot 76.9
and COCO 70.3 / 53.3 after 4 billion examples, beside SigLIP's 76.7 and 65.2 / 47.4 after 40
billion; an update costs 233 % of uniform's FLOPs with stored reference scores, the training of the
reference not counted.

Known from the paper: sizes, filter ratio 0.8 (B = 5 b), 16 chunks, sigmoid loss. Uncertain, marked
(?): rate, decay, scale of the scores.
"""

from dataclasses import replace
from functools import partial

from active_learning.config import check_arm, section
from active_learning.core import pair_scores, policies
from active_learning.settings import Pairs, Reference, Select
from configs import activeclip_vit_b

BY_LEARNER = replace(
    policies.joint,
    name="joint by learner",
    score=partial(pair_scores.joint_learnability, model="learner"),
    needs=("learner", "reference"),
)


def get_config(arm: str = "joint"):
    check_arm(arm, "joint", "cheap", "uniform")
    uniform, cheap = arm == "uniform", arm == "cheap"
    config = activeclip_vit_b.get_config("uniform")
    config.name, config.baseline = "uniform" if uniform else f"JEST {arm}", uniform
    config.batch_size, config.total = 32_768, "4000000000 examples"
    config.task = section(
        Pairs,
        loss="sigmoid",
        loss_chunk=1024,
        text="caption",
        tokenizer="sentencepiece.model",
        pixel_norm="symmetric",
    )
    if not uniform:
        policy = policies.joint if cheap else BY_LEARNER
        # (?) temperature
        config.select = section(Select, policy=policy, ratio=5, temperature=1.0, score_chunk=64)
        small = activeclip_vit_b.towers("Ti", keep=0.25)
        config.scorer = small if cheap else activeclip_vit_b.towers("B")
        config.reference = section(Reference, total="1000000000 examples", batch_size=32_768)
    return config
