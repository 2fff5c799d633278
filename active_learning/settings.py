"""The keys of a run: one frozen dataclass a section, each default with its meaning and unit."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from active_learning.config import ConfigError, Section, to_steps
from active_learning.core import policies
from active_learning.data.augment import Augmentation


@dataclass(frozen=True)
class Split(Section):
    """Disjoint parts of the training source, by id, stratified by label. No parts: everything is the pool."""

    parts: Mapping[str, Any] = field(
        default_factory=dict
    )  # examples, or shares below 1: {"pool": 27_000, "reference": 0.2}
    train_on: tuple = ("pool",)  # parts the learner (and the candidates) come from
    fold: int = field(
        default=-1, metadata={"late": True}
    )  # only this half (0 or 1) of train_on, by id: what a cross-fitted reference sees; -1: all of it
    labels: Mapping[str, str] = field(
        default_factory=dict
    )  # label column of a part where it is not the source's own
    seed: int = 0


@dataclass(frozen=True)
class Optim(Section):
    """AdamW with linear warm-up and cosine decay to 0."""

    learning_rate: float = 1e-3
    warmup: str = "5 %"
    weight_decay: float = 1e-4
    b2: float = 0.99
    clip: float = 1.0  # global gradient norm, 0: off


@dataclass(frozen=True)
class Select(Section):
    """What to train on."""

    policy: Any = policies.uniform
    ratio: int = 2  # B / b
    temperature: float = 1.0  # T: scores are divided by it
    standardize: bool = False  # scores to mean 0, deviation 1 over the super-batch first
    # the window: a duration, or 'auto': closes when the online model has caught up on the gate, after AUTO_LATEST of the run at the latest
    until: str = "100 %"
    chunk: int = 0  # candidates a device scores at once, 0: all
    replay: str = field(
        default="", metadata={"late": True}
    )  # run folder whose recorded choices (log.chosen=True) are trained on instead; no scorer runs
    schedule: str = field(
        default="exact", metadata={"late": True}
    )  # 'exact': selection n + 1 follows update n; 'ahead': it scores with the online model after update n - 1 and hides behind update n


@dataclass(frozen=True)
class Reference(Section):
    """Where the reference comes from. It has the scorer's architecture."""

    # 'trained' here; 'loaded' from a run; 'stored': scores that `store_scores` wrote; 'cotrained' on every super-batch; 'crossfitted': two,
    # each trained on a half of train_on and scoring the other; 'online': a per-step copy of the online model (a control)
    kind: str = "trained"
    path: str = ""  # run folder to train it into (or to find it complete) or to load it from, file of 'stored'; '': WORKDIR/reference
    model: str = field(
        default="", metadata={"late": True}
    )  # of 'stored': the model whose scores are expected, by its hash (`store_scores` prints it); '': any
    part: str = "reference"  # the part it is trained on
    total: str = "1000 steps"  # 0: an untrained reference (a control)
    batch_size: int = 128
    optim: Optim = Optim(learning_rate=2e-3)
    charge: bool = True  # its training is on this run's bill
    seed: int = 0  # added to the run's seed


@dataclass(frozen=True)
class Evaluate(Section):
    """When and on what the learner is evaluated."""

    every: str = "2 %"
    sets: tuple = ("test",)  # 'test', or parts of the split
    subset: int = (
        2000  # fixed stratified subset of each set during the run; the whole set at the end
    )
    batch_size: int = 1000
    also: Mapping[str, Any] = field(
        default_factory=dict, metadata={"late": True}
    )  # more sets by name: sources, whose test sets are used
    gate: str = (
        ""  # part on which online and reference are compared ('': none); `until='auto'` reads it
    )


@dataclass(frozen=True)
class Log(Section):
    """What is written besides metrics.jsonl and metrics.csv."""

    every: str = "1 %"
    tensorboard: bool = False
    chosen: bool = False  # ids of every sub-batch, chosen/*.npy
    probes: int = 12  # images most and least preferred that are kept early and late, 0: none


@dataclass(frozen=True)
class Checkpoint(Section):
    """Orbax checkpoints of the train state with the data position and the ledger."""

    every: str = "20 %"
    keep: int = 1


@dataclass(frozen=True)
class Labels(Section):
    """Single-label classification; its keys are those of `Config` and of the data."""


