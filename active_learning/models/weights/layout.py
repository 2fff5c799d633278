"""What a layout of published weights is: one value of `Layout`, one file each."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from active_learning.config import ConfigError
from active_learning.models.two_tower import TwoTower
from active_learning.models.weights.table import Row, image_tower
from active_learning.models.weights.tensors import Shape, Tensors

Triple = tuple[float, float, float]
# JSON files beside the weights, by file name.
Configs = Mapping[str, dict[str, Any]]

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OPENAI = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SYMMETRIC = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

# Names of activations in configs of transformers and timm.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "quickgelu": "quick_gelu",
}


@dataclass(frozen=True)
class About:
    """What weights say of their inputs and classes.

    Attributes:
      image_shape: Height, width and channels of the images that the positions are for.
      mean, std: Per channel, of uint8 images / 255.
      class_names: Names of the classes of the head, where known.
    """

    image_shape: tuple[int, int, int]
    mean: tuple[float, ...] = SYMMETRIC[0]
    std: tuple[float, ...] = SYMMETRIC[1]
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """How a publisher stores weights.

    Attributes:
      name: As printed, and as `--format` knows it.
      recognizes: Whether tensors of these names are of this layout.
      describe: (tensors, JSON files, heads or 0) -> the module of these sizes, and what it reads.
      table: (module, prefix) -> rows that map its parameters to tensors.
      prefix: What stands before the names in these tensors.
      written_prefix: The same where we write the weights of this module.
      resize: How the publisher resizes positions (a key of `resize.KERNELS`).
      towers: Numbers of towers that a module of this layout may have.
      requires: Fields the module must have for this layout, by dotted name, with their values.
      files: (module, about) -> the JSON files that the publisher's library reads.
      tensors_file: Name of the weights file that we write.
      constants: (module) -> tensors that the publisher's library expects and no module of ours
        has; written as zeros.
    """

    name: str
    recognizes: Callable[[Tensors], bool]
    describe: Callable[[Tensors, Configs, int], tuple[Any, About]]
    table: Callable[[Any, str], list[Row]]
    files: Callable[[Any, About], dict[str, Any]]
    resize: str
    prefix: Callable[[Tensors], str] = lambda tensors: ""
    written_prefix: Callable[[Any], str] = lambda module: ""
    towers: tuple[int, ...] = (1,)
    requires: Mapping[str, tuple] = field(default_factory=dict)
    tensors_file: str = "model.safetensors"
    constants: Callable[[Any], dict[str, Shape]] = lambda module: {}


def activation(name: str, path: Any) -> str:
    """Our name of an activation. Raises ConfigError for one that we do not have."""
    if name not in ACTIVATIONS:
        raise ConfigError(f"{path}: activation {name!r}: expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def heads_of(key: int, stated: int | None, width: int, path: Any) -> int:
    """Number of attention heads: the key where it is set, else what the config says.

    Raises:
      ConfigError: Nobody says it, or it does not divide the width.
    """
    heads = key or stated
    if not heads:
        raise ConfigError(
            f"{path}: the file does not say how many attention heads the model has; set heads "
            f"(published models of width {width} mostly have {max(1, width // 64)})"
        )
    if width % heads:
        raise ConfigError(f"{path}: heads {heads} do not divide the width {width}")
    return heads


def depth_of(tensors: Tensors, pattern: str) -> int:
    """Number of blocks: one more than the largest number in the place of * in any name.

    A block that lacks tensors counts, so that they are missed.
    """
    before = pattern.partition("*")[0]
    number = re.compile(re.escape(before) + r"(\d+)[./]")
    numbers = [int(match[1]) for name in tensors if (match := number.match(name))]
    return max(numbers, default=-1) + 1


def has_any(tensors: Tensors, pattern: str) -> bool:
    """Whether the name of any tensor matches a pattern: a part is there though one is missing."""
    part = re.compile(pattern)
    return any(part.search(name) for name in tensors)


def classes_of(tensors: Tensors, weight: str, bias: str, axis: int = 0) -> int:
    """Number of classes of a head, 0 without one.

    Args:
      tensors: The tensors.
      weight: Name of its kernel.
      bias: Name of its bias.
      axis: Axis of the kernel that the classes are in.
    """
    if weight in tensors:
        return tensors.shape(weight)[axis]
    return tensors.shape(bias)[0] if bias in tensors else 0


def check_said(tensors: Tensors, stated: Mapping[str, Any], sizes: Mapping[str, tuple]) -> None:
    """Compares the sizes of a config with those of the tensors.

    Args:
      tensors: The tensors.
      stated: A config.
      sizes: Key of the config -> (name of a tensor, its axis of that size).

    Raises:
      ConfigError: Names the first tensor that has another size than the config says.
    """
    for key, (name, axis) in sizes.items():
        if not isinstance(stated.get(key), int) or name not in tensors:
            continue
        shape = tensors.shape(name)
        if shape[axis] != stated[key]:
            expected = (*shape[:axis], stated[key], *shape[axis + 1 :])
            raise ConfigError(
                f"{tensors.path}: tensor {name} is {shape}, expected {expected}: its config says "
                f"{key} {stated[key]}"
            )


def check_depth(tensors: Tensors, stated: Any, pattern: str) -> None:
    """Raises ConfigError when a config says another number of blocks than there are."""
    depth = depth_of(tensors, pattern)
    if isinstance(stated, int) and stated != depth:
        name = pattern.replace("*", str(min(depth, stated)))
        state = "missing" if depth < stated else "there"
        raise ConfigError(
            f"{tensors.path}: {depth} blocks, but its config says {stated}: tensor {name} is "
            f"{state}"
        )


def square_side(rows: int, name: str, path: Any) -> int:
    """Side of a square grid of so many positions. Raises ConfigError for another number."""
    side = math.isqrt(rows)
    if side * side != rows:
        raise ConfigError(f"{path}: {rows} positions in {name} are not a square grid")
    return side


def image_shape_of(
    stated: Any, patches: int, patch: int, channels: int, name: str, path: Any
) -> tuple[int, int, int]:
    """Image shape from the config's size (a number or a pair) or, without one, from the positions.

    Raises:
      ConfigError: Size and number of positions do not fit each other.
    """
    if stated is None:
        side = square_side(patches, name, path)
        return side * patch, side * patch, channels
    height, width = (
        (stated, stated) if isinstance(stated, int) else (int(stated[0]), int(stated[1]))
    )
    expected = (height // patch) * (width // patch)
    if expected != patches:
        raise ConfigError(
            f"{path}: tensor {name} has {patches} positions for patches, expected {expected} for "
            f"{height} x {width} pixels and patch {patch}"
        )
    return height, width, channels


def triple(values: Any, default: Triple) -> Triple:
    """Three numbers of a config, or the default where it does not say them."""
    if not isinstance(values, list | tuple) or len(values) != 3:
        return default
    return (float(values[0]), float(values[1]), float(values[2]))


class Normalization(TypedDict):
    """Fields of `About` that say how pixels are normalized."""

    mean: Triple
    std: Triple


def hf_pixels(configs: Configs, default: tuple[Triple, Triple]) -> Normalization:
    """Normalization of a preprocessor_config.json, or the default of the model's kind."""
    stated = configs.get("preprocessor_config.json", {})
    return {
        "mean": triple(stated.get("image_mean"), default[0]),
        "std": triple(stated.get("image_std"), default[1]),
    }


