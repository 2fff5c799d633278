"""Fine-tune published weights on your own images whose labels are partly wrong.

    python -m active_learning.main --config=configs/finetune.py --config.learner.path=WEIGHTS \
        --config.data.path=DIR --workdir=runs/finetune

WEIGHTS is a .safetensors or .npz file, or a folder with one, in a layout of docs/weights.md; sizes,
normalization and resolution are read from it, the head is new where the classes are others. DIR is
as for configs/folder.py. `python -m active_learning.weights WEIGHTS` shows what is in a file.

Images are seen at the size of the data; `--config.data.size=224` resizes them to that of the
weights, which is best (it must be a multiple of the patch). Train the head alone with
`--config.learner.freeze="all but head"`, or half of a ViT-B with `"first 6 blocks"`.

Arms, by what scores: `configs/finetune.py:learnability` (default), a small ViT from scratch;
`:features`, linear heads on features that WEIGHTS give in one pass over the data; `:published`,
smaller published weights, `--config.scorer.path=SMALLER`; and `:uniform`, nothing.
`python -m active_learning.plan` with the same flags prints the bill of each before anything runs.
Hardware: an accelerator for a ViT-B at 224 px.
"""

from active_learning.config import check_arm, section
from active_learning.core import policies
from active_learning.data.sources import ImageFolder
from active_learning.models import OnFeatures, Published, ViT
from active_learning.settings import SIZES, Config, Evaluate, Optim, Reference, Select, Split

# The scorer of each arm.
SCORERS = {
    "learnability": lambda: section(ViT, width=64, depth=4, heads=2, patch=16),
    "features": lambda: section(OnFeatures),
    "published": lambda: section(Published, path="", layer_decay=0.75, head_rate=5.0),
    "uniform": lambda: section(ViT, width=64, depth=4, heads=2, patch=16),
}


def get_config(arm: str = "learnability"):
    """The config of one arm."""
    check_arm(arm, *SCORERS)
    select = section(
        Select, policy=policies.class_centred_learnability, ratio=4, temperature=0.5, until="auto"
    )
    return section(
        Config,
        fit=SIZES,
        name=arm,
        baseline=arm == "uniform",
        data=section(ImageFolder, path="", size=0),
        split=section(Split, parts={"pool": 0.7, "reference": 0.2, "gate": 0.1}),
        learner=section(Published, path="", layer_decay=0.75, head_rate=5.0),
        scorer=SCORERS[arm](),
        batch_size=64,
        total="10 epochs",
        # Published values for fine-tuning a ViT with layer-wise decay (arXiv 2106.08254 and
        # 2111.06377).
        optim=section(
            Optim,
            learning_rate=5e-4,
            warmup="10 %",
            weight_decay=0.05,
            b2=0.999,
            decay_applies_to="kernels",
        ),
        select=section(Select) if arm == "uniform" else select,
        reference=section(Reference, total="20 epochs", batch_size=64),
        evaluate=section(Evaluate, gate="" if arm == "uniform" else "gate"),
    )
