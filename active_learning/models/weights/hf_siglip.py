"""transformers' SiglipModel, also of SigLIP 2 at a fixed resolution: attention pooling."""

from typing import Any

from active_learning.config import ConfigError
from active_learning.models.text import Text
from active_learning.models.two_tower import TwoTower
from active_learning.models.vit import ViT
from active_learning.models.weights import layout as lay
from active_learning.models.weights.forms import BATCHED, CONV, SAME
from active_learning.models.weights.hf_clip import BLOCK, TEXT, hf_tower, tower_fields
from active_learning.models.weights.table import Row, linear, norm, packed, prefixed, row
from active_learning.models.weights.tensors import Tensors

_POOL = [f"pool_attention/{name}" for name in ("query", "key", "value")]
_IMAGE = [
    *linear("embed", "embeddings.patch_embedding", CONV),
    *row("position", "embeddings.position_embedding.weight", SAME),
    *BLOCK,
    *norm("norm", "post_layernorm"),
    *row("probe", "head.probe", SAME),
    *packed(_POOL, "head.attention.in_proj_weight", "head.attention.in_proj_bias"),
    *linear("pool_attention/out", "head.attention.out_proj"),
    *norm("pool_norm", "head.layernorm"),
    *linear("pool_mlp/up", "head.mlp.fc1"),
    *linear("pool_mlp/down", "head.mlp.fc2"),
]
_TABLE = [
    *prefixed(_IMAGE, "image/", "vision_model."),
    *prefixed(TEXT, "text/", "text_model."),
    *linear("text_head", "text_model.head"),
    *row("t", "logit_scale", BATCHED),
    *row("b", "logit_bias", BATCHED),
]
_EMBED = "vision_model.embeddings.patch_embedding.weight"
_POSITION = "vision_model.embeddings.position_embedding.weight"


def _recognizes(tensors: Tensors) -> bool:
    signs = ("logit_bias", "vision_model.head.probe")
    if _EMBED not in tensors or not any(name in tensors for name in signs):
        return False
    if len(tensors.shape(_EMBED)) != 4:
        raise ConfigError(
            f"{tensors.path}: tensor {_EMBED} is {tensors.shape(_EMBED)}, expected four axes: "
            "SigLIP 2 of flexible resolution (NaFlex) is not read"
        )
    return True


def _describe(tensors: Tensors, configs: lay.Configs, heads: int) -> tuple[TwoTower, lay.About]:
    config = configs.get("config.json", {})
    vision, text = config.get("vision_config", {}), config.get("text_config", {})
    defaults = {"heads": 12, "activation": "gelu_pytorch_tanh", "epsilon": 1e-6}
    _, channels, patch, _ = tensors.shape(_EMBED)
    image = ViT(
        patch=patch,
        pool="map",
        **tower_fields(tensors, "vision_model", vision, defaults, heads),
    )
    words = Text(
        vocab=tensors.shape("text_model.embeddings.token_embedding.weight")[0],
        context=tensors.shape("text_model.embeddings.position_embedding.weight")[0],
        pool="last",
        pad=int(text.get("pad_token_id", 1)),
        **tower_fields(tensors, "text_model", text, defaults, heads),
    )
    module = TwoTower(image, words, 0, tensors.shape("text_model.head.weight")[0])
    shape = lay.image_shape_of(
        vision.get("image_size"),
        tensors.shape(_POSITION)[0],
        patch,
        channels,
        _POSITION,
        tensors.path,
    )
    return module, lay.About(shape, **lay.hf_pixels(configs, lay.SYMMETRIC))


def _files(module: TwoTower, about: lay.About) -> dict[str, Any]:
    image, text = module.image, module.text
    config = {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "text_config": {
            **hf_tower(text, "siglip_text_model"),
            "max_position_embeddings": text.context,
            "vocab_size": text.vocab,
            "pad_token_id": text.pad,
            "projection_size": module.text_out,
        },
        "vision_config": {
            **hf_tower(image, "siglip_vision_model"),
            "image_size": lay.hf_size(about, "hf_siglip"),
            "patch_size": image.patch,
            "num_channels": about.image_shape[2],
            "vision_use_head": True,
        },
    }
    return {"config.json": config, "preprocessor_config.json": lay.hf_preprocessor(about)}


# What SigLIP's towers must be, in both layouts of them.
REQUIRES = {
    "image.pool": ("map",),
    "image.norm": ("tokens",),
    "image.class_token": (False,),
    "image.registers": (0,),
    "image.pre_norm": (False,),
    "image.embed_bias": (True,),
    "image.keep": (1.0,),
    "image.qkv_bias": ("qkv",),
    "image.layer_scale": (False,),
    "image.activation": ("gelu_tanh", "gelu", "quick_gelu"),
    "text.activation": ("gelu_tanh", "gelu", "quick_gelu"),
    "text.pool": ("last",),
    "text.causal": (False,),
    "text.qkv_bias": ("qkv",),
    "text.layer_scale": (False,),
    "image_out": (0,),
    "head_bias": (True,),
    "logit_bias": (True,),
}


def _table(module: Any, prefix: str) -> list[Row]:
    del module, prefix
    return _TABLE


LAYOUT = lay.Layout(
    towers=(2,),
    name="hf_siglip",
    recognizes=_recognizes,
    describe=_describe,
    table=_table,
    files=_files,
    resize="bicubic",
    requires=REQUIRES,
)
