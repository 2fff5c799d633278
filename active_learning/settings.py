"""The keys of a run: one frozen dataclass for each section of a config."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from active_learning import models
from active_learning.config import (
    Section,
    register,
    register_functions,
    register_values,
    setting,
)
from active_learning.core import infobatch, pair_scores, policies, scores, select
from active_learning.core.optim import Optim
from active_learning.data import sources
from active_learning.data.augment import Augmentation
from active_learning.references import Reference, Trained
from active_learning.tasks import Labels, Pairs, Task

__all__ = [
    "Augmentation",
    "Checkpoint",
    "Config",
    "Distill",
    "Evaluate",
    "Flexi",
    "Labels",
    "Log",
    "Optim",
    "Pairs",
    "Reference",
    "Select",
    "Split",
]


@dataclass(frozen=True)
class Split(Section):
    """Disjoint parts of the training source, by id, stratified by label."""

    # Sizes in examples, or fractions below 1: {"pool": 27_000, "reference": 0.2}. No parts:
    # everything is the pool.
    parts: Mapping[str, Any] = setting({}, at_least=0, at_most=2**40)
    # Parts that the candidates come from.
    train_on: tuple[str, ...] = ("pool",)
    # Only this half (0 or 1) of train_on, by id, as a cross-fitted reference sees it; -1: all.
    fold: int = setting(-1, at_least=-1, at_most=1)
    # Label column of a part where it is not the source's own.
    labels: Mapping[str, str] = setting({})
    seed: int = setting(0, at_least=0, below=2**63)


@dataclass(frozen=True)
class Select(Section):
    """What to train on."""

    policy: policies.Policy = policies.uniform
    # Candidates per example trained on, B / b.
    ratio: int = setting(2, at_least=1, at_most=2**16)
    # T: scores are divided by it.
    temperature: float = setting(1.0, at_least=1e-6, at_most=1e9)
    # Normalize scores to mean 0 and standard deviation 1 over the super-batch first.
    standardize: bool = False
    # When selection ends: a duration, or 'auto': as long as there is a reason to pay for it, at
    # most AUTO_LATEST % of the run (train/economics.py).
    until: str = "100 %"
    # Candidates per scoring forward pass on each device; 0: all of the device's.
    score_chunk: int = setting(0, at_least=0, at_most=2**24)
    # Run folder whose recorded choices (log.chosen=True) are trained on instead; no scorer runs.
    replay: str = ""
    # 'exact': selection n + 1 follows update n. 'ahead': it scores with the online model after
    # update n - 1 and hides behind update n.
    schedule: str = setting("exact", one_of=("exact", "ahead"))
    # Devices that score, with a copy of the scoring models, while the others train; 0: all do both.
    actors: int = setting(0, at_least=0, at_most=1_000_000, hashed=False)
    # Updates between two copies for the actors.
    refresh: int = setting(1, at_least=1, at_most=1_000_000)


@dataclass(frozen=True)
class Flexi(Section):
    """A second, lower resolution of the learner: larger patches of the same image."""

    # Side of the larger patches, at which the learner scores; 0: one resolution.
    patch: int = setting(0, at_least=0, at_most=4096)
    # Fraction of each batch that is trained on in larger patches.
    fraction: float = setting(0.5, above=0.0, below=1.0)


@dataclass(frozen=True)
class Distill(Section):
    """Soft targets from the reference on the selected batch, as in ACED (arXiv 2411.18674)."""

    # Of the soft loss; the label's or the pair's own loss has 1 - weight. 0: none.
    weight: float = setting(0.0, at_least=0.0, at_most=1.0)
    # Divides the logits of both models in the soft loss.
    temperature: float = setting(1.0, above=0.0, at_most=1e6)


@dataclass(frozen=True)
class Evaluate(Section):
    """When and on what the learner is evaluated."""

    every: str = "2 %"
    # 'test', parts of the split, or names in `also`.
    sets: tuple[str, ...] = ("test",)
    # Size of the fixed stratified subset of each set during the run; at the end all is used.
    subset: int = setting(2000, at_least=1, at_most=2**40)
    batch_size: int = setting(1000, at_least=1, at_most=2**24)
    # More sets by name: sources, whose test sets are used.
    also: Mapping[str, Any] = setting({})
    # Part on which the models are compared in the course of the run, '': none; `until='auto'`
    # decides by it.
    gate: str = ""


@dataclass(frozen=True)
class Log(Section):
    """What is written besides metrics.jsonl and metrics.csv."""

    every: str = "1 %"
    tensorboard: bool = False
    # Project of Weights & Biases and experiment of MLflow that get the scalars too; '': none.
    wandb: str = ""
    mlflow: str = ""
    # Ids of every sub-batch, chosen/*.npy.
    chosen: bool = False
    # How often each example was chosen and its last score, chosen.parquet; 16 bytes an example of
    # memory on one host.
    choices: bool = True
    # Highest- and lowest-scoring images that are kept a few times in the run; 0: none.
    snapshots: int = setting(12, at_least=0, at_most=1000)
    # Minutes without an update, compilation left out, after which the process writes the stacks of
    # its threads and ends with exit code 3; 0: never. In an evaluation each batch is progress; for
    # one batch and for a save the limit is at least ten minutes.
    watchdog_minutes: float = setting(30.0, at_least=0.0, at_most=1e6)


@dataclass(frozen=True)
class Checkpoint(Section):
    """Orbax checkpoints of the train state with the data position and the ledger."""

    every: str = "20 %"
    # Two, so that a damaged newest one is not the only one.
    max_to_keep: int = setting(2, at_least=1, at_most=10_000)


# Keys that `Config.fit` may name.
SIZES = ("batch_size", "select.ratio", "reference.batch_size")


@dataclass(frozen=True)
class Config(Section):
    """One run."""

    # A source, e.g. section(Shapes).
    data: Any
    # A Flax module, e.g. section(ViT, width=128).
    learner: Any
    # Architecture of online and reference.
    scorer: Any
    # The method's name in reports.
    name: str = setting("run", hashed=False)
    # Whether reports compare the others with this one.
    baseline: bool = setting(False, hashed=False)
    seed: int = setting(0, at_least=0, below=2**31)
    split: Split = Split()
    # b: examples in an update of the learner.
    batch_size: int = setting(128, at_least=1, at_most=2**24)
    total: str = "1000 steps"
    optim: Optim = Optim()
    scorer_optim: Optim = Optim(learning_rate=2e-3)
    # Half-life of the moving average of the learner's weights, a duration; '0 steps': none.
    ema: str = "0 steps"
    select: Select = Select()
    reference: Reference = Trained()
    # Random views for training, keyed by (id, epoch); `augmentation` says which.
    augment: bool = True
    augmentation: Augmentation = Augmentation()
    # Larger patches for scoring with the learner and for part of its batches (Flexi-JEST).
    flexi: Flexi = Flexi()
    # Whether the learner also learns from the reference's outputs on what was selected.
    distill: Distill = Distill()
    # Compute type; parameters, losses and scores are float32.
    dtype: str = setting("float32", one_of=("float32", "bfloat16"))
    # Run folder whose learner's weights the learner starts from.
    init_from: str = ""
    # Devices that share one copy of the learner; 1: every device holds it whole.
    fsdp: int = setting(1, at_least=1, at_most=2**20, hashed=False)
    # The learner sees the small view (data.small), as a reference does.
    small_view: bool = False
    evaluate: Evaluate = Evaluate()
    log: Log = setting(Log(), hashed=False)
    checkpoint: Checkpoint = setting(Checkpoint(), hashed=False)
    task: Task = Labels()
    # Sizes that may be reduced to what a small pool can serve (train/fitting.py); those given on
    # the command line never are.
    fit: tuple[str, ...] = setting((), one_of=SIZES, hashed=False)
    # Micro-batches that a gradient is summed from.
    grad_accum_steps: int = setting(1, at_least=1, at_most=2**20)


def _public_functions(module: Any) -> dict[str, Any]:
    """Functions of a core module by the names that stored configs use."""
    room = module.__name__.rpartition(".")[2]
    return {
        f"{room}.{name}": value
        for name, value in vars(module).items()
        if callable(value)
        and getattr(value, "__module__", "") == module.__name__
        and not isinstance(value, type)
        and not name.startswith("_")
    }


for _module in (scores, select, pair_scores, policies, infobatch):
    register_functions(_public_functions(_module))
register(policies.Policy)
register_values(
    policies.Policy,
    {name: value for name, value in vars(policies).items() if isinstance(value, policies.Policy)},
)
for _module in (models, sources):
    for _name in _module.__all__:
        if isinstance(getattr(_module, _name), type):
            register(getattr(_module, _name))
