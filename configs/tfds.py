"""A set of TensorFlow Datasets in the ArrayRecord format, read without TensorFlow:
DIR/NAME/VERSION.

    python -m active_learning.prepare FOLDER_OF_THE_ORIGINAL_FILES DIR --tfds=fashion_mnist
    python -m active_learning.main --config=configs/tfds.py --config.data.path=DIR
        --config.data.name=fashion_mnist --workdir=runs/mine

A tenth is held out as the test set where there is none; of the rest a tenth is the gate, on which
it is judged whether selection pays (docs/choosing.md), and the rest is the training data.
Images are seen at their own size, at most 64 px; larger:
`--config.data.size=224 --config.learner.patch=16 --config.scorer.patch=16`. Hardware: anything; at
64 px a laptop. `configs/tfds.py:uniform` is the plain run beside it.
"""

from active_learning.config import check_arm, section
from active_learning.core import policies
from active_learning.data.sources.tfds import Tfds
from active_learning.models import ViT
from active_learning.references import Kernel
from active_learning.settings import SIZES, Config, Evaluate, Optim, Select, Split


def get_config(arm: str = "learnability"):
    check_arm(arm, "learnability", "uniform")
    select = section(
        Select, policy=policies.class_centred_learnability, ratio=4, temperature=0.5, until="auto"
    )
    return section(
        Config,
        fit=SIZES,
        name=arm,
        baseline=arm == "uniform",
        data=section(Tfds, path="~/tensorflow_datasets", name="fashion_mnist", size=0),
        split=section(Split, parts={"pool": 0.9, "gate": 0.1}),
        learner=section(ViT, width=192, depth=4, heads=3, patch=8),
        scorer=section(ViT, width=48, depth=2, heads=1, patch=8),
        batch_size=64,
        total="20 epochs",
        optim=section(Optim, learning_rate=1e-3),
        select=select if arm == "learnability" else section(Select),
        reference=section(Kernel),
        evaluate=section(Evaluate, gate="gate" if arm == "learnability" else ""),
    )
