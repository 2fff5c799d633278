"""Flax modules as config values; the only room that imports Flax."""

from active_learning.models.mlp import MLP
from active_learning.models.resnet import ResNet
from active_learning.models.vit import VARIANTS, ViT

__all__ = ["MLP", "VARIANTS", "ResNet", "ViT"]
