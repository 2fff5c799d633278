"""timm's VisionTransformer (vit_*, deit3_*): class token, average or attention pooling."""

import math
import re
from typing import Any

from active_learning.config import ConfigError
from active_learning.models.vit import ViT
from active_learning.models.weights import layout as lay
from active_learning.models.weights.forms import BATCHED, CONV, SAME
from active_learning.models.weights.table import Row, linear, norm, packed, row
from active_learning.models.weights.tensors import Tensors

_QKV = [f"block_*/attention/{name}" for name in ("query", "key", "value")]
_KV = ["pool_attention/key", "pool_attention/value"]
_TABLE = [
    *linear("embed", "patch_embed.proj", CONV),
    *row("cls", "cls_token", SAME),
    *row("registers", "reg_token", SAME),
    *row("position", "pos_embed", BATCHED),
    *norm("norm_pre", "norm_pre"),
    *norm("block_*/norm_1", "blocks.*.norm1"),
    *packed(_QKV, "blocks.*.attn.qkv.weight", "blocks.*.attn.qkv.bias"),
    *linear("block_*/attention/out", "blocks.*.attn.proj"),
    *row("block_*/scale_1", "blocks.*.ls1.gamma", SAME),
    *norm("block_*/norm_2", "blocks.*.norm2"),
    *linear("block_*/mlp/up", "blocks.*.mlp.fc1"),
    *linear("block_*/mlp/down", "blocks.*.mlp.fc2"),
    *row("block_*/scale_2", "blocks.*.ls2.gamma", SAME),
    *row("probe", "attn_pool.latent", SAME),
    *linear("pool_attention/query", "attn_pool.q"),
    *packed(_KV, "attn_pool.kv.weight", "attn_pool.kv.bias"),
    *linear("pool_attention/out", "attn_pool.proj"),
    *norm("pool_norm", "attn_pool.norm"),
    *linear("pool_mlp/up", "attn_pool.mlp.fc1"),
    *linear("pool_mlp/down", "attn_pool.mlp.fc2"),
    *linear("head", "head"),
]
# Tensors of variants that our ViT does not compute.
_FOREIGN = re.compile(r"(dist_token|\.q_norm\.|\.k_norm\.|\.mlp\.norm\.|fc1_g|rel_pos|\.inner\.)")
# Standard models whose heads are not 64 wide: width -> heads.
_HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}


def _table(module: Any, prefix: str) -> list[Row]:
    del prefix
    return _TABLE + norm("norm", "fc_norm" if module.norm == "pooled" else "norm")


def _recognizes(tensors: Tensors) -> bool:
    if not lay.has_any(tensors, r"^blocks\.\d+\.attn\.qkv\."):
        return False
    foreign = [name for name in tensors if _FOREIGN.search(name)]
    if foreign:
        raise ConfigError(
            f"{tensors.path}: tensor {foreign[0]} belongs to a variant of timm's ViT that is not "
            "read"
        )
    return True


