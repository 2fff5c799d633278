"""ActiveSigLIP (arXiv 2312.05328): configs/activeclip_vit_b.py with the sigmoid loss.

    python -m active_learning.main --config=configs/activesiglip_vit_b.py --workdir=runs/siglip \\
        --config.data.path='DIR/train-{0000..9999}.tar'

Published SigLIP weights can be the reference. As large as the learner, they would not pay if they
ran on every candidate, so they embed each image and caption once:

    ... --config=configs/activesiglip_vit_b.py:published \\
        --config.reference.path=webli_en_b16_224_63724782.npz

Hardware as for ActiveCLIP. Expected, from the paper: about half of uniform's updates on noisy web
pairs with a reference of cleaner pairs. `python -m active_learning.plan` prints the bill first.
"""

from active_learning.config import check_arm, section
from active_learning.settings import Pairs, Reference
from configs import activeclip_vit_b


def get_config(arm: str = "learnability"):
    check_arm(arm, "learnability", "published", "uniform")
    config = activeclip_vit_b.get_config("uniform" if arm == "uniform" else "learnability")
    config.name = "uniform" if arm == "uniform" else "ActiveSigLIP"
    config.task = section(
        Pairs,
        loss="sigmoid",
        loss_chunk=1024,
        score_scale=30.0,  # (?)
        text="caption",
        tokenizer="sentencepiece.model",
        pixel_norm="symmetric",
    )
    if arm == "published":
        path = "webli_en_b16_224_63724782.npz"
        config.reference = section(Reference, kind="embedded", path=path)
    return config
