"""What a run costs before it is started: FLOPs by account, and when selection breaks even."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from active_learning.checks import on_any_devices, resolve
from active_learning.config import ConfigError
from active_learning.cost import ledger
from active_learning.cost.accounts import ACCOUNT_LABELS, ACCOUNTS
from active_learning.cost.flops import Cost
from active_learning.models import VARIANTS, Published, Text, TwoTower, ViT
from active_learning.models.frozen import head_inputs
from active_learning.models.on_features import FeatureHead
from active_learning.settings import Config
from active_learning.train.charged import charged_parts
from active_learning.train.costs import learner_costs
from active_learning.train.economics import too_dear
from active_learning.train.feature_pass import feature_flops
from active_learning.train.fitting import fitted, without_selection
from active_learning.train.starts import Starts, open_models

RATIOS = (2, 4, 8, 16)  # rows of the break-even table
SCORER_SIZES = ("Ti", "S", "B")  # of `models.VARIANTS`
# What is already paid for, from nothing to everything; each is a mode of the program.
LEVELS = ("none", "pretrained", "foundation dataset", "replayed policy")


@dataclass(frozen=True)
class CostModel:
    """FLOPs of a run as a function of the ratio, the scorers and what is already paid for."""

    # Updates of the learner, and those inside the selection window.
    updates: int
    window_updates: int
    # Examples an update trains on (b), and super-batch over sub-batch (B / b).
    batch_size: int
    ratio: int
    # FLOPs an example.
    learner: Cost
    scorer: Cost
    policy: Any
    # Reference models that score each super-batch, and whether one is trained on it as well.
    references: int
    cotrained: bool
    # FLOPs of training the reference that are charged to this run.
    reference_flops: float
    # FLOPs of scoring the pool once before the run, for policies that filter it.
    prefilter_flops: float = 0.0
    # FLOPs an example of the learner's scoring pass, where it is not a forward pass in training.
    learner_scores: Cost | None = None
    # Whether the reference also runs on the examples trained on.
    distill: bool = False
    # FLOPs of computing stored features once, for scorers that are heads on them.
    pass_flops: float = 0.0
    # FLOPs of computing once what a stored reference of published weights stores.
    reference_pass_flops: float = 0.0
    # FLOPs an example of a reference that has an architecture of its own.
    reference: Cost | None = None

    def active_update(self, ratio: int, level: str = "none", scorer: Cost | None = None) -> float:
        """FLOPs of an update inside the window at one of `LEVELS`."""
        stored = level == "foundation dataset"
        needs = () if level == "replayed policy" else self.policy.needs
        costs = ledger.step_costs(
            self.learner,
            scorer or self.scorer,
            needs,
            self.batch_size,
            ratio,
            references=0 if stored else self.references,
            cotrained=self.cotrained and level == "none",
            reuse=bool(needs) and self.policy.reuse_forward,
            learner_scores=self.learner_scores,
            distill=self.distill,
            reference=self.reference,
        )
        return ledger.total(costs)

    @property
    def training_update(self) -> float:
        """FLOPs of what an update trains, without scoring any candidate."""
        return self.active_update(0)

    @property
    def scoring_update(self) -> float:
        """FLOPs of scoring the candidates of an update."""
        return self.active_update(self.ratio) - self.training_update

    @property
    def uniform_update(self) -> float:
        """FLOPs of an update without selection."""
        return ledger.total(ledger.step_costs(self.learner, self.scorer, (), self.batch_size, 1))

    def accounts(self) -> dict[str, float]:
        """FLOPs of the whole run by account."""
        book, policy, b = ledger.Ledger(), self.policy, self.batch_size
        active = ledger.step_costs(
            self.learner,
            self.scorer,
            policy.needs,
            b,
            self.ratio,
            references=self.references,
            cotrained=self.cotrained,
            reuse=policy.reuse_forward,
            learner_scores=self.learner_scores,
            distill=self.distill,
            reference=self.reference,
        )
        uniform = ledger.step_costs(self.learner, self.scorer, (), b, 1)
        book.charge(active, self.window_updates)
        book.charge(uniform, self.updates - self.window_updates)
        once = self.prefilter_flops + self.pass_flops + self.reference_pass_flops
        book.charge({"reference_train": self.reference_flops, "reference_score": once})
        return book.flops

    def with_scorer(self, scorer: Cost, pass_flops: float = 0.0) -> "CostModel":
        """The run with other scorers, whose reference is trained on as many examples.

        Args:
          scorer: FLOPs an example.
          pass_flops: FLOPs of computing the features that they read, once.
        """
        size = scorer.train / self.scorer.train
        return dataclasses.replace(
            self,
            scorer=scorer,
            reference_flops=self.reference_flops * size,
            pass_flops=pass_flops,
        )

    def break_even(self, ratio: int, level: str, scorer: Cost | None = None) -> float:
        """Largest fraction of uniform's updates that costs no more than uniform training.

        The window keeps its fraction of the run.

        Args:
          ratio: Super-batch over sub-batch.
          level: One of `LEVELS`.
          scorer: FLOPs an example of other scorers; None for the config's own.
        """
        if scorer is not None:
            return self.with_scorer(scorer).break_even(ratio, level)
        extra = self.active_update(ratio, level) - self.uniform_update
        extra *= self.window_updates / self.updates
        # Stored features are stored reference scores of a kind: paid for at the same level.
        paid = self.pass_flops + self.reference_pass_flops if level in LEVELS[:2] else 0.0
        paid += self.reference_flops if level == "none" else 0.0
        paid /= self.uniform_update * self.updates
        return max(0.0, (1 - paid) / (1 + extra / self.uniform_update))


def cost_model_of(
    config: Config,
    learner: Any,
    scorer: Any,
    examples: int,
    image_shape: tuple[int, int, int],
    captions: int | None = None,
    classes: int = 0,
) -> CostModel:
    """The cost model of a config.

    Args:
      config: The config.
      learner: Its learner, with the number of classes filled in.
      scorer: Its scorer, likewise.
      examples: Size of the training pool.
      image_shape: Height, width and channels of the learner's images.
      captions: Captions of the examples that a pass is charged for; None: one each.
      classes: Classes of the data.

    Raises:
      ConfigError: For durations that cannot be resolved.
    """
    given, (config, starts) = config, open_models(on_any_devices(config))
    steps = resolve(config, examples, 1)
    policy = config.select.policy
    small = starts.scorer.cost(scorer, scorer_image_shape(config, image_shape))
    reference, training = config.reference, 0.0
    if policy.reads_reference and reference.charge:
        steps_of = lambda own: resolve(fitted(own, examples)[0], examples, 1).total
        training = reference.planned_training_flops(config, steps_of, small.train)
    large, large_scores = learner_costs(config, starts.learner, learner, image_shape)
    charged = charged_examples(config, examples)
    captions = charged if captions is None else captions
    uniform = large.train * config.batch_size * steps.total
    config, affordable = _sized(config, image_shape, charged, classes, uniform)
    if not affordable:
        more = examples, image_shape, captions, classes
        return cost_model_of(without_selection(given), learner, scorer, *more)
    prefilters = policy.pool_fraction < 1 and reference.models_scoring > 0
    return CostModel(
        updates=steps.total,
        window_updates=steps.window,
        batch_size=config.batch_size,
        ratio=config.select.ratio,
        learner=large,
        learner_scores=large_scores,
        distill=config.distill.weight > 0,
        scorer=small,
        policy=policy,
        references=reference.models_scoring,
        cotrained=reference.trains_along,
        reference_flops=training,
        prefilter_flops=examples * small.forward if prefilters else 0.0,
        pass_flops=feature_flops(config, starts, image_shape, charged),
        reference_pass_flops=_reference_pass(config, image_shape, charged, captions, classes),
        reference=_reference_cost(config, starts, image_shape),
    )


def _sized(
    config: Config, image_shape: tuple[int, int, int], images: int, classes: int, uniform: float
) -> tuple[Config, bool]:
    """The config with sizes of the reference, and whether the run will pay for it.

    Args:
      config: The config.
      image_shape: Of the learner's images.
      images: How many the run is charged for.
      classes: Classes of the data.
      uniform: FLOPs of the run without selection.
    """
    if not config.select.policy.reads_reference:
        return config, True
    shape = scorer_image_shape(config, image_shape)
    sized, price = config.reference.sized(shape, lambda: images, classes, uniform)
    affordable = not too_dear(price, config.select.until)
    return dataclasses.replace(config, reference=sized), affordable


def _reference_cost(
    config: Config, starts: Starts, image_shape: tuple[int, int, int]
) -> Cost | None:
    """FLOPs an example of a reference from published weights, None for other references."""
    if starts.reference is None or starts.reference.resolved is None:
        return None
    try:
        shape = scorer_image_shape(config, image_shape)
        return starts.reference.resolved.module.cost(shape)
    except ValueError as error:
        raise ConfigError(f"config.reference.path: {error}") from error


def _reference_pass(
    config: Config, image_shape: tuple[int, int, int], images: int, captions: int, classes: int
) -> float:
    """FLOPs of what a stored reference computes once for this run; 0 where nothing reads it."""
    if not config.select.policy.reads_reference:
        return 0.0
    try:
        shape = scorer_image_shape(config, image_shape)
        return config.reference.planned_pass_flops(shape, images, captions, classes)
    except ValueError as error:
        raise ConfigError(f"config.reference.path: {error}") from error


def charged_examples(config: Config, pool: int) -> int:
    """Examples that a pass is charged for, given how many the learner is trained on."""
    sizes, names = config.split.parts, charged_parts(config)
    mine = sum(sizes.get(name, 0) for name in config.split.train_on)
    more = sum(sizes.get(name, 0) for name in names - set(config.split.train_on))
    return pool + round(pool * more / mine) if mine else pool


def scorer_image_shape(config: Config, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Shape of the small view; the learner's where there is none."""
    small = config.data.small
    return (small, small, image_shape[2]) if small else image_shape


