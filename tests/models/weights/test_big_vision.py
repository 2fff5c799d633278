"""Published weights: the committed list of names, a forward pass in NumPy from them, round trips,
and what does not fit.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from active_learning.config import ConfigError
from active_learning.models import VARIANTS, Text, TwoTower, ViT
from active_learning.models.weights import siglip

LAYOUT = json.loads((Path(__file__).parents[3] / "docs" / "siglip_layout.json").read_text())[
    "models"
]
SHAPE = (16, 16, 3)


def published(variant: str, patch: int, context: int) -> TwoTower:
    size = VARIANTS[variant]
    text = Text(vocab=32_000, context=context, pool="last", pad=1, **size)
    return TwoTower(ViT(patch=patch, pool="map", **size), text, image_out=0, text_out=size["width"])


def small(**image) -> TwoTower:
    size = {"width": 8, "depth": 2, "heads": 2, "mlp_dim": 12}
    text = Text(vocab=20, context=5, pool="last", pad=1, scan=bool(image.get("scan")), **size)
    return TwoTower(ViT(patch=8, pool="map", **size, **image), text, image_out=0, text_out=8)


def weights_like(module, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(0, 0.5, shape).astype(np.float32)
        for name, shape in siglip.layout(module, SHAPE).items()
    }


@pytest.mark.parametrize(
    ("name", "module"),
    [("B/16", published("B", 16, 64)), ("So400m/14", published("So400m", 14, 16))],
)
def test_the_layout_is_the_committed_list(name, module):
    listed = next(found for key, found in LAYOUT.items() if key.startswith(name))
    expected = {}
    for pattern, shape in listed["arrays"].items():
        blocks = range(listed["depth"]) if "*" in pattern else (0,)
        expected |= {pattern.replace("*", str(k)): tuple(shape) for k in blocks}
    assert siglip.layout(module, (224, 224, 3)) == expected


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


@pytest.mark.parametrize("scan", [False, True])
def test_loaded_weights_give_what_numpy_computes_from_them(scan):
    module, rng = small(scan=scan), np.random.default_rng(1)
    weights = weights_like(module)
    image, tokens = (
        rng.normal(size=(3, *SHAPE)).astype(np.float32),
        rng.integers(0, 20, (3, 5)).astype(np.int32),
    )
    params = siglip.from_weights(weights, module, SHAPE)
    said = jax.jit(module.apply)({"params": params}, jnp.asarray(image), jnp.asarray(tokens))
    images, texts, scale, bias = numpy_forward(weights, image, tokens)
    np.testing.assert_allclose(said.image, images, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(said.text, texts, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(said.scale, np.repeat(scale, 3), rtol=1e-5)
    np.testing.assert_allclose(said.bias, np.repeat(bias, 3), rtol=1e-6)


def test_a_round_trip_keeps_every_number_but_the_key_biases(tmp_path):
    weights = weights_like(small())
    siglip.save(tmp_path / "w.npz", weights)
    params = siglip.load(tmp_path / "w.npz", small(), SHAPE, "config.reference.path")
    again = siglip.to_weights(params, small())
    assert again.keys() == weights.keys()
    for name, values in again.items():
        np.testing.assert_array_equal(values, 0 if name.endswith("key/bias") else weights[name])


def test_weights_that_do_not_fit_are_named(tmp_path):
    weights = weights_like(small())
    del weights["params/t"]
    weights["params/img/extra"] = np.zeros(2)
    weights["params/txt/Embed_0/embedding"] = np.zeros((21, 8))
    with pytest.raises(
        ConfigError,
        match=r"3 weights do not fit.*img/extra is \(2,\), expected nothing; "
        r"params/t is missing, expected \(1,\)",
    ):
        siglip.from_weights(weights, small(), SHAPE)
    (tmp_path / "w.npz").write_bytes(b"no")
    with pytest.raises(ConfigError, match=r"config.reference.path=.*no readable .npz"):
        siglip.load(tmp_path / "w.npz", small(), SHAPE, "config.reference.path")
    with pytest.raises(ConfigError, match=r"expected NAME.npz or NAME.safetensors"):
        siglip.save(tmp_path / "w.bin", {})


def test_safetensors_hold_the_same_names_and_numbers(tmp_path):
    weights = weights_like(small())
    weights["params/img/turned"] = np.arange(6, dtype=np.float32).reshape(2, 3).T
    siglip.save(tmp_path / "w.safetensors", weights)
    found = load_file(tmp_path / "w.safetensors")
    assert found.keys() == weights.keys()
    for name, values in weights.items():
        np.testing.assert_array_equal(found[name], values)
