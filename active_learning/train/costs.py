"""FLOPs of an update, from the modules that a run has."""

from dataclasses import dataclass
from typing import Any

from active_learning.config import ConfigError
from active_learning.core.recipe import Recipe
from active_learning.core.resolution import rows_at_low
from active_learning.cost import flops, ledger
from active_learning.models.flexi import at_patch
from active_learning.settings import Config
from active_learning.tasks import View
from active_learning.train.starts import Start

ImageShape = tuple[int, int, int]


@dataclass(frozen=True)
class Role:
    """A module with what it sees."""

    module: Any
    view: View


def update_costs(
    config: Config,
    recipe: Recipe,
    learner: tuple[Start, Any, View],
    scorer: tuple[Start, Any, View],
    own: Role | None = None,
) -> tuple[dict[str, float], dict[str, float]]:
    """FLOPs of an update inside the window and after it.

    `own`: the reference, where it has an architecture of its own.

    Raises:
      ConfigError: A module that cannot read its view.
    """
    start, module, view = learner
    learner_cost, learner_scores = learner_costs(config, start, module, view.image_shape)
    start, module, view = scorer
    scorer_cost = _cost("scorer", start, module, view.image_shape)
    if config.grad_accum_steps > 1 and (
        recipe.learner.pairwise or config.select.policy.reuse_forward
    ):  # A second forward pass.
        learner_cost += flops.Cost(recompute=learner_cost.forward)
        scorer_cost += flops.Cost(recompute=scorer_cost.forward)
    policy, reference = config.select.policy, config.reference
    b, ratio = config.batch_size, config.select.ratio
    active = ledger.step_costs(
        learner_cost,
        scorer_cost,
        policy.needs,
        b,
        ratio,
        references=reference.models_scoring,
        cotrained=reference.trains_along,
        reuse=policy.reuse_forward,
        distill=recipe.distill,
        learner_scores=learner_scores,
        reference=own and _cost("reference", Start(), own.module, own.view.image_shape),
    )
    return active, ledger.step_costs(learner_cost, scorer_cost, (), b, ratio)


def learner_costs(
    config: Config, start: Start, module: Any, shape: ImageShape
) -> tuple[flops.Cost, flops.Cost]:
    """FLOPs of the learner per example trained on, and per example that it scores.

    Raises:
      ConfigError: A module that cannot read images of this shape.
    """
    full = _cost("learner", start, module, shape)
    if not config.flexi.patch:
        return full, full
    low = _cost("flexi", start, low_resolution(config, module), shape)
    part = float(rows_at_low(config.flexi.fraction, config.batch_size))
    return (1 - part) * full + part * low, low


def low_resolution(config: Config, module: Any) -> Any:
    """The learner on larger patches. Raises ConfigError for one without patches."""
    try:
        return at_patch(module, config.flexi.patch)
    except ValueError as error:
        key = f"config.flexi.patch={config.flexi.patch}"
        raise ConfigError(f"{key}: config.learner, a {error}") from error


def _cost(key: str, start: Start, module: Any, shape: ImageShape) -> flops.Cost:
    """FLOPs of a module on its view. Raises ConfigError when the module cannot read it."""
    try:
        return start.cost(module, shape)
    except ValueError as error:
        raise ConfigError(f"config.{key}: {error}") from error
