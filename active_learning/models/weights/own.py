"""Our own layout: every module of this package, parameters by their paths, fields in a JSON."""

from typing import Any

from active_learning.config import ConfigError, from_json, register, to_json
from active_learning.models.mlp import MLP
from active_learning.models.resnet import ResNet
from active_learning.models.text import Text
from active_learning.models.two_tower import TwoTower
from active_learning.models.vit import ViT
from active_learning.models.weights import layout as lay
from active_learning.models.weights.forms import SAME
from active_learning.models.weights.table import Row, image_tower, leaves_of
from active_learning.models.weights.tensors import Tensors

FILE = "active_learning.json"
MODULES = (ViT, TwoTower, Text, ResNet, MLP)


def _table(module: Any, prefix: str) -> list[Row]:
    """One row a parameter; the names do not depend on the size of the images."""
    del prefix
    tower = image_tower(module)
    side = tower.patch if isinstance(tower, ViT) else 32
    return [Row((path,), path, SAME) for path in leaves_of(module, (side, side, 3))]


def _describe(tensors: Tensors, configs: lay.Configs, heads: int) -> tuple[Any, lay.About]:
    del heads
    for cls in MODULES:
        register(cls)
    stated = configs[FILE]
    try:
        module = from_json(stated["module"], FILE)
        height, width, channels = (int(n) for n in stated["image_shape"])
        names = tuple(str(name) for name in stated.get("class_names", ()))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{tensors.path.parent / FILE}: {error}") from error
    if not isinstance(module, MODULES):
        raise ConfigError(f"{tensors.path.parent / FILE}: holds no model")
    mean, std = (
        lay.triple(stated.get("mean"), lay.SYMMETRIC[0]),
        lay.triple(stated.get("std"), lay.SYMMETRIC[1]),
    )
    return module, lay.About((height, width, channels), mean, std, names)


def _files(module: Any, about: lay.About) -> dict[str, Any]:
    content = {
        "module": to_json(module),
        "image_shape": list(about.image_shape),
        "mean": list(about.mean),
        "std": list(about.std),
        "class_names": list(about.class_names),
    }
    return {FILE: content}


LAYOUT = lay.Layout(
    name="own",
    recognizes=lambda tensors: False,  # by its JSON file
    describe=_describe,
    table=_table,
    files=_files,
    resize="bicubic_antialias",
    towers=(1, 2),
    tensors_file="weights.safetensors",
)