@dataclass(frozen=True)
class Pairs(Section):
    """Image-text pairs: which loss brings them together, and where their words come from."""

    loss: str = "sigmoid"  # 'sigmoid' (SigLIP) or 'softmax' (CLIP)
    chunk: int = 0  # pairs of a block of the loss, 0: all at once
    score_scale: float = (
        10.0  # l_act = - score_scale * image . text: at 1 the sampling would be nearly uniform
    )
    text: str = "captions"  # column of the data with a caption, or a list of them
    tokenizer: str = ""  # tokenizer.json or NAME.model; '': a byte-level BPE as large as the text tower's, of these captions
    pixels: str = (
        "data"  # normalised by the 'data', or to (-1, 1) as published SigLIP models: 'unit'
    )
    exchanged: Mapping[str, float] = field(
        default_factory=dict
    )  # share of a part's pairs that get another's captions
    classes: tuple = ()  # words: images whose captions mostly name one of them are used for zero-shot and few-shot figures
    templates: tuple = ("a photo of a {}.", "a {}.", "there is a {} in the picture.")


@dataclass(frozen=True)
class Config(Section):
    """One run."""

    data: Any  # a source value, e.g. section(Shapes)
    learner: Any  # a Flax module, e.g. section(ViT, width=128)
    scorer: Any  # architecture of online and reference
    name: str = "run"  # the arm's name in reports
    baseline: bool = False  # the arm others are compared with
    seed: int = 0
    split: Split = Split()
    batch_size: int = 128  # b: examples in an update of the learner
    total: str = "1000 steps"
    optim: Optim = Optim()
    scorer_optim: Optim = Optim(learning_rate=2e-3)
    select: Select = Select()
    reference: Reference = Reference()
    augment: bool = True  # random crop (4 px padding) and flip, keyed by (id, epoch)
    augmentation: Augmentation = field(
        default=Augmentation(), metadata={"late": True}
    )  # what `augment` does
    label_smoothing: float = 0.0
    dtype: str = "float32"  # compute type; parameters, losses and scores are float32
    init_from: str = ""  # run folder whose learner's weights the learner starts from
    fsdp: int = field(
        default=1, metadata={"late": True}
    )  # devices that share one copy of the learner; 1: every device holds it whole
    small_view: bool = field(
        default=False, metadata={"late": True}
    )  # the learner sees the small view (data.small): a reference does
    evaluate: Evaluate = Evaluate()
    log: Log = Log()
    checkpoint: Checkpoint = Checkpoint()
    task: Any = field(default=Labels(), metadata={"late": True})
    accumulate: int = field(
        default=1, metadata={"late": True}
    )  # micro-batches that a gradient is summed from


@dataclass(frozen=True)
class Clock:
    """A config's durations in updates."""

    total: int
    window: int  # updates in which selection is on (the most, when `until` is 'auto')
    evaluate: int
    log: int
    checkpoint: int
    warmup: int
    scorer_warmup: int


AUTO_LATEST = 60  # % of the run: while its rate decays to 0 a learner does best on the data as they are (README: with and without window)
KINDS = ("trained", "loaded", "stored", "cotrained", "crossfitted", "online")


def _check_reference(config: Config) -> None:
    kind, policy = config.reference.kind, config.select.policy
    if kind not in KINDS:
        raise ConfigError(f"config.reference.kind={kind!r}: expected one of {', '.join(KINDS)}")
    if kind in ("loaded", "stored") and not config.reference.path:
        what = "the folder of a run" if kind == "loaded" else "a file that store_scores wrote"
        raise ConfigError(f"config.reference.kind={kind!r} needs config.reference.path, {what}")
    seen = (*config.evaluate.sets, config.evaluate.gate)
    if kind == "trained" and policy.reads_reference and config.reference.part in seen:
        raise ConfigError(
            f"config.reference.part={config.reference.part!r}: config.evaluate judges on it"
        )
    if kind == "stored" and "reference" in policy.needs and policy.observe is not None:
        raise ConfigError(
            f"config.reference.kind='stored': policy {policy.name!r} reads more of the reference than its losses"
        )
    if kind == "online" and "reference" in policy.needs and "online" not in policy.needs:
        raise ConfigError(
            f"config.reference.kind='online': policy {policy.name!r} trains no online model to copy"
        )
    if not 0 < policy.keep <= 1:
        raise ConfigError(
            f"config.select.policy.keep={policy.keep}: expected a share of the pool in (0, 1]"
        )
    if policy.keep < 1 and kind not in ("trained", "loaded", "stored"):
        raise ConfigError(
            f"config.reference.kind={kind!r}: {policy.name!r} scores once, with a reference that exists before the run"
        )


