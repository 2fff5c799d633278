# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Reading a run
#
# A run folder holds everything that happened: what was evaluated, what was selected, and what it
# cost. This notebook trains a uniform run and a selecting run on generated shapes, 40 % of them
# mislabeled, and then answers three questions from their files alone: how did accuracy develop,
# what was chosen, and where does selection break even? For runs of your own, set `UNIFORM` and
# `SELECTING` to their folders.

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

# %%
from active_learning.core import policies
from active_learning.data.sources.shapes import Shapes
from active_learning.models import MLP
from active_learning.references import Trained
from active_learning.settings import Config, Evaluate, Log, Select, Split
from active_learning.train import loop

DATA = Shapes(size=16, train=EXAMPLES, test=max(200, EXAMPLES // 8), noise=0.4)
UNIFORM, SELECTING = RUNS / "uniform", RUNS / "learnability"


def train(workdir, select):
    config = Config(
        data=DATA,
        split=Split(parts={"pool": 0.6, "reference": 0.4}),
        learner=MLP(width=256, depth=2),
        scorer=MLP(width=32, depth=1),
        batch_size=64,
        total=f"{STEPS} steps",
        name=workdir.name,
        select=select,
        reference=Trained(path=str(RUNS / "reference"), total=f"{STEPS} steps"),
        evaluate=Evaluate(every="5 %"),
        log=Log(chosen=True, snapshots=0),
    )
    return loop.run(config, workdir)


results = {"uniform": train(UNIFORM, Select())}
results["learnability"] = train(
    SELECTING, Select(policy=policies.learnability, ratio=4, temperature=0.5, until="60 %")
)
print(*sorted(path.name for path in SELECTING.iterdir()))

# %% [markdown]
# ## Curves
#
# `metrics.jsonl` has one JSON object per line. Each carries the four clocks of a run (updates,
# examples trained on, FLOPs by account, seconds of training) beside what was measured there. A
# method that wins on one clock may lose on another, so look at all of them.

# %%
import json

import matplotlib.pyplot as plt


def rows(workdir, key):
    """Lines of metrics.jsonl that hold `key`."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if key in row]


CLOCKS = {
    "updates": lambda row: row["step"],
    "total FLOPs": lambda row: sum(row["flops"].values()),
    "seconds of training": lambda row: row["train_seconds"],
}
figure, panels = plt.subplots(1, 3, figsize=(11, 3), sharey=True, layout="constrained")
for axes, (name, clock) in zip(panels, CLOCKS.items(), strict=True):
    for workdir in (UNIFORM, SELECTING):
        points = rows(workdir, "test/accuracy")
        accuracies = [row["test/accuracy"] for row in points]
        axes.plot([clock(row) for row in points], accuracies, label=workdir.name)
    axes.set_xlabel(name)
panels[0].set_ylabel("test accuracy")
panels[0].legend(frameon=False)
figure

# %% [markdown]
# ## What was chosen
#
# With `log.chosen=True` the ids of every update are in `chosen/*.npy`, one row per update in
# training order; an id identifies the same example in every run on the same data. `select/*` in
# `metrics.jsonl` describes the choice while it is made: the effective sample size as a fraction
# of the super-batch (near 1: almost uniform; below 1 / ratio: almost a top-k), and, where clean
# labels are known, the corrupted fraction of what was selected.

# %%
import numpy as np

ids = np.concatenate([np.load(path) for path in sorted((SELECTING / "chosen").glob("*.npy"))])
window = json.loads((SELECTING / "summary.json").read_text())["window_steps"]
examples = DATA.open().train
corrupted = examples.labels("label") != examples.labels("clean")
times = np.bincount(ids[:window].ravel().astype(np.int64), minlength=len(examples))

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.plot(100 * corrupted[ids.astype(np.int64)].mean(axis=1), linewidth=0.8)
left.axvline(window, linestyle=":", color="gray")
left.set(xlabel="updates (dotted: the window ends)", ylabel="corrupted labels selected, %")
seen = np.isin(np.arange(len(examples)), ids)  # the reference's examples are not in the pool
bins = np.arange(times.max() + 2) - 0.5
right.hist([times[seen & ~corrupted], times[seen & corrupted]], bins, label=["clean", "corrupted"])
right.set(xlabel="times selected in the window", ylabel="examples")
right.legend(frameon=False)
figure

# %% [markdown]
# The examples that were selected most often, with the label they were trained on:

# %%
most = np.argsort(-times, kind="stable")[:10]
labels = examples.labels("label")[most]
images = examples.gather(most)["image"]
figure, panels = plt.subplots(1, 10, figsize=(11, 1.7), layout="constrained")
for axes, image, label, count in zip(panels, images, labels, times[most], strict=True):
    axes.imshow(image)
    axes.set_title(f"label {label}\n{count} times", fontsize=8)
    axes.axis("off")
figure

# %% [markdown]
# ## Break-even
#
# `summary.json` has the cost by account. The break-even point is the update at which the
# selecting run has spent what uniform training costs in all. If it has reached uniform's final
# accuracy by then, it pays. (Points within a run are optimistic or pessimistic, because the
# learning rate has not decayed yet: for a claim, train shorter runs with schedules of their own,
# as `active_learning.report` expects.)

# %%
from active_learning.report.runs import load_runs

uniform, selecting = (load_runs([workdir])[0] for workdir in (UNIFORM, SELECTING))
for account in uniform.flops:
    print(f"{account:16s} {selecting.flops[account] / uniform.total_flops:6.2f} of uniform's total")
level = uniform.final_value("test_full/accuracy")
affordable = [
    row
    for row in rows(SELECTING, "test/accuracy")
    if sum(row["flops"].values()) <= uniform.total_flops
]
break_even = affordable[-1]
print(
    f"break-even after {break_even['step']} of {uniform.total_steps} updates: accuracy there is "
    f"{break_even['test/accuracy']:.3f}; uniform's final accuracy is {level:.3f}"
)

# %% [markdown]
# The same comparison as one page, one table and one JSON file, with budgets, seeds and controls
# if there are any:

# %%
subprocess.run(
    [sys.executable, "-m", "active_learning.report", UNIFORM, SELECTING, "--out", RUNS / "report"],
    check=True,
)
print((RUNS / "report" / "table.md").read_text())
