"""One set of parameters at several patch sizes (FlexiViT, arXiv 2212.08013)."""

import dataclasses
from typing import Any

from active_learning.models.two_tower import TwoTower
from active_learning.models.vit import ViT


def at_patch(module: Any, patch: int) -> Any:
    """The module on patches of another side, with the parameters it has.

    Larger patches are a lower resolution: four times fewer tokens at twice the side.

    Raises:
      ValueError: A module without patches.
    """
    if isinstance(module, TwoTower):
        return dataclasses.replace(module, image=at_patch(module.image, patch))
    if not isinstance(module, ViT):
        raise ValueError(f"{type(module).__name__} has no patches")
    own = module.weights_patch or module.patch
    return dataclasses.replace(module, patch=patch, weights_patch=own)
