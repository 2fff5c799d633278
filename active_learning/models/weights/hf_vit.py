"""transformers' ViT and DeiT: ViTForImageClassification, or ViTModel without a classifier."""

from typing import Any

from active_learning.config import ConfigError
from active_learning.models.vit import ViT
from active_learning.models.weights import layout as lay
from active_learning.models.weights.forms import BATCHED, CONV, SAME
from active_learning.models.weights.table import Row, linear, norm, prefixed, row
from active_learning.models.weights.tensors import Tensors

_TABLE = [
    *linear("embed", "embeddings.patch_embeddings.projection", CONV),
    *row("cls", "embeddings.cls_token", SAME),
    *row("position", "embeddings.position_embeddings", BATCHED),
    *norm("block_*/norm_1", "encoder.layer.*.layernorm_before"),
    *linear("block_*/attention/query", "encoder.layer.*.attention.attention.query"),
    *linear("block_*/attention/key", "encoder.layer.*.attention.attention.key"),
    *linear("block_*/attention/value", "encoder.layer.*.attention.attention.value"),
    *linear("block_*/attention/out", "encoder.layer.*.attention.output.dense"),
    *norm("block_*/norm_2", "encoder.layer.*.layernorm_after"),
    *linear("block_*/mlp/up", "encoder.layer.*.intermediate.dense"),
    *linear("block_*/mlp/down", "encoder.layer.*.output.dense"),
    *norm("norm", "layernorm"),
]
_HEAD = linear("head", "classifier")


def _table(module: Any, prefix: str) -> list[Row]:
    return prefixed(_TABLE, theirs=prefix) + _HEAD


def _prefix(tensors: Tensors) -> str:
    return "vit." if lay.has_any(tensors, r"^vit\.") else ""


def _recognizes(tensors: Tensors) -> bool:
    distilled = [n for n in tensors if n.endswith("embeddings.distillation_token")]
    if distilled:
        raise ConfigError(
            f"{tensors.path}: tensor {distilled[0]}: distilled DeiT has two heads and is not "
            "read; use the DeiT without distillation"
        )
    return lay.has_any(tensors, r"^(vit\.)?encoder\.layer\.\d+\.layernorm_before\.")


def _describe(tensors: Tensors, configs: lay.Configs, heads: int) -> tuple[ViT, lay.About]:
    prefix, config = _prefix(tensors), configs.get("config.json", {})
    width, channels, patch, _ = tensors.shape(
        f"{prefix}embeddings.patch_embeddings.projection.weight"
    )
    position = f"{prefix}embeddings.position_embeddings"
    layer = f"{prefix}encoder.layer"
    lay.check_depth(tensors, config.get("num_hidden_layers"), f"{layer}.*.layernorm_before.weight")
    embed = f"{prefix}embeddings.patch_embeddings.projection.weight"
    sizes = {
        "hidden_size": (embed, 0),
        "num_channels": (embed, 1),
        "patch_size": (embed, 2),
        "intermediate_size": (f"{layer}.0.intermediate.dense.weight", 0),
    }
    lay.check_said(tensors, config, sizes)
    stated = config.get("num_attention_heads", 12 if "model_type" in config else None)
    module = ViT(
        num_classes=lay.classes_of(tensors, "classifier.weight", "classifier.bias"),
        width=width,
        depth=lay.depth_of(tensors, f"{layer}.*.layernorm_before.weight"),
        heads=lay.heads_of(heads, stated, width, tensors.path),
        mlp_dim=tensors.shape(f"{layer}.0.intermediate.dense.weight")[0],
        patch=patch,
        pool="cls",
        activation=lay.activation(config.get("hidden_act", "gelu"), tensors.path),
        epsilon=float(config.get("layer_norm_eps", 1e-12)),
        qkv_bias="qkv" if lay.has_any(tensors, r"(query|key|value)\.bias$") else "none",
        prefix_positions=1,
    )
    patches = tensors.shape(position)[1] - 1
    shape = lay.image_shape_of(
        config.get("image_size"), patches, patch, channels, position, tensors.path
    )
    pixels = lay.hf_pixels(configs, lay.SYMMETRIC)
    return module, lay.About(shape, **pixels, class_names=lay.class_names(config))


def _files(module: ViT, about: lay.About) -> dict[str, Any]:
    names = {"gelu_tanh": "gelu_pytorch_tanh"}
    config = {
        "architectures": ["ViTForImageClassification" if module.num_classes else "ViTModel"],
        "model_type": "vit",
        "hidden_size": module.width,
        "num_hidden_layers": module.depth,
        "num_attention_heads": module.heads,
        "intermediate_size": module.mlp_dim or 4 * module.width,
        "hidden_act": names.get(module.activation, module.activation),
        "layer_norm_eps": module.epsilon,
        "image_size": lay.hf_size(about, "hf_vit"),
        "patch_size": module.patch,
        "num_channels": about.image_shape[2],
        "qkv_bias": module.qkv_bias == "qkv",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        **(lay.hf_labels(module, about) if module.num_classes else {}),
    }
    return {"config.json": config, "preprocessor_config.json": lay.hf_preprocessor(about)}


LAYOUT = lay.Layout(
    name="hf_vit",
    recognizes=_recognizes,
    describe=_describe,
    table=_table,
    files=_files,
    prefix=_prefix,
    written_prefix=lambda module: "vit." if module.num_classes else "",
    resize="bicubic",
    requires={
        "pool": ("cls",),
        "norm": ("tokens",),
        "activation": ("gelu", "gelu_tanh", "quick_gelu"),
        "qkv_bias": ("qkv", "none"),
        "prefix_positions": (1,),
        "registers": (0,),
        "layer_scale": (False,),
        "pre_norm": (False,),
        "pre_logits": (0,),
        "embed_bias": (True,),
        "keep": (1.0,),
    },
)
