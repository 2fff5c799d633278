# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Ablations: temperature, ratio, window and scorer width
#
# Four short sweeps of learnability selection on generated shapes, 40 % of them mislabeled, each
# compared with uniform training. The models are small, the runs short, and there is one seed:
# trust the directions, not the digits.

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

STEPS = int(os.environ.get("NOTEBOOK_STEPS", "400"))  # 400: about six minutes on two cores
EXAMPLES = max(1000, 15 * STEPS)
RUNS = Path(tempfile.mkdtemp())

# %%
import dataclasses
import json

from active_learning.core import policies
from active_learning.data.sources.shapes import Shapes
from active_learning.models import MLP
from active_learning.references import Trained
from active_learning.settings import Config, Evaluate, Log, Select, Split
from active_learning.train import loop

BASE = Select(policy=policies.learnability, ratio=4, temperature=0.5, until="60 %")


def run(select, scorer=32):
    """Train once.

    Returns the final accuracy, total FLOPs relative to the learner's own, the effective sample size
    as a fraction of the super-batch, and the corrupted fraction of the selected labels.
    """
    config = Config(
        data=Shapes(size=16, train=EXAMPLES, test=max(200, EXAMPLES // 8), noise=0.4),
        split=Split(parts={"pool": 0.6, "reference": 0.4}),
        learner=MLP(width=256, depth=2),
        scorer=MLP(width=scorer, depth=1),
        batch_size=64,
        total=f"{STEPS} steps",
        select=select,
        reference=Trained(path=str(RUNS / f"reference-{scorer}"), total=f"{STEPS} steps"),
        evaluate=Evaluate(every="50 %"),
        log=Log(every="50 %", snapshots=0),
    )
    until = select.until.replace(" ", "")
    workdir = (
        RUNS / f"{select.policy.name}-{select.ratio}-{select.temperature}-{until}-width-{scorer}"
    )
    summary = loop.run(config, workdir)
    first = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[0])
    flops = sum(summary["flops"].values()) / summary["flops"]["learner_train"]
    corrupted = first.get("select/corrupted_fraction", float("nan"))
    return (
        summary["final"]["test_full/accuracy"],
        flops,
        first.get("select/ess_fraction", 1.0),
        corrupted,
    )


uniform = run(Select())
print(f"uniform: accuracy {uniform[0]:.3f}")

# %%
SWEEPS = {
    "temperature": (0.1, 0.5, 2.0),
    "ratio": (2, 4, 8),
    "until": ("20 %", "60 %", "100 %"),
    "scorer": (8, 32, 128),
}
results = {}
for key, values in SWEEPS.items():
    for value in values:
        select = BASE if key == "scorer" else dataclasses.replace(BASE, **{key: value})
        results[key, value] = run(select, value if key == "scorer" else 32)
        accuracy, flops, ess, corrupted = results[key, value]
        print(
            f"{key:12s} {value!s:6s} accuracy {accuracy:.3f}  FLOPs {flops:.2f}x  "
            f"ESS fraction {ess:.2f}  corrupted {corrupted:.2f}"
        )

# %% [markdown]
# A lower temperature or a higher ratio makes selection sharper: a smaller effective sample and
# fewer corrupted labels, until too few distinct examples remain. Scoring is paid per candidate,
# so its cost grows with the ratio, the window and the width of the scorers; wider scorers make a
# better reference.

# %%
import matplotlib.pyplot as plt

figure, panels = plt.subplots(1, 4, figsize=(12, 3), sharey=True, layout="constrained")
for axes, (key, values) in zip(panels, SWEEPS.items(), strict=True):
    axes.plot([str(v) for v in values], [results[key, v][0] for v in values], marker="o")
    axes.axhline(uniform[0], linestyle=":", color="gray")
    axes.set_xlabel(key)
panels[0].set_ylabel("test accuracy (dotted: uniform)")
figure
