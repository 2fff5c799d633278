"""Flax modules as config values; the only room that imports Flax."""

from active_learning.models.vit import VARIANTS, ViT

__all__ = ["VARIANTS", "ViT"]
