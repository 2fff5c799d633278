"""open_clip's CLIP of two Transformers (laion/CLIP-ViT-*).

The names of its text tower may start with `text.`.
"""

from typing import Any

from active_learning.config import ConfigError
from active_learning.models.text import Text
from active_learning.models.two_tower import TwoTower
from active_learning.models.vit import ViT
from active_learning.models.weights import layout as lay
from active_learning.models.weights.forms import CONV, FLAT, SAME
from active_learning.models.weights.hf_clip import REQUIRES
from active_learning.models.weights.table import Row, linear, norm, packed, prefixed, row
from active_learning.models.weights.tensors import Tensors

_QKV = [f"block_*/attention/{name}" for name in ("query", "key", "value")]
_BLOCK = [
    *norm("block_*/norm_1", "transformer.resblocks.*.ln_1"),
    *packed(
        _QKV,
        "transformer.resblocks.*.attn.in_proj_weight",
        "transformer.resblocks.*.attn.in_proj_bias",
    ),
    *linear("block_*/attention/out", "transformer.resblocks.*.attn.out_proj"),
    *norm("block_*/norm_2", "transformer.resblocks.*.ln_2"),
    *linear("block_*/mlp/up", "transformer.resblocks.*.mlp.c_fc"),
    *linear("block_*/mlp/down", "transformer.resblocks.*.mlp.c_proj"),
]
_IMAGE = [
    *linear("embed", "conv1", CONV),
    *row("cls", "class_embedding", FLAT),
    *row("position", "positional_embedding", SAME),
    *norm("norm_pre", "ln_pre"),
    *_BLOCK,
    *norm("norm", "ln_post"),
]
_TEXT = [
    *row("embed", "token_embedding.weight", SAME),
    *row("position", "positional_embedding", SAME),
    *_BLOCK,
    *norm("norm", "ln_final"),
]


def _table(module: Any, prefix: str) -> list[Row]:
    del module
    return [
        *prefixed(_IMAGE, "image/", "visual."),
        *row("image_head/kernel", "visual.proj", SAME),
        *prefixed(_TEXT, "text/", prefix),
        *row("text_head/kernel", f"{prefix}text_projection", SAME),
        *row("t", "logit_scale", SAME),
    ]


def _prefix(tensors: Tensors) -> str:
    return "text." if "text.positional_embedding" in tensors else ""


def _recognizes(tensors: Tensors) -> bool:
    trunk = [name for name in tensors if name.startswith("visual.trunk.")]
    if trunk:
        raise ConfigError(
            f"{tensors.path}: tensor {trunk[0]}: an image tower of timm within open_clip is not "
            "read; use the same weights in the layout of transformers"
        )
    return "visual.conv1.weight" in tensors and "visual.ln_pre.weight" in tensors


def _fields(tensors: Tensors, prefix: str, config: dict, heads: int) -> dict[str, Any]:
    """Fields of one tower; `heads` is what it has, by key or config."""
    layers = f"{prefix}transformer.resblocks"
    width = tensors.shape(f"{layers}.0.ln_1.weight")[0]
    lay.check_depth(tensors, config.get("layers"), f"{layers}.*.ln_1.weight")
    sizes = {
        "width": (f"{layers}.0.ln_1.weight", 0),
        "patch_size": (f"{prefix}conv1.weight", 2),
        "vocab_size": (f"{prefix}token_embedding.weight", 0),
        "context_length": (f"{prefix}positional_embedding", 0),
    }
    lay.check_said(tensors, config, sizes)
    activation = "quick_gelu" if config.get("quick_gelu") else "gelu"
    if config.get("act_kwargs", {}).get("approximate") == "tanh":
        activation = "gelu_tanh"
    return {
        "width": width,
        "depth": lay.depth_of(tensors, f"{layers}.*.ln_1.weight"),
        "heads": lay.heads_of(0, heads, width, tensors.path),
        "mlp_dim": tensors.shape(f"{layers}.0.mlp.c_fc.weight")[0],
        "activation": activation,
        "epsilon": float(config.get("norm_kwargs", {}).get("eps", 1e-5)),
        "qkv_bias": "qkv",
    }


