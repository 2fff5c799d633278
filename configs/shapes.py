"""Drawn shapes with 40 % wrong labels, nothing to download: the setting of `make demo`.

Hardware: two CPU cores, about a minute. `configs/shapes.py:uniform` is the plain run it is compared
with.
"""

from active_learning.config import check_arm, section
from active_learning.core import policies
from active_learning.data.sources.shapes import Shapes
from active_learning.models import ViT
from active_learning.settings import Config, Optim, Reference, Select, Split


def get_config(arm: str = "learnability"):
    check_arm(arm, "learnability", "uniform")
    select = section(
        Select,
        policy=policies.cautious_learnability,
        ratio=4,
        temperature=0.5,
        until="60 %",
        score_chunk=128,
    )
    return section(
        Config,
        name=arm,
        baseline=arm == "uniform",
        data=section(Shapes, train=16_000, test=4_000, noise=0.4),
        split=section(Split, parts={"pool": 9_000, "reference": 6_000, "tune": 1_000}),
        learner=section(ViT, width=128, depth=3, heads=4, patch=8),
        scorer=section(ViT, width=32, depth=2, heads=1, patch=8),
        batch_size=128,
        total="1200 steps",
        optim=section(
            Optim, learning_rate=2e-3 if arm == "learnability" else 1e-3
        ),  # each arm's best on tune, other seeds
        scorer_optim=section(Optim, learning_rate=2e-3),
        select=select if arm == "learnability" else section(Select),
        reference=section(Reference, total="2000 steps", optim=section(Optim, learning_rate=2e-3)),
    )
