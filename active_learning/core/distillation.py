"""Distillation from the reference on the selected batch, as in ACED (arXiv 2411.18674).

With `Recipe.distill` the step gives the learner the reference's outputs on the augmented sub-batch,
so that both see the same view: b forward passes of the small model per update.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from jaxtyping import Array, Float

from active_learning.core.recipe import TEACHER, Batch, Model


def distilled(
    model: Model, soft_loss: Callable[[Any, Any], Float[Array, "B"]], weight: float
) -> Model:
    """`model` with l_learn = (1 - weight) * l_learn + weight * soft_loss(outputs, teacher's).

    A batch without the teacher's outputs, as after the window, is trained on by l_learn alone.

    Args:
      model: The learner.
      soft_loss: (outputs, the reference's outputs) -> (B,), e.g. of `losses.soft_xent` or
        `contrastive.soft_info_nce`.
      weight: Of the soft loss, in [0, 1].
    """
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"distillation with weight={weight}: expected 0 to 1")

    def learn_loss(outputs: Any, batch: Batch) -> Float[Array, "B"]:
        hard = model.learn_loss(outputs, batch)
        if TEACHER not in batch:
            return hard
        return (1.0 - weight) * hard + weight * soft_loss(outputs, batch[TEACHER])

    return replace(model, learn_loss=learn_loss)