def _describe(tensors: Tensors, configs: lay.Configs, heads: int) -> tuple[TwoTower, lay.About]:
    config = configs.get("open_clip_config.json", {})
    model, prefix = config.get("model_cfg", {}), _prefix(tensors)
    quick = {"quick_gelu": bool(model.get("quick_gelu"))}
    vision, text = model.get("vision_cfg", {}) | quick, model.get("text_cfg", {}) | quick
    width, channels, patch, _ = tensors.shape("visual.conv1.weight")
    image_heads = width // int(vision.get("head_width", 64)) if model else 0
    image = ViT(
        patch=patch,
        pool="cls",
        prefix_positions=1,
        embed_bias=False,
        pre_norm=True,
        **_fields(tensors, "visual.", vision, heads or image_heads),
    )
    words = Text(
        vocab=tensors.shape(f"{prefix}token_embedding.weight")[0],
        context=tensors.shape(f"{prefix}positional_embedding")[0],
        pool="end",
        causal=not text.get("no_causal_mask", False),
        pad=int(text.get("pad_id", 0)),
        **_fields(tensors, prefix, text, heads or (int(text.get("heads", 8)) if model else 0)),
    )
    out = tensors.shape("visual.proj")[1]
    module = TwoTower(image, words, out, out, head_bias=False, logit_bias=False)
    rows = tensors.shape("visual.positional_embedding")[0]
    shape = lay.image_shape_of(
        vision.get("image_size"),
        rows - 1,
        patch,
        channels,
        "visual.positional_embedding",
        tensors.path,
    )
    stated = config.get("preprocess_cfg", {})
    mean, std = (
        lay.triple(stated.get("mean"), lay.OPENAI[0]),
        lay.triple(stated.get("std"), lay.OPENAI[1]),
    )
    return module, lay.About(shape, mean, std)


def _tower(tower: Any) -> dict[str, Any]:
    """What both towers' configs spell alike."""
    out: dict[str, Any] = {
        "layers": tower.depth,
        "width": tower.width,
        "mlp_ratio": (tower.mlp_dim or 4 * tower.width) / tower.width,
    }
    if tower.activation == "gelu_tanh":
        out["act_kwargs"] = {"approximate": "tanh"}
    if tower.epsilon != 1e-5:
        out["norm_kwargs"] = {"eps": tower.epsilon}
    return out


def _files(module: TwoTower, about: lay.About) -> dict[str, Any]:
    image, text = module.image, module.text
    quick = [tower.activation == "quick_gelu" for tower in (image, text)]
    if quick[0] != quick[1]:
        raise ConfigError("open_clip: quick GELU in one tower only; it has one key for both")
    model = {
        "embed_dim": module.image_out,
        "vision_cfg": {
            **_tower(image),
            "image_size": lay.hf_size(about, "open_clip"),
            "head_width": image.width // image.heads,
            "patch_size": image.patch,
        },
        "text_cfg": {
            **_tower(text),
            "context_length": text.context,
            "vocab_size": text.vocab,
            "heads": text.heads,
        },
        **({"quick_gelu": True} if quick[0] else {}),
    }
    pixels = {"mean": list(about.mean), "std": list(about.std)}
    return {"open_clip_config.json": {"model_cfg": model, "preprocess_cfg": pixels}}


LAYOUT = lay.Layout(
    towers=(2,),
    name="open_clip",
    recognizes=_recognizes,
    describe=_describe,
    table=_table,
    files=_files,
    prefix=_prefix,
    resize="bicubic_antialias",
    requires=REQUIRES | {"text.end": (-1,)},
    tensors_file="open_clip_model.safetensors",
)
