"""A run of seconds, for measuring what surrounds runs: drawn shapes, multilayer perceptrons."""

from active_learning.config import section
from active_learning.core import policies
from active_learning.data.sources.shapes import Shapes
from active_learning.models import MLP
from active_learning.settings import Checkpoint, Config, Evaluate, Log, Reference, Select, Split


def get_config(updates: str = "24"):
    return section(
        Config,
        data=section(Shapes, train=2000, test=500, noise=0.4),
        split=section(Split, parts={"pool": 1200, "reference": 600, "tune": 200}),
        learner=section(MLP, width=64, depth=1),
        scorer=section(MLP, width=16, depth=1),
        batch_size=32,
        total=f"{updates} steps",
        select=section(Select, policy=policies.learnability, ratio=4),
        reference=section(Reference, total=f"{int(updates) // 2} steps"),
        evaluate=section(Evaluate, every="25 %"),
        checkpoint=section(Checkpoint, every="25 %"),
        log=section(Log, chosen=True),
    )
