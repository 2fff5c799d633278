"""Flax modules as config values; the only room that imports Flax."""

from active_learning.models.mlp import MLP
from active_learning.models.on_features import OnFeatures
from active_learning.models.published import Published
from active_learning.models.resnet import ResNet
from active_learning.models.text import Text
from active_learning.models.two_tower import TwoTower
from active_learning.models.vit import VARIANTS, ViT

__all__ = ["MLP", "VARIANTS", "OnFeatures", "Published", "ResNet", "Text", "TwoTower", "ViT"]