def other_scorers(
    config: Config,
    model: CostModel,
    learner: Any,
    examples: int,
    image_shape: tuple[int, int, int],
) -> dict[str, CostModel]:
    """The run with each scorer to compare, by name.

    The config's own; heads on stored features, for labels and a learner from published weights; and
    the standard ViTs that are cheaper than a ViT learner (two-towers of them for a two-tower), on
    the scorers' view.
    """
    models, small = {"this config's": model}, scorer_image_shape(config, image_shape)
    if isinstance(config.learner, Published) and isinstance(learner, ViT):
        head = FeatureHead(learner.num_classes, head_inputs(learner))
        trunk = dataclasses.replace(learner, num_classes=0).cost(image_shape)
        once = charged_examples(config, examples) * trunk.forward
        models["on features"] = model.with_scorer(head.cost(image_shape), once)
    for name in SCORER_SIZES if _has_sizes(learner) else ():
        cost = _resized(learner, VARIANTS[name]).cost(small)
        if cost.forward < learner.cost(image_shape).forward:
            models[f"ViT-{name}"] = model.with_scorer(cost)
    return models


def _has_sizes(learner: Any) -> bool:
    """Whether all of a learner is transformers, which the standard sizes are of."""
    towers = (learner.image, learner.text) if isinstance(learner, TwoTower) else (learner,)
    return all(isinstance(tower, ViT | Text) for tower in towers)