def _check_reuse(config: Config) -> None:
    policy = config.select.policy
    if not policy.reuse:
        return
    if policy.needs != ("learner",) or policy.observe is not None or isinstance(config.task, Pairs):
        raise ConfigError(
            f"config.select.policy: {policy.name!r} reuses a forward pass, so it can only read the learner's losses"
        )
    for key, value, only in (
        ("select.schedule", config.select.schedule, "exact"),
        ("accumulate", config.accumulate, 1),
        ("data.small", config.data.small, 0),
    ):
        if value != only:
            raise ConfigError(
                f"config.{key}={value!r}: {policy.name!r} scores and trains in one pass, so it must be {only!r}"
            )


def _check_task(config: Config) -> None:
    task, policy = config.task, config.select.policy
    if not isinstance(task, Pairs):
        if policy.pairs:
            raise ConfigError(
                f"config.select.policy: {policy.name!r} scores image-text pairs; set config.task"
            )
        return
    if config.augmentation.mixup:
        raise ConfigError(
            f"config.augmentation.mixup={config.augmentation.mixup}: image-text pairs have no labels to mix"
        )
    if task.loss not in ("sigmoid", "softmax"):
        raise ConfigError(f"config.task.loss={task.loss!r}: expected 'sigmoid' or 'softmax'")
    if task.pixels not in ("data", "unit"):
        raise ConfigError(f"config.task.pixels={task.pixels!r}: expected 'data' or 'unit'")
    if policy.keep < 1:
        raise ConfigError(
            f"config.select.policy: {policy.name!r} filters by losses of labels, image-text pairs have none"
        )
    if policy.joint and task.loss != "sigmoid":
        raise ConfigError(
            f"config.task.loss={task.loss!r}: {policy.name!r} needs 'sigmoid', the loss that is a sum over pairs"
        )
    if policy.joint and config.select.standardize:
        raise ConfigError(
            f"config.select.standardize=True: {policy.name!r} has no single scores to standardize"
        )
    if policy.pairs and config.reference.kind == "crossfitted":
        raise ConfigError(
            f"config.reference.kind='crossfitted': {policy.name!r} compares pairs across both references"
        )
    if config.reference.kind == "stored" and policy.reads_reference:
        raise ConfigError(
            "config.reference.kind='stored': a score of a pair depends on the caption drawn; use 'loaded'"
        )
    if task.chunk and config.batch_size % task.chunk:
        raise ConfigError(
            f"config.task.chunk={task.chunk}: must divide config.batch_size={config.batch_size}"
        )


def _check_views(config: Config) -> None:
    schedule, small = config.select.schedule, config.data.small
    if schedule not in ("exact", "ahead"):
        raise ConfigError(f"config.select.schedule={schedule!r}: expected 'exact' or 'ahead'")
    if config.small_view and not small:
        raise ConfigError(
            "config.small_view=True: there is no small view, config.data.small is not set"
        )
    if small and not config.small_view and "learner" in config.select.policy.needs:
        what = (
            f"policy {config.select.policy.name!r} scores with the learner, which sees the full one"
        )
        raise ConfigError(
            f"config.data.small={small}: a small view is for the small models, but {what}"
        )


def _check_sizes(config: Config, pool: int) -> None:
    policy, b, holds = (
        config.select.policy,
        config.batch_size,
        f"but {config.split.train_on} holds {pool} examples",
    )
    if policy.needs and config.select.ratio * b > pool:
        ratio = config.select.ratio
        raise ConfigError(f"config.select.ratio={ratio}: {ratio * b} candidates a step, {holds}")
    if b > pool:
        raise ConfigError(f"config.batch_size={b}: {holds}")
    if round(policy.keep * pool) < b:
        few = f"{round(policy.keep * pool)} of {pool} examples are less than a batch"
        raise ConfigError(f"config.select.policy.keep={policy.keep}: {few}")


