"""Tiny modules of each layout with random parameters, and the publishers' files where they are."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

from active_learning.data.sources.arrays import ENVIRONMENT
from active_learning.models import Text, TwoTower, ViT
from active_learning.models.weights import About
from active_learning.models.weights.table import Assembly, leaves_of

SHAPE = (16, 16, 3)
ABOUT = About(SHAPE, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
SIZE = {"width": 8, "depth": 2, "heads": 2, "mlp_dim": 12, "qkv_bias": "qkv"}
PUBLISHED = (
    "hf_clip",
    "hf_dinov2",
    "hf_dinov2_registers",
    "hf_siglip",
    "hf_vit",
    "jax_vit_npz",
    "open_clip",
    "timm_vit",
    "timm_vit_gap",
    "timm_vit_siglip",
)


def vit(**fields) -> ViT:
    return ViT(**{"patch": 8, "activation": "gelu"} | SIZE | fields)


def clip(**text) -> TwoTower:
    fields = {"activation": "quick_gelu", "epsilon": 1e-5}
    image = vit(pool="cls", prefix_positions=1, embed_bias=False, pre_norm=True, **fields)
    words = Text(pool="end", causal=True, **{"vocab": 20, "context": 5} | SIZE | fields | text)
    return TwoTower(image, words, 6, 6, head_bias=False, logit_bias=False)


def siglip() -> TwoTower:
    words = Text(vocab=20, context=5, pool="last", pad=1, **SIZE)
    return TwoTower(vit(pool="map", activation="gelu_tanh"), words, 0, 8)


CLS = {"pool": "cls", "prefix_positions": 1}
# (layout, format, module): what reading the written file must give again.
CASES = {
    "hf_vit": ("hf", vit(num_classes=3, epsilon=1e-12, **CLS)),
    "hf_vit without head": ("hf", vit(**CLS)),
    "hf_dinov2": ("hf", vit(layer_scale=True, **CLS)),
    "hf_dinov2 gated": ("hf", vit(layer_scale=True, activation="swiglu", **CLS)),
    "hf_dinov2 with head": (
        "hf",
        vit(layer_scale=True, num_classes=3, pool="cls_gap", prefix_positions=1),
    ),
    "hf_dinov2_registers": ("hf", vit(layer_scale=True, registers=4, **CLS)),
    "hf_clip": ("hf", clip(end=19)),
    "hf_siglip": ("hf", siglip()),
    "timm_vit": ("timm", vit(num_classes=3, **CLS)),
    "timm_vit average": ("timm", vit(num_classes=3)),
    "timm_vit fc_norm": (
        "timm",
        vit(num_classes=3, norm="pooled", class_token=True, prefix_positions=1),
    ),
    "timm_vit attention": ("timm", vit(num_classes=3, pool="map")),
    "timm_vit registers": ("timm", vit(pool="cls", registers=4, layer_scale=True)),
    "timm_vit clip": ("timm", vit(embed_bias=False, pre_norm=True, epsilon=1e-5, **CLS)),
    "open_clip": ("open_clip", clip()),
    "jax_vit": ("npz", vit(num_classes=3, pre_logits=5, **CLS)),
    "big_vision": ("npz", siglip()),
    "big_vision map": ("npz", vit(pool="map", num_classes=3)),
    "own": ("own", ViT(num_classes=3, width=8, depth=2, heads=2, patch=8)),
    "own scanned": ("own", ViT(num_classes=3, width=8, depth=2, heads=2, patch=8, scan=True)),
}


def params_of(module, shape=SHAPE, seed: int = 0) -> dict:
    """Random parameters, all of them different from their initial values."""
    rng, assembly = np.random.default_rng(seed), Assembly(module, shape)
    for path, leaf in leaves_of(module, shape).items():
        assembly.fill(path, rng.normal(0, 0.5, leaf).astype(np.float32))
    return assembly.params


def assert_same(ours, theirs) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def published(name: str) -> Path:
    """A publisher's folder; without it the test is skipped, or fails where data are required."""
    root = os.environ.get(ENVIRONMENT, "")
    folder = Path(root).expanduser() / "weights" / name
    if root and folder.is_dir():
        return folder
    reason = f"weights/{name} is not under ${ENVIRONMENT}={root!r}"
    if os.environ.get("ACTIVE_LEARNING_REQUIRE_DATA") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
