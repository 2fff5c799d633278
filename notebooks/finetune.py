# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Fine-tune what you have
#
# You have a published model, and pictures of your own whose labels are partly wrong. This notebook
# fine-tunes the model twice, on everything and on what is selected, where selecting costs next to
# nothing: reference and online model are linear heads on features that the published model gives
# once. Nothing is downloaded, so the "published" model is pretrained here on clean shapes; your own
# weights are a folder or file in any layout of docs/weights.md. Set `WEIGHTS` to it, and `DATA` to
# `ImageFolder(path=...)`.

# %%
# Use active_learning if it is installed, else the clone around this notebook, else the repository.
import importlib.util
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("active_learning") is None:
    folders = (Path.cwd(), *Path.cwd().parents)
    clones = [path for path in folders if (path / "active_learning" / "core" / "step.py").is_file()]
    source = str(clones[0]) if clones else "git+https://git.example/active_learning"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)
    importlib.invalidate_caches()

# %%
import os
import tempfile

STEPS = int(os.environ.get("NOTEBOOK_STEPS", "400"))  # 400: about three minutes on two cores
EXAMPLES = max(1000, 10 * STEPS)
RUNS = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A published model
#
# A small ViT is trained on shapes with right labels and exported in timm's layout. Reading it back
# takes no sizes typed by hand: layout, sizes and normalization are in the file.

# %%
from active_learning.data.sources.shapes import Shapes
from active_learning.export import export
from active_learning.models import ViT
from active_learning.models.weights import open_weights
from active_learning.models.weights.check import sizes
from active_learning.settings import Config, Evaluate, Log, Optim
from active_learning.train import loop

WEIGHTS = RUNS / "published"
timm = {"pool": "cls", "prefix_positions": 1, "activation": "gelu", "qkv_bias": "qkv"}
pretraining = Config(
    data=Shapes(size=16, train=EXAMPLES, test=200, seed=1, noise=0.0),
    learner=ViT(width=32, depth=2, heads=2, patch=8, **timm),
    scorer=ViT(width=8, depth=1, heads=1, patch=8),
    batch_size=64,
    total=f"{STEPS} steps",
    evaluate=Evaluate(every="50 %"),
    log=Log(snapshots=0),
)
loop.run(pretraining, RUNS / "pretraining")
export(RUNS / "pretraining", WEIGHTS, "timm")
print(*sizes(open_weights(WEIGHTS)), sep="\n")

# %% [markdown]
# ## What it will cost
#
# The data are other shapes, 40 % of them mislabeled. Both references are heads, each trained on one
# half of the pool, so that none scores its own examples and nothing is held out. The plan prints
# the bill before anything runs: the one pass that stores features is on it, and the heads are
# hardly visible.

# %%
from dataclasses import replace

from active_learning.core import policies
from active_learning.models import OnFeatures, Published
from active_learning.plan.report import Assumptions, plan_lines
from active_learning.references import CrossFitted
from active_learning.settings import Select

DATA = Shapes(size=16, train=EXAMPLES, test=max(200, EXAMPLES // 8), noise=0.4)
uniform = Config(
    data=DATA,
    learner=Published(path=str(WEIGHTS), layer_decay=0.75, head_rate=5.0),
    scorer=OnFeatures(store=str(RUNS / "features")),
    name="uniform",
    batch_size=64,
    total=f"{STEPS} steps",
    optim=Optim(learning_rate=1e-3, weight_decay=0.05, decay_applies_to="kernels"),
    evaluate=Evaluate(every="50 %"),
    log=Log(snapshots=0),
)
selecting = replace(
    uniform,
    name="heads on features",
    select=Select(policy=policies.cautious_learnability, ratio=4, temperature=0.5, until="60 %"),
    reference=CrossFitted(total=f"{STEPS} steps", batch_size=64),
)
for line in plan_lines(selecting, Assumptions()):
    print(line)
    if line.startswith("break-even"):
        break

# %% [markdown]
# ## Fine-tuning
#
# The head is new, since the classes need not be the same. The second run computes features once,
# trains two heads on them, and then selects 64 of 256 candidates without reading an image of those
# it leaves out.

# %%
results = {
    config.name: loop.run(config, RUNS / config.name.replace(" ", "-"))
    for config in (uniform, selecting)
}
for name, summary in results.items():
    accuracy, flops = summary["final"]["test_full/accuracy"], sum(summary["flops"].values())
    print(f"{name:20s} accuracy {accuracy:.1%}, {flops:.2e} FLOPs, all charged")

# %% [markdown]
# Compare at equal cost, over several seeds, before you believe a difference: docs/weights.md has
# such a comparison. With `freeze="all but head"` in `Published` the trunk stays as it is, and
# `export` writes the result in the publisher's layout again.