def _check_evaluation(config: Config) -> None:
    evaluate, policy = config.evaluate, config.select.policy
    for key in ("subset", "batch_size"):
        if getattr(evaluate, key) < 1:
            raise ConfigError(f"config.evaluate.{key}={getattr(evaluate, key)}: must be at least 1")
    if config.select.until != "auto":
        return
    if not evaluate.gate:
        raise ConfigError(
            "config.select.until='auto' needs a gate: name a part in config.evaluate.gate"
        )
    if policy.needs and not {"online", "reference"} <= set(policy.needs):
        raise ConfigError(
            f"config.select.until='auto' compares the online model with the reference, and policy {policy.name!r} has not both"
        )


def resolve(config: Config, pool: int, devices: int) -> Clock:
    """Durations in updates, and every check that needs no data. Raises ConfigError naming the key."""
    b, ratio = config.batch_size, config.select.ratio
    if b < 1 or b % devices:
        raise ConfigError(f"config.batch_size={b}: not divisible by the {devices} devices")
    if config.fsdp < 1 or devices % config.fsdp:
        raise ConfigError(f"config.fsdp={config.fsdp}: does not divide the {devices} devices")
    if ratio < 1:
        raise ConfigError(
            f"config.select.ratio={ratio}: B = ratio * b candidates must be at least b, so ratio >= 1"
        )
    if config.select.temperature <= 0:
        raise ConfigError(f"config.select.temperature={config.select.temperature}: must be > 0")
    if config.select.chunk and (b * ratio // devices) % config.select.chunk:
        raise ConfigError(
            f"config.select.chunk={config.select.chunk}: must divide the {b * ratio // devices} candidates of a device"
        )
    if config.accumulate < 1 or b % (config.accumulate * devices):
        raise ConfigError(
            f"config.accumulate={config.accumulate}: must divide the {b // devices} examples of a device (config.batch_size={b})"
        )
    _check_reference(config)
    _check_reuse(config)
    config.augmentation.check()
    _check_task(config)
    _check_views(config)
    if config.select.replay and config.select.policy.needs:
        raise ConfigError(
            f"config.select.replay={config.select.replay!r}: its choices are given, so config.select.policy must be uniform"
        )
    if config.dtype not in ("float32", "bfloat16"):
        raise ConfigError(f"config.dtype={config.dtype!r}: expected 'float32' or 'bfloat16'")
    _check_evaluation(config)
    _check_sizes(config, pool)

    def steps(duration, key, total=None):
        return to_steps(duration, f"config.{key}", batch_size=b, pool=pool, total=total)

    total = steps(config.total, "total")
    until = f"{AUTO_LATEST} %" if config.select.until == "auto" else config.select.until
    open_for = steps(until, "select.until", total)
    return Clock(
        total=total,
        window=min(open_for, total) if config.select.policy.needs else 0,
        evaluate=max(1, steps(config.evaluate.every, "evaluate.every", total)),
        log=max(1, steps(config.log.every, "log.every", total)),
        checkpoint=max(1, steps(config.checkpoint.every, "checkpoint.every", total)),
        warmup=steps(config.optim.warmup, "optim.warmup", total),
        scorer_warmup=steps(config.scorer_optim.warmup, "scorer_optim.warmup", total),
    )


def reference_config(config: Config, fold: int = -1) -> Config:
    """The run that trains the reference: the scorer's architecture, uniformly, on the reference's part, or on a half of train_on."""
    ref = config.reference
    seen = {"train_on": (ref.part,)} if fold < 0 else {"fold": fold}
    return dataclasses.replace(
        config,
        name="reference", baseline=False, seed=config.seed + ref.seed, learner=config.scorer, batch_size=ref.batch_size, total=ref.total,
        optim=ref.optim, scorer_optim=Optim(), select=Select(), reference=Reference(), init_from="",
        fsdp=1, small_view=bool(config.data.small),
        split=dataclasses.replace(config.split, **seen),
        evaluate=dataclasses.replace(config.evaluate, every="20 %", gate=""),
        log=dataclasses.replace(config.log, chosen=False), checkpoint=Checkpoint(every="50 %"),
    )  # fmt: skip
