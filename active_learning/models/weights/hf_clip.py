"""transformers' CLIPModel: class token, LayerNorm before the blocks, causal text tower."""

from typing import Any

from active_learning.models.text import Text
from active_learning.models.two_tower import TwoTower
from active_learning.models.vit import ViT
from active_learning.models.weights import layout as lay
from active_learning.models.weights.forms import CONV, FLAT, SAME
from active_learning.models.weights.table import linear, norm, prefixed, row
from active_learning.models.weights.tensors import Tensors

BLOCK = [
    *norm("block_*/norm_1", "encoder.layers.*.layer_norm1"),
    *linear("block_*/attention/query", "encoder.layers.*.self_attn.q_proj"),
    *linear("block_*/attention/key", "encoder.layers.*.self_attn.k_proj"),
    *linear("block_*/attention/value", "encoder.layers.*.self_attn.v_proj"),
    *linear("block_*/attention/out", "encoder.layers.*.self_attn.out_proj"),
    *norm("block_*/norm_2", "encoder.layers.*.layer_norm2"),
    *linear("block_*/mlp/up", "encoder.layers.*.mlp.fc1"),
    *linear("block_*/mlp/down", "encoder.layers.*.mlp.fc2"),
]
_IMAGE = [
    *linear("embed", "embeddings.patch_embedding", CONV),
    *row("cls", "embeddings.class_embedding", FLAT),
    *row("position", "embeddings.position_embedding.weight", SAME),
    *norm("norm_pre", "pre_layrnorm"),
    *BLOCK,
    *norm("norm", "post_layernorm"),
]
TEXT = [
    *row("embed", "embeddings.token_embedding.weight", SAME),
    *row("position", "embeddings.position_embedding.weight", SAME),
    *BLOCK,
    *norm("norm", "final_layer_norm"),
]
_TABLE = [
    *prefixed(_IMAGE, "image/", "vision_model."),
    *prefixed(TEXT, "text/", "text_model."),
    *linear("image_head", "visual_projection"),
    *linear("text_head", "text_projection"),
    *row("t", "logit_scale", SAME),
]
_EMBED = "vision_model.embeddings.patch_embedding.weight"
_POSITION = "vision_model.embeddings.position_embedding.weight"


def _recognizes(tensors: Tensors) -> bool:
    text = "text_model.embeddings.token_embedding.weight"
    return "vision_model.embeddings.class_embedding" in tensors and text in tensors


def tower_fields(
    tensors: Tensors, prefix: str, config: dict[str, Any], defaults: dict[str, Any], heads: int
) -> dict[str, Any]:
    """Fields that the image and the text tower share, from one tower's tensors and config."""
    layers = f"{prefix}.encoder.layers"
    width = tensors.shape(f"{layers}.0.layer_norm1.weight")[0]
    lay.check_depth(tensors, config.get("num_hidden_layers"), f"{layers}.*.layer_norm1.weight")
    sizes = {
        "hidden_size": (f"{layers}.0.layer_norm1.weight", 0),
        "intermediate_size": (f"{layers}.0.mlp.fc1.weight", 0),
        "patch_size": (f"{prefix}.embeddings.patch_embedding.weight", 2),
        "vocab_size": (f"{prefix}.embeddings.token_embedding.weight", 0),
        "max_position_embeddings": (f"{prefix}.embeddings.position_embedding.weight", 0),
    }
    lay.check_said(tensors, config, sizes)
    stated = config.get("num_attention_heads", defaults["heads"] if config else None)
    return {
        "width": width,
        "depth": lay.depth_of(tensors, f"{layers}.*.layer_norm1.weight"),
        "heads": lay.heads_of(heads, stated, width, tensors.path),
        "mlp_dim": tensors.shape(f"{layers}.0.mlp.fc1.weight")[0],
        "activation": lay.activation(
            config.get("hidden_act", defaults["activation"]), tensors.path
        ),
        "epsilon": float(config.get("layer_norm_eps", defaults["epsilon"])),
        "qkv_bias": "qkv",
    }


