"""Which parameters of a model are trained, how fast, and what their training costs."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import PyTree

from active_learning.config import ConfigError
from active_learning.cost import flops
from active_learning.models.transformer import block_cost, blocks_cost
from active_learning.models.two_tower import TwoTower

_HEADS = ("head", "pre_logits", "image_head", "text_head", "t", "b")
_FIRST = re.compile(r"first (\d+) blocks?")
CHOICES = "'', 'all but head', 'first N blocks', 'image' or 'text'"


@dataclass(frozen=True)
class Freeze:
    """A parsed value of `freeze`.

    Attributes:
      kind: "", "head" (all but the head), "blocks" or "tower".
      blocks: With "blocks": how many of the first, everything below them included.
      tower: With "tower": which one, "image" or "text".
    """

    kind: str = ""
    blocks: int = 0
    tower: str = ""


def parse_freeze(text: str, key: str = "freeze") -> Freeze:
    """Reads a value of the key `freeze`. Raises ConfigError naming the key."""
    if text == "":
        return Freeze()
    if text in ("image", "text"):
        return Freeze("tower", tower=text)
    if text == "all but head":
        return Freeze("head")
    if match := _FIRST.fullmatch(text):
        return Freeze("blocks", int(match[1]))
    raise ConfigError(f"{key}={text!r}: expected {CHOICES}")


def check_freeze(freeze: Freeze, module: Any, key: str = "freeze") -> None:
    """Raises ConfigError when a module cannot be frozen that way."""
    two = isinstance(module, TwoTower)
    towers = [module.image, module.text] if two else [module]
    if freeze.tower and not two:
        raise ConfigError(f"{key}={freeze.tower!r}: the model has one tower only")
    if freeze.kind == "blocks":
        depth = min(tower.depth for tower in towers)
        if freeze.blocks > depth:
            raise ConfigError(f"{key}='first {freeze.blocks} blocks': there are {depth}")
        if any(tower.scan for tower in towers):
            raise ConfigError(f"{key}='first {freeze.blocks} blocks' needs scan=False")


def _names(path: tuple) -> list[str]:
    """Names on the way to a parameter, without the tower."""
    names = [str(key.key) for key in path]
    return names[1:] if names[0] in ("image", "text") else names


def frozen_mask(params: PyTree, freeze: str) -> PyTree:
    """True for each parameter that is not trained.

    Args:
      params: Parameters of a ViT or TwoTower, or their shapes.
      freeze: "", "all but head", "first N blocks" (with everything below them), or the tower
        "image" or "text" (with its projection).
    """
    parsed = parse_freeze(freeze)

    def frozen(path: tuple, _: Any) -> bool:
        first, name = str(path[0].key), _names(path)[0]
        if parsed.kind == "head":
            return first not in _HEADS
        if parsed.kind == "tower":
            return first in (parsed.tower, f"{parsed.tower}_head")
        if parsed.kind == "blocks":
            return first not in _HEADS and _layer(name, 1 << 30) <= parsed.blocks
        return False

    return jax.tree_util.tree_map_with_path(frozen, params)


def _layer(name: str, top: int) -> int:
    """Height of a part: 0 for what feeds the blocks, then the blocks, then the rest."""
    if name.startswith("block_"):
        return int(name.removeprefix("block_")) + 1
    inputs = ("embed", "position", "cls", "registers", "norm_pre")
    return 0 if name in inputs else top


def rate_scales(params: PyTree, layer_decay: float = 1.0, head_rate: float = 1.0) -> PyTree:
    """Factor of the learning rate for each parameter.

    Args:
      params: Parameters of a ViT or TwoTower, or their shapes.
      layer_decay: Factor from each block to the one below it (arXiv 2106.08254); 1: none.
      head_rate: Factor of the head.
    """
    depths: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        tower, name = str(path[0].key), _names(path)[0]
        depth = leaf.shape[0] if name == "blocks" else _layer(name, 0)
        key = tower if tower in ("image", "text") else ""
        depths[key] = max(depths.get(key, 0), depth)

    def scale(path: tuple, leaf: Any) -> Any:
        first, name = str(path[0].key), _names(path)[0]
        top = depths.get(first, depths.get("", 0)) + 1
        if name == "blocks":  # One factor for each of the stacked blocks.
            factors = layer_decay ** (top - 1.0 - np.arange(leaf.shape[0]))
            return factors.astype(np.float32).reshape(-1, *[1] * (len(leaf.shape) - 1))
        if first in _HEADS:
            return head_rate
        return layer_decay ** (top - _layer(name, top))

    return jax.tree_util.tree_map_with_path(scale, params)


def scale_rates(layer_decay: float, head_rate: float) -> optax.GradientTransformation:
    """Multiplies the updates of each parameter by its factor of `rate_scales`."""

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, Any]:
        del params
        scales = rate_scales(updates, layer_decay, head_rate)
        return jax.tree.map(lambda u, s: u * s, updates, scales), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def trained_only(
    optimizer: optax.GradientTransformation, freeze: str
) -> optax.GradientTransformation:
    """The optimizer for the parameters that are trained; it holds no state for the others."""
    if not freeze:
        return optimizer

    def labels(params: PyTree) -> PyTree:
        return jax.tree.map(lambda f: "frozen" if f else "trained", frozen_mask(params, freeze))

    return optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)


def stop_frozen(
    apply: Callable[[PyTree, Any, bool], Any], freeze: str
) -> Callable[[PyTree, Any, bool], Any]:
    """A model function whose gradient is not computed for frozen parameters."""
    if not freeze:
        return apply

    def stopped(params: PyTree, batch: Any, train: bool) -> Any:
        mask = frozen_mask(params, freeze)
        stop = lambda p, f: jax.lax.stop_gradient(p) if f else p
        return apply(jax.tree.map(stop, params, mask), batch, train)

    return stopped


def trained_cost(module: Any, image_shape: tuple[int, int, int], freeze: str) -> flops.Cost:
    """FLOPs per example of training a module in part.

    Frozen parts need no weight gradients, and no input gradients below the lowest trained part;
    what is not computed counts as `Cost.first`, of which the backward pass is freed.
    """
    cost, parsed = module.cost(image_shape), parse_freeze(freeze)
    if not parsed.kind:
        return cost
    if not isinstance(module, TwoTower):
        return _image_cost(module, image_shape, parsed)
    image, text = module.image.cost(image_shape), module.text.cost()
    heads = [
        flops.dense(1, tower.width, out)
        for tower, out in ((module.image, module.image_out), (module.text, module.text_out))
    ]
    if parsed.kind == "head":
        frozen = [_frozen(image), _frozen(text)]
        heads = [flops.Cost(h.forward, h.forward) for h in heads]
        return frozen[0] + frozen[1] + heads[0] + heads[1]
    if parsed.tower == "image":
        return _frozen(image) + _frozen(heads[0]) + text + heads[1]
    if parsed.tower == "text":
        return _frozen(text) + _frozen(heads[1]) + image + heads[0]
    below = _image_cost(module.image, image_shape, parsed)
    tokens = module.text.context
    skipped = parsed.blocks * block_cost(module.text, tokens)
    words = _frozen(skipped) + (module.text.depth - parsed.blocks) * block_cost(module.text, tokens)
    return below + words + heads[0] + heads[1]


def _frozen(cost: flops.Cost) -> flops.Cost:
    """A part that only runs forward."""
    return flops.Cost(cost.forward, 2 * cost.forward)


def _image_cost(module: Any, image_shape: tuple[int, int, int], freeze: Freeze) -> flops.Cost:
    embed, tokens = module.embed_cost(image_shape), module.tokens(image_shape)
    pool, head = module.pool_cost(image_shape), module.head_cost()
    if freeze.kind == "head":
        lowest = flops.dense(1, head_inputs(module), module.pre_logits or module.num_classes)
        head = flops.Cost(head.forward, lowest.forward)
        return _frozen(embed + blocks_cost(module, tokens) + pool) + head
    one = block_cost(module, tokens)
    frozen = _frozen(embed + freeze.blocks * one)
    return frozen + (module.depth - freeze.blocks) * one + pool + head


def head_inputs(module: Any) -> int:
    """Number of features that the head of a ViT reads."""
    return module.width * (2 if module.pool == "cls_gap" else 1)
