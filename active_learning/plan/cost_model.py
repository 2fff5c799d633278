"""What a run costs before it is started: FLOPs by account, and when selection breaks even."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from active_learning.checks import resolve
from active_learning.cost import ledger
from active_learning.cost.flops import Cost
from active_learning.models import VARIANTS, TwoTower, ViT
from active_learning.settings import Config
from active_learning.train.starts import open_models

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
        )
        return ledger.total(costs)

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
        )
        uniform = ledger.step_costs(self.learner, self.scorer, (), b, 1)
        book.charge(active, self.window_updates)
        book.charge(uniform, self.updates - self.window_updates)
        book.charge(
            {"reference_train": self.reference_flops, "reference_score": self.prefilter_flops}
        )
        return book.flops

    def break_even(self, ratio: int, level: str, scorer: Cost | None = None) -> float:
        """Largest fraction of uniform's updates that costs no more than uniform training.

        The window keeps its fraction of the run. A reference of another size is trained on as many
        examples.

        Args:
          ratio: Super-batch over sub-batch.
          level: One of `LEVELS`.
          scorer: FLOPs an example of the scorers; None for the config's own.
        """
        extra = self.active_update(ratio, level, scorer) - self.uniform_update
        extra *= self.window_updates / self.updates
        paid = 0.0
        if level == "none" and self.reference_flops:
            size = 1.0 if scorer is None else scorer.train / self.scorer.train
            paid = self.reference_flops * size / (self.uniform_update * self.updates)
        return max(0.0, (1 - paid) / (1 + extra / self.uniform_update))


def cost_model_of(
    config: Config, learner: Any, scorer: Any, examples: int, image_shape: tuple[int, int, int]
) -> CostModel:
    """The cost model of a config.

    Args:
      config: The config.
      learner: Its learner, with the number of classes filled in.
      scorer: Its scorer, likewise.
      examples: Size of the training pool.
      image_shape: Height, width and channels of the learner's images.

    Raises:
      ConfigError: For durations that cannot be resolved.
    """
    config, starts = open_models(config)
    steps = resolve(config, examples, 1)
    policy = config.select.policy
    small = starts.scorer.cost(scorer, scorer_image_shape(config, image_shape))
    reference, training = config.reference, 0.0
    if policy.reads_reference and reference.charge:
        steps_of = lambda own: resolve(own, examples, 1).total
        training = reference.planned_training_flops(config, steps_of, small.train)
    prefilters = policy.pool_fraction < 1 and reference.models_scoring > 0
    return CostModel(
        updates=steps.total,
        window_updates=steps.window,
        batch_size=config.batch_size,
        ratio=config.select.ratio,
        learner=starts.learner.cost(learner, image_shape),
        scorer=small,
        policy=policy,
        references=reference.models_scoring,
        cotrained=reference.trains_along,
        reference_flops=training,
        prefilter_flops=examples * small.forward if prefilters else 0.0,
    )


def scorer_image_shape(config: Config, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Shape of the small view; the learner's where there is none."""
    small = config.data.small
    return (small, small, image_shape[2]) if small else image_shape


def scorer_costs(
    learner, scorer, image_shape: tuple[int, int, int], small_shape: tuple[int, int, int]
) -> dict[str, Cost]:
    """FLOPs of scorers to compare, by name.

    The config's own, and the standard ViTs that are cheaper than a ViT learner (two-towers of them
    for a two-tower), on the scorers' view.
    """
    costs = {"this config's": scorer.cost(small_shape)}
    for name in SCORER_SIZES if isinstance(learner, ViT | TwoTower) else ():
        cost = _resized(learner, VARIANTS[name]).cost(small_shape)
        if cost.forward < learner.cost(image_shape).forward:
            costs[f"ViT-{name}"] = cost
    return costs


def _resized(learner: ViT | TwoTower, size: dict[str, int]) -> ViT | TwoTower:
    if isinstance(learner, ViT):
        return dataclasses.replace(learner, **size)
    towers = {
        tower: dataclasses.replace(getattr(learner, tower), **size) for tower in ("image", "text")
    }
    return dataclasses.replace(learner, image_out=0, text_out=size["width"], **towers)


def cost_lines(model: CostModel, scorers: dict[str, Cost]) -> Iterator[str]:
    """FLOPs by account, and the break-even table."""
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
    for name, cost in scorers.items():
        for ratio in sorted({*RATIOS, model.ratio}):
            cells = "  ".join(f"{model.break_even(ratio, level, cost):18.2f}" for level in LEVELS)
            yield f"  {name:14s} {model.learner.forward / cost.forward:7.0f}x {ratio:6d}  {cells}"


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