def _describe(tensors: Tensors, configs: lay.Configs, heads: int) -> tuple[TwoTower, lay.About]:
    config = configs.get("config.json", {})
    vision, text = config.get("vision_config", {}), config.get("text_config", {})
    defaults = {"heads": 12, "activation": "quick_gelu", "epsilon": 1e-5}
    _, channels, patch, _ = tensors.shape(_EMBED)
    image = ViT(
        patch=patch,
        pool="cls",
        prefix_positions=1,
        embed_bias=False,
        pre_norm=True,
        **tower_fields(tensors, "vision_model", vision, defaults, heads),
    )
    # Configs written before transformers 4.30 say 2, which then meant the largest id of a text.
    end = int(text.get("eos_token_id", 49407))
    words = Text(
        vocab=tensors.shape("text_model.embeddings.token_embedding.weight")[0],
        context=tensors.shape("text_model.embeddings.position_embedding.weight")[0],
        pool="end",
        end=-1 if end == 2 else end,
        pad=int(text.get("pad_token_id", 1)),
        causal=True,
        **tower_fields(tensors, "text_model", text, defaults | {"heads": 8}, heads),
    )
    width = tensors.shape("visual_projection.weight")[0]
    module = TwoTower(image, words, width, width, head_bias=False, logit_bias=False)
    shape = lay.image_shape_of(
        vision.get("image_size"),
        tensors.shape(_POSITION)[0] - 1,
        patch,
        channels,
        _POSITION,
        tensors.path,
    )
    return module, lay.About(shape, **lay.hf_pixels(configs, lay.OPENAI))


def hf_tower(tower: Any, kind: str) -> dict[str, Any]:
    """Config of one tower, as transformers spells it."""
    names = {"gelu_tanh": "gelu_pytorch_tanh"}
    return {
        "model_type": kind,
        "hidden_size": tower.width,
        "num_hidden_layers": tower.depth,
        "num_attention_heads": tower.heads,
        "intermediate_size": tower.mlp_dim or 4 * tower.width,
        "hidden_act": names.get(tower.activation, tower.activation),
        "layer_norm_eps": tower.epsilon,
        "attention_dropout": 0.0,
    }


def _files(module: TwoTower, about: lay.About) -> dict[str, Any]:
    image, text = module.image, module.text
    config = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": module.image_out,
        "text_config": {
            **hf_tower(text, "clip_text_model"),
            "max_position_embeddings": text.context,
            "vocab_size": text.vocab,
            "eos_token_id": 2 if text.end < 0 else text.end,
            "pad_token_id": text.pad,
            "projection_dim": module.text_out,
        },
        "vision_config": {
            **hf_tower(image, "clip_vision_model"),
            "image_size": lay.hf_size(about, "hf_clip"),
            "patch_size": image.patch,
            "num_channels": about.image_shape[2],
            "projection_dim": module.image_out,
        },
    }
    return {"config.json": config, "preprocessor_config.json": lay.hf_preprocessor(about)}


# What CLIP's towers must be, in both libraries that publish them.
REQUIRES = {
    "image.pool": ("cls",),
    "image.norm": ("tokens",),
    "image.prefix_positions": (1,),
    "image.registers": (0,),
    "image.pre_norm": (True,),
    "image.embed_bias": (False,),
    "image.keep": (1.0,),
    "image.qkv_bias": ("qkv",),
    "image.layer_scale": (False,),
    "image.activation": ("gelu", "gelu_tanh", "quick_gelu"),
    "text.activation": ("gelu", "gelu_tanh", "quick_gelu"),
    "text.pool": ("end",),
    "text.causal": (True,),
    "text.qkv_bias": ("qkv",),
    "text.layer_scale": (False,),
    "head_bias": (False,),
    "logit_bias": (False,),
}
LAYOUT = lay.Layout(
    towers=(2,),
    name="hf_clip",
    recognizes=_recognizes,
    describe=_describe,
    table=lambda module, prefix: _TABLE,
    files=_files,
    resize="bicubic",
    requires=REQUIRES,
)