def hf_preprocessor(about: About) -> dict[str, Any]:
    """preprocessor_config.json for images as this package normalizes them."""
    height, width, _ = about.image_shape
    return {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(about.mean),
        "image_std": list(about.std),
        "rescale_factor": 1 / 255,
        "size": {"height": height, "width": width},
    }


def class_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of an id2label of transformers; empty where they are its placeholders."""
    names = config.get("id2label") or {}
    try:
        ordered = tuple(str(names[key]) for key in sorted(names, key=int))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"config.json: id2label holds no class numbers: {error}") from error
    placeholders = tuple(f"LABEL_{k}" for k in range(len(ordered)))
    return () if ordered == placeholders else ordered


def hf_labels(module: Any, about: About) -> dict[str, Any]:
    """id2label and label2id of the module's classes."""
    names = about.class_names or tuple(f"LABEL_{k}" for k in range(module.num_classes))
    return {
        "id2label": {str(k): name for k, name in enumerate(names)},
        "label2id": {name: k for k, name in enumerate(names)},
    }


def hf_size(about: About, layout: str) -> int:
    """The side of square images. Raises ConfigError for others, which the layout cannot say."""
    height, width, _ = about.image_shape
    if height != width:
        raise ConfigError(f"{layout}: images of {height} x {width} pixels; only squares have a key")
    return height


def missing_fields(layout: Layout, module: Any) -> list[str]:
    """Where the module differs from what the layout can hold, as 'field=value, expected ...'."""
    out = []
    for name, allowed in layout.requires.items():
        tower, _, field_name = name.rpartition(".")
        if tower != "image" and not has_two_towers(module) and 2 in layout.towers:
            continue  # A single tower in a layout that has a place for two.
        owner = {"": module, "image": image_tower(module)}.get(tower) or module.text
        value = vars(owner)[field_name]
        if value not in allowed:
            expected = " or ".join(repr(v) for v in allowed)
            out.append(f"{name}={value!r}, expected {expected}")
    return out


def has_two_towers(module: Any) -> bool:
    """Whether a module embeds images and texts."""
    return isinstance(module, TwoTower)
