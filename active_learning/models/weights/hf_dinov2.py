"""transformers' DINOv2, with and without registers: the backbone, or with a linear classifier."""

import dataclasses
from typing import Any

from active_learning.config import ConfigError
from active_learning.models.vit import ViT
from active_learning.models.weights import layout as lay
from active_learning.models.weights.forms import BATCHED, CONV, SAME
from active_learning.models.weights.table import Row, linear, norm, prefixed, row
from active_learning.models.weights.tensors import Shape, Tensors

_TABLE = [
    *linear("embed", "embeddings.patch_embeddings.projection", CONV),
    *row("cls", "embeddings.cls_token", SAME),
    *row("registers", "embeddings.register_tokens", SAME),
    *row("position", "embeddings.position_embeddings", BATCHED),
    *norm("block_*/norm_1", "encoder.layer.*.norm1"),
    *linear("block_*/attention/query", "encoder.layer.*.attention.attention.query"),
    *linear("block_*/attention/key", "encoder.layer.*.attention.attention.key"),
    *linear("block_*/attention/value", "encoder.layer.*.attention.attention.value"),
    *linear("block_*/attention/out", "encoder.layer.*.attention.output.dense"),
    *row("block_*/scale_1", "encoder.layer.*.layer_scale1.lambda1", SAME),
    *norm("block_*/norm_2", "encoder.layer.*.norm2"),
    *row("block_*/scale_2", "encoder.layer.*.layer_scale2.lambda1", SAME),
    *norm("norm", "layernorm"),
]
_MLP = {
    False: linear("block_*/mlp/up", "encoder.layer.*.mlp.fc1")
    + linear("block_*/mlp/down", "encoder.layer.*.mlp.fc2"),
    True: linear("block_*/mlp/up", "encoder.layer.*.mlp.weights_in")
    + linear("block_*/mlp/down", "encoder.layer.*.mlp.weights_out"),
}
_HEAD = linear("head", "classifier")
_KINDS = ("dinov2_with_registers", "dinov2")


def _table(module: Any, prefix: str) -> list[Row]:
    return prefixed(_TABLE + _MLP[module.activation == "swiglu"], theirs=prefix) + _HEAD


def _prefix(tensors: Tensors) -> str:
    prefixes = [f"{kind}." for kind in _KINDS if lay.has_any(tensors, rf"^{kind}\.")]
    return prefixes[0] if prefixes else ""


def _kind(module: ViT) -> str:
    return _KINDS[0] if module.registers else _KINDS[1]


def _recognizes(tensors: Tensors) -> bool:
    return lay.has_any(tensors, r"encoder\.layer\.\d+\.layer_scale[12]\.lambda1$")


def _describe(tensors: Tensors, configs: lay.Configs, heads: int) -> tuple[ViT, lay.About]:
    prefix, config = _prefix(tensors), configs.get("config.json", {})
    width, channels, patch, _ = tensors.shape(
        f"{prefix}embeddings.patch_embeddings.projection.weight"
    )
    position, layer = f"{prefix}embeddings.position_embeddings", f"{prefix}encoder.layer"
    gated = lay.has_any(tensors, r"\.mlp\.weights_(in|out)\.")
    registers = f"{prefix}embeddings.register_tokens"
    classes = lay.classes_of(tensors, "classifier.weight", "classifier.bias")
    lay.check_depth(tensors, config.get("num_hidden_layers"), f"{layer}.*.norm1.weight")
    embed = f"{prefix}embeddings.patch_embeddings.projection.weight"
    sizes = {
        "hidden_size": (embed, 0),
        "num_channels": (embed, 1),
        "patch_size": (embed, 2),
        "num_register_tokens": (registers, 1),
    }
    lay.check_said(tensors, config, sizes)
    if config.get("num_register_tokens") and registers not in tensors:
        raise ConfigError(
            f"{tensors.path}: {registers} is missing, expected "
            f"{(1, config['num_register_tokens'], width)}"
        )
    stated = config.get("num_attention_heads", 12 if "model_type" in config else None)
    down = "weights_out" if gated else "fc2"
    module = ViT(
        num_classes=classes,
        width=width,
        depth=lay.depth_of(tensors, f"{layer}.*.norm1.weight"),
        heads=lay.heads_of(heads, stated, width, tensors.path),
        mlp_dim=tensors.shape(f"{layer}.0.mlp.{down}.weight")[1],
        patch=patch,
        pool="cls_gap" if classes else "cls",
        activation="swiglu"
        if gated
        else lay.activation(config.get("hidden_act", "gelu"), tensors.path),
        epsilon=float(config.get("layer_norm_eps", 1e-6)),
        qkv_bias="qkv" if lay.has_any(tensors, r"(query|key|value)\.bias$") else "none",
        layer_scale=True,
        registers=tensors.shape(registers)[1] if registers in tensors else 0,
        prefix_positions=1,
    )
    patches = tensors.shape(position)[1] - 1
    shape = lay.image_shape_of(
        config.get("image_size"), patches, patch, channels, position, tensors.path
    )
    pixels = lay.hf_pixels(configs, lay.IMAGENET)
    return module, lay.About(shape, **pixels, class_names=lay.class_names(config))