def _resized(learner: ViT | TwoTower, size: dict[str, int]) -> ViT | TwoTower:
    if isinstance(learner, ViT):
        return dataclasses.replace(learner, **size)
    towers = {
        tower: dataclasses.replace(getattr(learner, tower), **size) for tower in ("image", "text")
    }
    return dataclasses.replace(learner, image_out=0, text_out=size["width"], **towers)


def cost_lines(model: CostModel, scorers: dict[str, CostModel]) -> Iterator[str]:
    """FLOPs by account, the break-even table, and the bill with each scorer.

    Args:
      model: The run.
      scorers: The run with each scorer to compare, by name.
    """
    accounts, uniform = model.accounts(), model.uniform_update * model.updates
    total = ledger.total(accounts)
    yield (
        f"policy {model.policy.name}: {model.updates:,} updates of {model.batch_size:,} examples, "
        f"ratio {model.ratio}, window {model.window_updates:,} updates"
    )
    for account, value in accounts.items():
        if value:
            yield f"  {account:16s} {value:9.3g} FLOPs  {value / uniform:6.1%} of uniform training"
    fraction = f"{total / uniform:6.1%} at the same number of updates"
    yield f"  {'total':16s} {total:9.3g} FLOPs  {fraction}"
    if not model.policy.needs:
        return
    yield ""
    yield (
        "break-even: largest fraction of uniform's updates that costs no more than uniform "
        "training, by what is already paid for"
    )
    levels = "  ".join(f"{level:>18s}" for level in LEVELS)
    yield f"  {'scorer':14s} {'cheaper':>8s} {'ratio':>6s}  {levels}"
    for name, other in scorers.items():
        cheaper = model.learner.forward / other.scorer.forward
        for ratio in sorted({*RATIOS, model.ratio}):
            cells = "  ".join(f"{other.break_even(ratio, level):18.2f}" for level in LEVELS)
            yield f"  {name:14s} {cheaper:7.0f}x {ratio:6d}  {cells}"
    if len(scorers) > 1:
        yield from _bill_lines(scorers, uniform)


def _bill_lines(scorers: dict[str, CostModel], uniform: float) -> Iterator[str]:
    yield ""
    yield "bill with each scorer, of uniform training, at the same number of updates"
    columns = "  ".join(f"{ACCOUNT_LABELS[account]:>15s}" for account in ACCOUNTS)
    yield f"  {'scorer':14s} {columns}  {'total':>8s}"
    for name, other in scorers.items():
        accounts = other.accounts()
        cells = "  ".join(f"{accounts[account] / uniform:15.1%}" for account in ACCOUNTS)
        yield f"  {name:14s} {cells}  {ledger.total(accounts) / uniform:8.1%}"


def memory_lines(
    state_bytes: dict[str, tuple[int, int]],
    batch_size: int,
    ratio: int,
    image_shape: tuple[int, int, int],
) -> Iterator[str]:
    """Memory of the train state and of a super-batch.

    Args:
      state_bytes: Bytes of parameters and of optimizer state, by model.
      batch_size: Examples an update trains on.
      ratio: Super-batch over sub-batch.
      image_shape: Height, width and channels of an image.
    """
    yield ""
    yield "memory of the state on every device (activations and gradients come on top)"
    for name, (params, moments) in state_bytes.items():
        yield (
            f"  {name:10s} parameters {params / 2**20:9.1f} MiB  "
            f"optimizer {moments / 2**20:9.1f} MiB"
        )
    count = batch_size * ratio
    size = count * np.prod(image_shape) / 2**20
    yield f"  super-batch of {count:,} images, over all devices: {size:.1f} MiB as uint8"
