# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What temperature, ratio, window and the scorer's size do
#
# Four short sweeps of learnability selection on drawn shapes of which 40 % are mislabelled, each against plain training.
# Small models and few updates: read the direction, not the digits (one seed).

# %%
import importlib.util
import subprocess
import sys
from pathlib import Path

SOURCE = ".."  # a clone of the repository around this notebook; on Colab "git+" and its address
if importlib.util.find_spec("active_learning") is None:  # the installed jax stays as it is
    import jax

    Path("constraints.txt").write_text(f"jax=={jax.__version__}\n")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "-c", "constraints.txt", SOURCE], check=True
    )

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
from active_learning.train import loop
from active_learning.data.sources.shapes import Shapes
from active_learning.models import MLP
from active_learning.settings import Config, Evaluate, Log, Reference, Select, Split

BASE = Select(policy=policies.learnability, ratio=4, temperature=0.5, until="60 %")


def run(select, scorer=32):
    """With scorers of a width: final accuracy, FLOPs over the learner's, effective share of the super-batch, wrong labels among the chosen."""
    config = Config(
        data=Shapes(size=16, train=EXAMPLES, test=max(200, EXAMPLES // 8), noise=0.4),
        split=Split(parts={"pool": 0.6, "reference": 0.4}),
        learner=MLP(width=256, depth=2),
        scorer=MLP(width=scorer, depth=1),
        batch_size=64,
        total=f"{STEPS} steps",
        select=select,
        reference=Reference(path=str(RUNS / f"reference-{scorer}"), total=f"{STEPS} steps"),
        evaluate=Evaluate(every="50 %"),
        log=Log(every="50 %", probes=0),
    )
    chosen = (
        f"{select.policy.name}-{select.ratio}-{select.temperature}-{select.until.replace(' ', '')}"
    )
    folder = RUNS / f"{chosen}-{scorer}"
    summary = loop.run(config, folder)
    first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    flops = sum(summary["flops"].values()) / summary["flops"]["learner_train"]
    wrong = first.get("select/wrong_share", float("nan"))
    return summary["final"]["test_full/accuracy"], flops, first.get("select/ess_fraction", 1.0), wrong


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
        accuracy, flops, ess, wrong = results[key, value]
        print(
            f"{key:12s} {value!s:6s} accuracy {accuracy:.3f}  FLOPs {flops:.2f}x  effective share {ess:.2f}  wrong {wrong:.2f}"
        )

# %% [markdown]
# A low temperature or a high ratio chooses more sharply: fewer effective candidates, fewer wrong labels, until the choice is too narrow.
# Scoring is paid per candidate, so the bill grows with the ratio, with the window and with the scorer's width; a wider scorer makes a better
# reference.

# %%
import matplotlib.pyplot as plt

figure, panels = plt.subplots(1, 4, figsize=(12, 3), sharey=True, layout="constrained")
for axes, (key, values) in zip(panels, SWEEPS.items(), strict=True):
    axes.plot([str(v) for v in values], [results[key, v][0] for v in values], marker="o")
    axes.axhline(uniform[0], linestyle=":", color="grey")
    axes.set_xlabel(key)
panels[0].set_ylabel("test accuracy (dotted: uniform)")
figure