def _heads(config: dict[str, Any], width: int) -> int | None:
    """Heads of the config, or of timm's standard models where it only names the architecture."""
    stated = config.get("model_args", {}).get("num_heads")
    if stated or "architecture" not in config:
        return stated
    return _HEADS.get(width, width // 64 if width % 64 == 0 else None)


def _epsilon(config: dict[str, Any]) -> float:
    clip = re.search(r"_clip_|_openai", str(config.get("architecture", "")))
    return float(config.get("norm_epsilon", 1e-5 if clip else 1e-6))


def _activation(config: dict[str, Any], path: Any) -> str:
    architecture = str(config.get("architecture", ""))
    default = "quick_gelu" if "quickgelu" in architecture else "gelu"
    if "so400m" in architecture or "siglip2" in architecture:
        default = "gelu_tanh"
    return lay.activation(config.get("model_args", {}).get("act_layer", default), path)


def _prefix_tokens(tensors: Tensors, config: dict[str, Any], patch: int) -> tuple[int, int]:
    """(tokens before the patches, how many of them have a position)."""
    prefix = int("cls_token" in tensors)
    prefix += tensors.shape("reg_token")[1] if "reg_token" in tensors else 0
    rows, args = tensors.shape("pos_embed")[1], config.get("model_args", {})
    size = args.get("img_size") or config.get("pretrained_cfg", {}).get("input_size", [None])[-1]
    for positions in (prefix, 0):
        patches = rows - positions
        if size is None and math.isqrt(max(patches, 0)) ** 2 == patches:
            return prefix, positions
        height, width = (size, size) if isinstance(size, int) else (size or (0, 0))[:2]
        if size is not None and patches == (height // patch) * (width // patch):
            return prefix, positions
    return prefix, 0 if args.get("no_embed_class") else prefix


def _describe(tensors: Tensors, configs: lay.Configs, heads: int) -> tuple[ViT, lay.About]:
    config = configs.get("config.json", {})
    args, pretrained = config.get("model_args", {}), config.get("pretrained_cfg", {})
    width, channels, patch, _ = tensors.shape("patch_embed.proj.weight")
    _, positions = _prefix_tokens(tensors, config, patch)
    lay.check_depth(tensors, args.get("depth"), "blocks.*.norm1.weight")
    embed = "patch_embed.proj.weight"
    sizes = {"embed_dim": (embed, 0), "in_chans": (embed, 1), "patch_size": (embed, 2)}
    lay.check_said(tensors, args, sizes)
    mlp_dim = tensors.shape("blocks.0.mlp.fc2.weight")[1]
    gated = tensors.shape("blocks.0.mlp.fc1.weight")[0] == 2 * mlp_dim
    class_token = "cls_token" in tensors
    said_pool = config.get("global_pool", args.get("global_pool"))
    for name, count in (
        ("cls_token", int(args.get("class_token", said_pool == "token"))),
        ("reg_token", int(args.get("reg_tokens", 0))),
    ):
        if count and name not in tensors:
            raise ConfigError(f"{tensors.path}: {name} is missing, expected {(1, count, width)}")
    pool = "map" if lay.has_any(tensors, r"^attn_pool\.") else "cls" if class_token else "gap"
    if said_pool == "avg" or lay.has_any(tensors, r"^fc_norm\."):
        pool = "gap"
    module = ViT(
        num_classes=lay.classes_of(tensors, "head.weight", "head.bias"),
        width=width,
        depth=lay.depth_of(tensors, "blocks.*.norm1.weight"),
        heads=lay.heads_of(heads, _heads(config, width), width, tensors.path),
        mlp_dim=mlp_dim,
        patch=patch,
        pool=pool,
        activation="swiglu" if gated else _activation(config, tensors.path),
        epsilon=_epsilon(config),
        qkv_bias="qkv" if lay.has_any(tensors, r"attn\.qkv\.bias$") else "none",
        layer_scale=lay.has_any(tensors, r"\.ls[12]\.gamma$"),
        class_token=class_token and pool != "cls",
        registers=tensors.shape("reg_token")[1] if "reg_token" in tensors else 0,
        prefix_positions=positions,
        embed_bias=not lay.has_any(tensors, r"^norm_pre\."),
        pre_norm=lay.has_any(tensors, r"^norm_pre\."),
        norm="pooled" if lay.has_any(tensors, r"^fc_norm\.") else "tokens",
    )
    patches = tensors.shape("pos_embed")[1] - positions
    size = args.get("img_size") or (pretrained.get("input_size") or [None])[1:] or None
    shape = lay.image_shape_of(size, patches, patch, channels, "pos_embed", tensors.path)
    names = tuple(str(name) for name in config.get("label_names", ()))
    mean, std = pretrained.get("mean"), pretrained.get("std")
    pixels = lay.triple(mean, lay.SYMMETRIC[0]), lay.triple(std, lay.SYMMETRIC[1])
    return module, lay.About(shape, *pixels, names)


def mlp_ratio(module: Any) -> float:
    """The ratio from which int(width * ratio) is the width of the MLP again."""
    mlp_dim = module.mlp_dim or 4 * module.width
    ratio = mlp_dim / module.width
    while int(module.width * ratio) < mlp_dim:
        ratio = math.nextafter(ratio, math.inf)
    return ratio


def _files(module: ViT, about: lay.About) -> dict[str, Any]:
    if module.embed_bias == module.pre_norm:
        raise ConfigError("timm: the patch embedding has a bias exactly where pre_norm is False")
    height, width, channels = about.image_shape
    pools = {"cls": "token", "gap": "avg", "map": "map"}
    # The standard model that creates the LayerNorms with this epsilon.
    base = "vit_base_patch16_clip_224" if module.epsilon == 1e-5 else "vit_base_patch16_224"
    args = {
        "img_size": [height, width] if height != width else height,
        "patch_size": module.patch,
        "in_chans": channels,
        "embed_dim": module.width,
        "depth": module.depth,
        "num_heads": module.heads,
        "mlp_ratio": mlp_ratio(module),
        "num_classes": module.num_classes,
        "global_pool": pools[module.pool],
        "class_token": module.has_class_token,
        "reg_tokens": module.registers,
        "no_embed_class": module.prefix_positions == 0,
        "pre_norm": module.pre_norm,
        "fc_norm": module.norm == "pooled",
        "qkv_bias": module.qkv_bias == "qkv",
        "act_layer": module.activation,
        **({"init_values": 1e-5} if module.layer_scale else {}),
    }
    config = {
        "architecture": base,
        "num_classes": module.num_classes,
        "num_features": module.width,
        "global_pool": pools[module.pool],
        "norm_epsilon": module.epsilon,
        "model_args": args,
        "pretrained_cfg": {
            "input_size": [channels, height, width],
            "mean": list(about.mean),
            "std": list(about.std),
            "num_classes": module.num_classes,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
        **({"label_names": list(about.class_names)} if about.class_names else {}),
    }
    return {"config.json": config}


LAYOUT = lay.Layout(
    name="timm_vit",
    recognizes=_recognizes,
    describe=_describe,
    table=_table,
    files=_files,
    resize="bicubic_antialias",
    requires={
        "pool": ("cls", "gap", "map"),
        "activation": ("gelu", "gelu_tanh", "quick_gelu"),
        "qkv_bias": ("qkv", "none"),
        "pre_logits": (0,),
        "keep": (1.0,),
    },
)
