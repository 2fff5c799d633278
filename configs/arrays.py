"""Your own images in memory: DIR/train.npz and DIR/test.npz with `image` uint8 (n, height, width[,
channels]) and `label` (n,).

    python -m active_learning.main --config=configs/arrays.py --config.data.path=DIR
        --workdir=runs/mine

A tenth of the examples is the gate, on which it is judged whether selection pays
(docs/choosing.md); the rest is trained on. Hardware: anything; sized for 32 px on a laptop.
`configs/arrays.py:uniform` is the plain run beside it.
"""

from active_learning.config import check_arm, section
from active_learning.core import policies
from active_learning.data.sources.arrays import Arrays
from active_learning.models import ViT
from active_learning.references import Kernel
from active_learning.settings import SIZES, Config, Evaluate, Optim, Select, Split


def get_config(arm: str = "learnability"):
    check_arm(arm, "learnability", "uniform")
    uniform = arm == "uniform"
    select = section(
        Select, policy=policies.class_centred_learnability, ratio=4, temperature=0.5, until="auto"
    )
    return section(
        Config,
        fit=SIZES,
        name="uniform" if uniform else "run",
        baseline=uniform,
        data=section(Arrays, path="", label="label", clean_label=""),
        split=section(Split, parts={"pool": 0.9, "gate": 0.1}),
        learner=section(ViT, width=128, depth=3, heads=4, patch=4),
        scorer=section(ViT, width=32, depth=2, heads=1, patch=4),
        total="20 epochs",
        optim=section(Optim, learning_rate=1e-3),
        select=section(Select) if uniform else select,
        reference=section(Kernel),
        evaluate=section(Evaluate, gate="" if uniform else "gate"),
    )
