"""big_vision's .npz: image towers of its ViT, and SigLIP's two towers.

Names and shapes of SigLIP's B/16 and So400m/14: docs/siglip_layout.json, with its sources.
"""

from typing import Any

from active_learning.models.text import Text
from active_learning.models.two_tower import TwoTower
from active_learning.models.vit import ViT
from active_learning.models.weights import hf_siglip, jax_vit
from active_learning.models.weights import layout as lay
from active_learning.models.weights.forms import BATCHED, FLAX_CONV, SAME
from active_learning.models.weights.jax_vit import attention, dense, layer_norm
from active_learning.models.weights.table import Row, prefixed, row
from active_learning.models.weights.tensors import Tensors

_BLOCK = jax_vit.block("LayerNorm_1", "MultiHeadDotProductAttention_0", "MlpBlock_0")
_IMAGE = [
    *row("embed/kernel", "embedding/kernel", FLAX_CONV),
    *row("embed/bias", "embedding/bias", SAME),
    *row("cls", "cls", SAME),
    *row("position", "pos_embedding", BATCHED),
    *prefixed(_BLOCK, theirs="Transformer/"),
    *layer_norm("norm", "Transformer/encoder_norm"),
    *row("probe", "MAPHead_0/probe", SAME),
    *attention("pool_attention", "MAPHead_0/MultiHeadDotProductAttention_0"),
    *layer_norm("pool_norm", "MAPHead_0/LayerNorm_0"),
    *dense("pool_mlp/up", "MAPHead_0/MlpBlock_0/Dense_0"),
    *dense("pool_mlp/down", "MAPHead_0/MlpBlock_0/Dense_1"),
    *dense("pre_logits", "pre_logits"),
    *dense("head", "head"),
]
_TEXT = [
    *row("embed", "Embed_0/embedding", SAME),
    *row("position", "pos_embedding", BATCHED),
    *prefixed(_BLOCK, theirs="Encoder_0/"),
    *layer_norm("norm", "Encoder_0/encoder_norm"),
]
_TOWERS = [
    *prefixed(_IMAGE, "image/", "img/"),
    *dense("image_head", "img/head"),
    *prefixed(_TEXT, "text/", "txt/"),
    *dense("text_head", "txt/head"),
    *row("t", "t", BATCHED),
    *row("b", "b", BATCHED),
]


def _prefix(tensors: Tensors) -> str:
    return jax_vit.flax_prefix(tensors)


def _table(module: Any, prefix: str) -> list[Row]:
    return prefixed(_IMAGE if isinstance(module, ViT) else _TOWERS, theirs=prefix)


def _recognizes(tensors: Tensors) -> bool:
    return lay.has_any(tensors, r"Transformer/encoderblock_\d+/MultiHeadDotProductAttention_0/")


def _image(tensors: Tensors, prefix: str, stated: dict[str, Any], heads: int) -> ViT:
    patch, _, _, width = tensors.shape(f"{prefix}embedding/kernel")
    layers = f"{prefix}Transformer/encoderblock"
    attend = f"{layers}_0/MultiHeadDotProductAttention_0"
    class_token, probe = f"{prefix}cls" in tensors, lay.has_any(tensors, "MAPHead_0/")
    hidden, head = f"{prefix}pre_logits/kernel", f"{prefix}head/kernel"
    bias = f"{prefix}head/bias"
    positions = tensors.shape(f"{prefix}pos_embedding")[1]
    size = stated.get("image_size")
    # big_vision adds the class token after the positions; those of MoCo-like models cover it.
    covered = class_token and size is not None and positions == (size // patch) ** 2 + 1
    return ViT(
        num_classes=0 if prefix.endswith("img/") else lay.classes_of(tensors, head, bias, axis=1),
        width=width,
        depth=lay.depth_of(tensors, f"{layers}_*/LayerNorm_0/scale"),
        heads=lay.heads_of(heads, tensors.shape(f"{attend}/query/kernel")[1], width, tensors.path),
        mlp_dim=tensors.shape(f"{layers}_0/MlpBlock_0/Dense_0/kernel")[1],
        patch=patch,
        pool="map" if probe else "cls" if class_token else "gap",
        activation=lay.activation(stated.get("activation", "gelu_tanh"), tensors.path),
        epsilon=float(stated.get("epsilon", 1e-6)),
        qkv_bias="qkv",
        prefix_positions=int(covered),
        pre_logits=tensors.shape(hidden)[1] if hidden in tensors else 0,
    )


def _describe(tensors: Tensors, configs: lay.Configs, heads: int) -> tuple[Any, lay.About]:
    stated, prefix = configs.get("about.json", {}), _prefix(tensors)
    two = lay.has_any(tensors, f"^{prefix}(img|txt)/")
    at = f"{prefix}img/" if two else prefix
    module: Any = _image(tensors, at, stated, heads)
    patches = tensors.shape(f"{at}pos_embedding")[1] - module.prefix_positions
    channels = tensors.shape(f"{at}embedding/kernel")[2]
    shape = lay.image_shape_of(
        stated.get("image_size"),
        patches,
        module.patch,
        channels,
        f"{at}pos_embedding",
        tensors.path,
    )
    if two:
        module = _two_towers(tensors, prefix, module, heads)
    return module, jax_vit.about_of(shape, stated)


def _two_towers(tensors: Tensors, prefix: str, image: ViT, heads: int) -> TwoTower:
    at = f"{prefix}txt/Encoder_0/encoderblock"
    attend = f"{at}_0/MultiHeadDotProductAttention_0"
    vocab, width = tensors.shape(f"{prefix}txt/Embed_0/embedding")
    text = Text(
        vocab=vocab,
        context=tensors.shape(f"{prefix}txt/pos_embedding")[1],
        width=width,
        depth=lay.depth_of(tensors, f"{at}_*/LayerNorm_0/scale"),
        heads=lay.heads_of(heads, tensors.shape(f"{attend}/query/kernel")[1], width, tensors.path),
        mlp_dim=tensors.shape(f"{at}_0/MlpBlock_0/Dense_0/kernel")[1],
        pool="last",
        pad=1,
        activation=image.activation,
        epsilon=image.epsilon,
        qkv_bias="qkv",
    )

    def out(name: str) -> int:
        head = f"{prefix}{name}/head"
        return lay.classes_of(tensors, f"{head}/kernel", f"{head}/bias", axis=1)

    return TwoTower(image, text, out("img"), out("txt"), logit_bias=f"{prefix}b" in tensors)


def _files(module: Any, about: lay.About) -> dict[str, Any]:
    return jax_vit.about_files(module if isinstance(module, ViT) else module.image, about)


LAYOUT = lay.Layout(
    name="big_vision",
    recognizes=_recognizes,
    describe=_describe,
    table=_table,
    files=_files,
    prefix=_prefix,
    written_prefix=lambda module: "params/",
    resize="bilinear_corners",
    towers=(1, 2),
    requires={
        name: values
        for name, values in hf_siglip.REQUIRES.items()
        if name not in ("image_out", "logit_bias")
    }
    | {"image.pool": ("map", "cls", "gap")},
    tensors_file="weights.npz",
)
