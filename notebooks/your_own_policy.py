# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A policy of your own
#
# Fifteen lines, no fork. A policy declares what it reads from each model's outputs (`observe`),
# how that becomes a score (`score`), and which models it needs. This one trusts learnability only
# where the reference predicts the given label; elsewhere the label is probably wrong.

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

STEPS = int(os.environ.get("NOTEBOOK_STEPS", "400"))  # 400: about two minutes on two cores
EXAMPLES = max(1000, 15 * STEPS)
RUNS = Path(tempfile.mkdtemp())

# %% [markdown]
# The policy:

# %%
from active_learning import Policy
from active_learning.core import losses


def observe(outputs, batch):
    return {
        "loss": losses.softmax_xent(outputs["logits"], batch["label"]),
        "correct": losses.accuracy(outputs["logits"], batch["label"]),
    }


def score(inputs, policy_state):
    learnable = inputs.online["loss"] - inputs.reference["loss"]
    return learnable - 5.0 * (1.0 - inputs.reference["correct"]), policy_state


trusted = Policy("trusted learnability", score, needs=("online", "reference"), observe=observe)

# %% [markdown]
# It is used like any other policy, as `select.policy`. The data are generated shapes, 40 % of
# them mislabeled; all arms share one small reference.

# %%
from active_learning.core import policies
from active_learning.data.sources.shapes import Shapes
from active_learning.models import MLP
from active_learning.references import Trained
from active_learning.settings import Config, Evaluate, Log, Select, Split
from active_learning.train import loop


def arm(policy):
    return Config(
        data=Shapes(size=16, train=EXAMPLES, test=max(200, EXAMPLES // 8), noise=0.4),
        split=Split(parts={"pool": 0.55, "reference": 0.35, "gate": 0.1}),
        learner=MLP(width=256, depth=2),
        scorer=MLP(width=32, depth=1),
        batch_size=64,
        total=f"{STEPS} steps",
        name=policy.name,
        select=Select(policy=policy, ratio=4, temperature=0.5, until="60 %")
        if policy.needs
        else Select(),
        reference=Trained(path=str(RUNS / "reference"), total=f"{STEPS} steps"),
        evaluate=Evaluate(every="10 %", gate="gate" if policy.needs else ""),
        log=Log(snapshots=0),
    )


results = {}
for policy in (policies.uniform, policies.learnability, trusted):
    results[policy.name] = loop.run(arm(policy), RUNS / policy.name.replace(" ", "-"))
for name, summary in results.items():
    accuracy, flops = summary["final"]["test_full/accuracy"], sum(summary["flops"].values())
    print(f"{name:22s} accuracy {accuracy:.3f}   total FLOPs {flops:.2e}")

# %% [markdown]
# What fraction of the selected labels was corrupted (40 % of the pool is):

# %%
import json

import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(6, 3.2))
for name in results:
    lines = (RUNS / name.replace(" ", "-") / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "select/corrupted_fraction" in row]
    steps = [row["step"] for row in rows]
    axes.plot(steps, [100 * row["select/corrupted_fraction"] for row in rows], label=name)
axes.set(xlabel="updates", ylabel="corrupted labels selected, %", ylim=(0, None))
axes.legend(frameon=False)
figure
