"""CIFAR-10 with the human labels `worse` (40 % wrong), no clean label anywhere: the headline
setting of experiments/noise.py.

Hardware: two CPU cores, about 2 minutes. Needs the folder cifar10n (train.npz, test.npz) under
$ACTIVE_LEARNING_DATA. `configs/cifar10n.py:uniform` is the plain run it is compared with. Expected
results: README, "What it saves".
"""

from active_learning.config import check_arm, section
from active_learning.core import policies
from active_learning.data.sources.arrays import Arrays
from active_learning.models import ViT
from active_learning.settings import Config, Evaluate, Optim, Reference, Select, Split


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
        data=section(Arrays, name="cifar10n", label="label_worse", clean_label="label"),
        split=section(
            Split, parts={"pool": 27_000, "reference": 18_000, "gate": 2_500, "tune": 2_500}
        ),
        learner=section(ViT, width=128, depth=3, heads=4, patch=8),
        scorer=section(ViT, width=32, depth=2, heads=1, patch=8),
        batch_size=128,
        total="2400 steps",
        optim=section(Optim, learning_rate=1e-3),
        scorer_optim=section(Optim, learning_rate=2e-3),
        select=select if arm == "learnability" else section(Select),
        reference=section(Reference, total="5000 steps", optim=section(Optim, learning_rate=2e-3)),
        evaluate=section(Evaluate, gate="gate" if arm == "learnability" else ""),
    )
