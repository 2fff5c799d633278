"""big_vision's SigLIP: the committed list of names, and a forward pass in NumPy."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from active_learning.models import VARIANTS, Text, TwoTower, ViT
from active_learning.models.weights import open_weights
from active_learning.models.weights.big_vision import LAYOUT
from active_learning.models.weights.table import expand, expected_shape, leaves_of

LISTED = json.loads((Path(__file__).parents[3] / "docs" / "siglip_layout.json").read_text())
SHAPE = (16, 16, 3)


def published(variant: str, patch: int, context: int) -> TwoTower:
    size = VARIANTS[variant] | {"qkv_bias": "qkv"}
    text = Text(vocab=32_000, context=context, pool="last", pad=1, **size)
    return TwoTower(ViT(patch=patch, pool="map", **size), text, image_out=0, text_out=size["width"])


def small() -> TwoTower:
    size = {"width": 8, "depth": 2, "heads": 2, "mlp_dim": 12, "qkv_bias": "qkv"}
    text = Text(vocab=20, context=5, pool="last", pad=1, **size)
    return TwoTower(ViT(patch=8, pool="map", **size), text, image_out=0, text_out=8)


def shapes(module, image_shape) -> dict[str, tuple[int, ...]]:
    leaves = leaves_of(module, image_shape)
    rows = expand(LAYOUT.table(module, "params/"), module, leaves)
    return {r.theirs: expected_shape(r, module, leaves) for r in rows}


@pytest.mark.parametrize(
    ("name", "module"),
    [("B/16", published("B", 16, 64)), ("So400m/14", published("So400m", 14, 16))],
)
def test_the_layout_is_the_committed_list(name, module):
    listed = next(result for key, result in LISTED["models"].items() if key.startswith(name))
    expected = {}
    for pattern, shape in listed["arrays"].items():
        blocks = range(listed["depth"]) if "*" in pattern else (0,)
        expected |= {pattern.replace("*", str(k)): tuple(shape) for k in blocks}
    assert shapes(module, (224, 224, 3)) == expected


def write(folder, stacked: bool = False, seed: int = 0) -> dict[str, np.ndarray]:
    """An .npz of random weights, the blocks one by one or stacked as a scan stores them."""
    rng = np.random.default_rng(seed)
    weights = {
        name: rng.normal(0, 0.5, shape).astype(np.float32)
        for name, shape in shapes(small(), SHAPE).items()
    }
    stored = dict(weights)
    if stacked:
        for name in [n for n in weights if "encoderblock_0/" in n]:
            both = [stored.pop(name.replace("block_0/", f"block_{k}/")) for k in (0, 1)]
            stored[name.replace("block_0/", "block/")] = np.stack(both)
    np.savez(folder / "weights.npz", **stored)
    (folder / "about.json").write_text(json.dumps({"image_size": SHAPE[0]}))
    return weights


def norm(x, w, at):
    mean, deviation = x.mean(-1, keepdims=True), np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return (x - mean) / deviation * w[f"{at}/scale"] + w[f"{at}/bias"]


def attend(x, y, w, at):
    """Multi-head attention as its weights say, key bias included."""
    q, k, v = (
        np.einsum("...nd,dhe->...hne", z, w[f"{at}/{n}/kernel"]) + w[f"{at}/{n}/bias"][:, None]
        for n, z in (("query", x), ("key", y), ("value", y))
    )
    logits = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1])
    p = np.exp(logits - logits.max(-1, keepdims=True))
    out = (p / p.sum(-1, keepdims=True)) @ v
    return np.einsum("...hne,hed->...nd", out, w[f"{at}/out/kernel"]) + w[f"{at}/out/bias"]


def mlp(x, w, at):
    x = x @ w[f"{at}/Dense_0/kernel"] + w[f"{at}/Dense_0/bias"]
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x @ w[f"{at}/Dense_1/kernel"] + w[f"{at}/Dense_1/bias"]


def encode(x, w, at, depth):
    for k in range(depth):
        block = f"{at}/encoderblock_{k}"
        y = norm(x, w, f"{block}/LayerNorm_0")
        x = x + attend(y, y, w, f"{block}/MultiHeadDotProductAttention_0")
        x = x + mlp(norm(x, w, f"{block}/LayerNorm_1"), w, f"{block}/MlpBlock_0")
    return norm(x, w, f"{at}/encoder_norm")


def numpy_forward(w, image, tokens):
    """Both towers from the weights by name, in float64."""
    w = {name.removeprefix("params/"): values.astype(np.float64) for name, values in w.items()}
    kernel = w["img/embedding/kernel"]
    side = kernel.shape[0]
    cells = [
        image[:, r : r + side, c : c + side]
        for r in range(0, image.shape[1], side)
        for c in range(0, image.shape[2], side)
    ]
    x = np.stack([np.einsum("bhwc,hwcd->bd", cell, kernel) for cell in cells], axis=1)
    x = encode(x + w["img/embedding/bias"] + w["img/pos_embedding"], w, "img/Transformer", 2)
    probe = np.broadcast_to(w["img/MAPHead_0/probe"], (len(x), 1, x.shape[-1]))
    x = attend(probe, x, w, "img/MAPHead_0/MultiHeadDotProductAttention_0")
    x = (x + mlp(norm(x, w, "img/MAPHead_0/LayerNorm_0"), w, "img/MAPHead_0/MlpBlock_0"))[:, 0]
    t = encode(w["txt/Embed_0/embedding"][tokens] + w["txt/pos_embedding"], w, "txt/Encoder_0", 2)[
        :, -1
    ]
    t = t @ w["txt/head/kernel"] + w["txt/head/bias"]
    return (
        x / np.linalg.norm(x, axis=1, keepdims=True),
        t / np.linalg.norm(t, axis=1, keepdims=True),
        np.exp(w["t"]),
        w["b"],
    )


@pytest.mark.parametrize("stacked", [False, True])
def test_read_weights_give_what_numpy_computes_from_them(tmp_path, stacked):
    rng = np.random.default_rng(1)
    weights = write(tmp_path, stacked)
    image = rng.normal(size=(3, *SHAPE)).astype(np.float32)
    tokens = rng.integers(0, 20, (3, 5)).astype(np.int32)
    read = open_weights(tmp_path)
    assert read.module == small()
    made = jax.jit(read.module.apply)(
        {"params": read.params()}, jnp.asarray(image), jnp.asarray(tokens)
    )
    images, texts, scale, bias = numpy_forward(weights, image, tokens)
    np.testing.assert_allclose(made.image, images, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(made.text, texts, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(made.scale, np.repeat(scale, 3), rtol=1e-5)
    np.testing.assert_allclose(made.bias, np.repeat(bias, 3), rtol=1e-6)
