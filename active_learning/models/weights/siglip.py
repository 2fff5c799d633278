"""Two-tower weights in the layout of published SigLIP checkpoints (big_vision's .npz): names, shapes, reading and writing.

Names and shapes of B/16 and So400m/14: docs/siglip_layout.json, with its sources. Our attention has no key bias: it shifts all logits of a query
alike, so that leaving it out changes no output; it is written as zeros.
"""

import re
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from active_learning.config import ConfigError
from active_learning.models.transformer import stack_blocks, unstack_blocks

Weights = dict[str, np.ndarray]

_RULES = [  # a path of ours, joined by slashes -> their name
    (r"^image/embed/", "img/embedding/"),
    (r"^text/embed$", "txt/Embed_0/embedding"),
    (r"^image/(block_|norm/)", r"img/Transformer/encoder\1"),
    (r"^text/(block_|norm/)", r"txt/Encoder_0/encoder\1"),
    (r"encodernorm/", "encoder_norm/"),
    (r"encoderblock_(\d+)/norm_1/", r"encoderblock_\1/LayerNorm_0/"),
    (r"encoderblock_(\d+)/norm_2/", r"encoderblock_\1/LayerNorm_1/"),
    (r"^image/probe$", "img/MAPHead_0/probe"),
    (r"^image/pool_", "img/MAPHead_0/"),
    (r"MAPHead_0/norm/", "MAPHead_0/LayerNorm_0/"),
    (r"/attention/", "/MultiHeadDotProductAttention_0/"),
    (r"/mlp/up/", "/MlpBlock_0/Dense_0/"),
    (r"/mlp/down/", "/MlpBlock_0/Dense_1/"),
    (r"/position$", "/pos_embedding"),
    (r"^(image|text)_head/", r"\1/head/"),
    (r"^image/", "img/"),
    (r"^text/", "txt/"),
]


def _name(path: str) -> str:
    for ours, theirs in _RULES:
        path = re.sub(ours, theirs, path)
    return f"params/{path}"


def _shape(path: str, shape: tuple[int, ...], module: Any) -> tuple[int, ...]:
    """Their shape of a leaf of ours: patches have height, width and channels, heads an axis of their own, positions and scalars a leading 1."""
    if path == "image/embed/kernel":
        return (module.image.patch, module.image.patch, shape[0] // module.image.patch**2, shape[1])
    if path.endswith("/position") or shape == ():
        return (1, *shape)
    heads = (module.image if path.startswith("image/") else module.text).heads
    if re.search(r"attention/(query|key|value)/", path):
        return (*shape[:-1], heads, shape[-1] // heads)
    return (heads, shape[0] // heads, shape[1]) if path.endswith("attention/out/kernel") else shape


def _unrolled(params: PyTree, module: Any) -> dict[str, Any]:
    """Leaves by path, the blocks of each tower one by one."""
    scanned = {
        name: unstack_blocks(params[name])
        for name in ("image", "text")
        if getattr(module, name).scan
    }
    leaves = jax.tree_util.tree_leaves_with_path(dict(params) | scanned)
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}


def _key_biases(weights: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what we do not have."""
    kernels = {name: shape for name, shape in weights.items() if name.endswith("/key/kernel")}
    return {name.replace("/key/kernel", "/key/bias"): shape[1:] for name, shape in kernels.items()}


def to_weights(params: PyTree, module: Any) -> Weights:
    """The parameters of a TwoTower of a ViT and a Text by big_vision's names, float32."""
    out = {}
    for path, leaf in _unrolled(params, module).items():
        values = np.asarray(leaf, np.float32)
        out[_name(path)] = values.reshape(_shape(path, values.shape, module))
    shapes = {name: values.shape for name, values in out.items()}
    return out | {name: np.zeros(shape, np.float32) for name, shape in _key_biases(shapes).items()}


def layout(module: Any, image_shape: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the module's weights; nothing is allocated."""
    like = _unrolled(_like(module, image_shape), module)
    shapes = {_name(path): _shape(path, leaf.shape, module) for path, leaf in like.items()}
    return shapes | _key_biases(shapes)


def _like(module: Any, image_shape: tuple[int, int, int]) -> PyTree:
    """The module's parameters as zeros that take no memory."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    tokens = jax.ShapeDtypeStruct((1, module.text.context), jnp.int32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image, tokens)["params"]
    return jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)


def from_weights(
    weights: Weights, module: Any, image_shape: tuple[int, int, int], key: str = "weights"
) -> PyTree:
    """The module's parameters. ConfigError naming the first three that are missing, too many or of another shape; `key` begins it."""
    weights = {
        name if name.startswith("params/") else f"params/{name}": values
        for name, values in weights.items()
    }
    wanted, there = (
        layout(module, image_shape),
        {name: values.shape for name, values in weights.items()},
    )
    wrong = [
        name for name in sorted(wanted.keys() | there.keys()) if wanted.get(name) != there.get(name)
    ]
    if wrong:
        said = "; ".join(
            f"{n} is {there.get(n, 'missing')}, expected {wanted.get(n, 'nothing')}"
            for n in wrong[:3]
        )
        raise ConfigError(f"{key}: {len(wrong)} weights do not fit this config: {said}")
    params: dict = {}
    for path, leaf in _unrolled(_like(module, image_shape), module).items():
        *folders, last = path.split("/")
        at = params
        for folder in folders:
            at = at.setdefault(folder, {})
        at[last] = weights[_name(path)].astype(np.float32).reshape(leaf.shape)
    scanned = {
        name: stack_blocks(params[name]) for name in ("image", "text") if getattr(module, name).scan
    }
    return params | jax.tree.map(np.asarray, scanned)


def load(path: Path, module: Any, image_shape: tuple[int, int, int], key: str) -> PyTree:
    """The parameters in an .npz file. ConfigError, begun by `key`, when it cannot be read or does not fit."""
    try:
        with np.load(path) as found:
            weights = dict(found)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{key}={str(path)!r}: no readable .npz ({error})") from error
    return from_weights(weights, module, image_shape, f"{key}={str(path)!r}")


def save(path: Path, weights: Weights) -> None:
    """Writes NAME.npz or NAME.safetensors. Raises ConfigError for another ending."""
    if path.suffix == ".npz":
        np.savez(path, **weights)
    elif path.suffix == ".safetensors":
        from safetensors.numpy import save_file  # of the extra [text]

        save_file({name: np.ascontiguousarray(values) for name, values in weights.items()}, path)
    else:
        raise ConfigError(f"--out={path}: expected NAME.npz or NAME.safetensors")
