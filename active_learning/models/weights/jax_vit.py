"""The original JAX checkpoints of ViT and AugReg (.npz), and big_vision's image towers (.npz).

Both are Flax modules and differ in a few names; about.json holds what the file does not say.
"""

import re
from typing import Any

from active_learning.config import ConfigError
from active_learning.models.vit import ViT
from active_learning.models.weights import layout as lay
from active_learning.models.weights.forms import (
    BATCHED,
    FLAX_CONV,
    FLAX_HEADS,
    FLAX_HEADS_OUT,
    SAME,
)
from active_learning.models.weights.table import Row, prefixed, row
from active_learning.models.weights.tensors import Tensors


def dense(ours: str, theirs: str) -> list[Row]:
    """Kernel and bias of a dense layer as Flax names them."""
    return row(f"{ours}/kernel", f"{theirs}/kernel", SAME) + row(
        f"{ours}/bias", f"{theirs}/bias", SAME
    )


def layer_norm(ours: str, theirs: str) -> list[Row]:
    """Scale and bias of a LayerNorm as Flax names them."""
    return row(f"{ours}/scale", f"{theirs}/scale", SAME) + row(
        f"{ours}/bias", f"{theirs}/bias", SAME
    )


def attention(ours: str, theirs: str) -> list[Row]:
    """Flax's attention, with an axis for the heads."""
    out = []
    for name in ("query", "key", "value"):
        out += row(f"{ours}/{name}/kernel", f"{theirs}/{name}/kernel", FLAX_HEADS)
        out += row(f"{ours}/{name}/bias", f"{theirs}/{name}/bias", FLAX_HEADS)
    out += row(f"{ours}/out/kernel", f"{theirs}/out/kernel", FLAX_HEADS_OUT)
    return out + row(f"{ours}/out/bias", f"{theirs}/out/bias", SAME)


def block(norm_2: str, attend: str, mlp: str) -> list[Row]:
    """A block, given the three names that differ between the two code bases."""
    return [
        *layer_norm("block_*/norm_1", "encoderblock_*/LayerNorm_0"),
        *attention("block_*/attention", f"encoderblock_*/{attend}"),
        *layer_norm("block_*/norm_2", f"encoderblock_*/{norm_2}"),
        *dense("block_*/mlp/up", f"encoderblock_*/{mlp}/Dense_0"),
        *dense("block_*/mlp/down", f"encoderblock_*/{mlp}/Dense_1"),
    ]


_TABLE = [
    *row("embed/kernel", "embedding/kernel", FLAX_CONV),
    *row("embed/bias", "embedding/bias", SAME),
    *row("cls", "cls", SAME),
    *row("position", "Transformer/posembed_input/pos_embedding", BATCHED),
    *prefixed(
        block("LayerNorm_2", "MultiHeadDotProductAttention_1", "MlpBlock_3"),
        theirs="Transformer/",
    ),
    *layer_norm("norm", "Transformer/encoder_norm"),
    *dense("pre_logits", "pre_logits"),
    *dense("head", "head"),
]
_BLOCK_0 = "Transformer/encoderblock_0"


def _table(module: Any, prefix: str) -> list[Row]:
    del module
    return prefixed(_TABLE, theirs=prefix)


def flax_prefix(tensors: Tensors) -> str:
    """What stands before the names: nothing, or the place of the parameters in a train state."""
    for prefix in ("params/", "opt/target/", "target/"):
        if any(tensor.startswith(prefix) for tensor in tensors):
            return prefix
    return ""


def _prefix(tensors: Tensors) -> str:
    return flax_prefix(tensors)


def _recognizes(tensors: Tensors) -> bool:
    hybrid = [name for name in tensors if re.search(r"^(conv_root|block1)/", name)]
    if hybrid and any("Transformer/" in name for name in tensors):
        raise ConfigError(f"{tensors.path}: tensor {hybrid[0]}: hybrids with a ResNet are not read")
    return lay.has_any(tensors, "Transformer/encoderblock_\\d+/MultiHeadDotProductAttention_1/")


def _describe(tensors: Tensors, configs: lay.Configs, heads: int) -> tuple[ViT, lay.About]:
    prefix, stated = _prefix(tensors), configs.get("about.json", {})
    patch, _, channels, width = tensors.shape(f"{prefix}embedding/kernel")
    position = f"{prefix}Transformer/posembed_input/pos_embedding"
    query = f"{prefix}{_BLOCK_0}/MultiHeadDotProductAttention_1/query/kernel"
    class_token = f"{prefix}cls" in tensors
    head, hidden = f"{prefix}head/kernel", f"{prefix}pre_logits/kernel"
    module = ViT(
        num_classes=lay.classes_of(tensors, head, f"{prefix}head/bias", axis=1),
        width=width,
        depth=lay.depth_of(tensors, f"{prefix}Transformer/encoderblock_*/LayerNorm_0/scale"),
        heads=lay.heads_of(heads, tensors.shape(query)[1], width, tensors.path),
        mlp_dim=tensors.shape(f"{prefix}{_BLOCK_0}/MlpBlock_3/Dense_0/kernel")[1],
        patch=patch,
        pool="cls" if class_token else "gap",
        activation=lay.activation(stated.get("activation", "gelu"), tensors.path),
        epsilon=float(stated.get("epsilon", 1e-6)),
        qkv_bias="qkv",
        prefix_positions=int(class_token),
        pre_logits=lay.classes_of(tensors, hidden, f"{prefix}pre_logits/bias", axis=1),
    )
    patches = tensors.shape(position)[1] - module.prefix_positions
    shape = lay.image_shape_of(
        stated.get("image_size"), patches, patch, channels, position, tensors.path
    )
    return module, about_of(shape, stated)


def about_of(shape: tuple[int, int, int], stated: dict[str, Any]) -> lay.About:
    """What about.json says of pixels and classes."""
    mean, std = (
        lay.triple(stated.get("mean"), lay.SYMMETRIC[0]),
        lay.triple(stated.get("std"), lay.SYMMETRIC[1]),
    )
    return lay.About(shape, mean, std, tuple(str(name) for name in stated.get("class_names", ())))


def about_files(tower: ViT, about: lay.About) -> dict[str, Any]:
    """about.json: what an .npz of a ViT does not say."""
    height, width, _ = about.image_shape
    content = {
        "image_size": height if height == width else [height, width],
        "patch_size": tower.patch,
        "heads": tower.heads,
        "activation": tower.activation,
        "epsilon": tower.epsilon,
        "mean": list(about.mean),
        "std": list(about.std),
        **({"class_names": list(about.class_names)} if about.class_names else {}),
    }
    return {"about.json": content}


LAYOUT = lay.Layout(
    name="jax_vit",
    recognizes=_recognizes,
    describe=_describe,
    table=_table,
    files=about_files,
    prefix=_prefix,
    resize="bilinear_corners",
    requires={
        "pool": ("cls", "gap"),
        "class_token": (False,),
        "norm": ("tokens",),
        "activation": ("gelu", "gelu_tanh", "quick_gelu"),
        "qkv_bias": ("qkv",),
        "registers": (0,),
        "layer_scale": (False,),
        "pre_norm": (False,),
        "embed_bias": (True,),
        "keep": (1.0,),
    },
    tensors_file="weights.npz",
)