def _files(module: ViT, about: lay.About) -> dict[str, Any]:
    names = {"gelu_tanh": "gelu_pytorch_tanh", "swiglu": "gelu"}
    library = "Dinov2WithRegisters" if module.registers else "Dinov2"
    mlp_dim = module.mlp_dim or 4 * module.width
    # transformers shrinks the MLP by a third where it is gated, to a multiple of 8.
    ratio = 4 if module.activation == "swiglu" else mlp_dim / module.width
    suffix = "ForImageClassification" if module.num_classes else "Model"
    config = {
        "architectures": [f"{library}{suffix}"],
        "model_type": _kind(module),
        "hidden_size": module.width,
        "num_hidden_layers": module.depth,
        "num_attention_heads": module.heads,
        "mlp_ratio": int(ratio) if ratio == int(ratio) else ratio,
        "use_swiglu_ffn": module.activation == "swiglu",
        "hidden_act": names.get(module.activation, module.activation),
        "layer_norm_eps": module.epsilon,
        "image_size": lay.hf_size(about, "hf_dinov2"),
        "patch_size": module.patch,
        "num_channels": about.image_shape[2],
        "qkv_bias": module.qkv_bias == "qkv",
        "layerscale_value": 1.0,
        "use_mask_token": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
        **({"num_register_tokens": module.registers} if module.registers else {}),
        **(lay.hf_labels(module, about) if module.num_classes else {}),
    }
    return {"config.json": config, "preprocessor_config.json": lay.hf_preprocessor(about)}


def _written_prefix(module: ViT) -> str:
    return f"{_kind(module)}." if module.num_classes else ""


def _constants(module: ViT) -> dict[str, Shape]:
    return {f"{_written_prefix(module)}embeddings.mask_token": (1, module.width)}


_REQUIRES = {
    "pool": ("cls", "cls_gap"),
    "norm": ("tokens",),
    "qkv_bias": ("qkv", "none"),
    "prefix_positions": (1,),
    "layer_scale": (True,),
    "pre_norm": (False,),
    "pre_logits": (0,),
    "embed_bias": (True,),
    "keep": (1.0,),
}


def _has_registers(tensors: Tensors) -> bool:
    return f"{_prefix(tensors)}embeddings.register_tokens" in tensors


LAYOUT = lay.Layout(
    name="hf_dinov2",
    recognizes=_recognizes,
    describe=_describe,
    table=_table,
    files=_files,
    prefix=_prefix,
    written_prefix=_written_prefix,
    constants=_constants,
    resize="bicubic",
    requires=_REQUIRES | {"registers": (0,)},
)
REGISTERS = dataclasses.replace(
    LAYOUT,
    name="hf_dinov2_registers",
    recognizes=lambda tensors: _recognizes(tensors) and _has_registers(tensors),
    resize="bicubic_antialias",
    requires=_REQUIRES,
)
