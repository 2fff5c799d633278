"""Compares a model read from published weights with outputs that its publisher's library gave."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from active_learning.config import ConfigError
from active_learning.models.two_tower import TwoTower
from active_learning.models.weights.adapt import adapt
from active_learning.models.weights.files import Weights

# Largest difference that float32 arithmetic in another order explains; with resized positions.
TOLERANCE = 2e-5
RESIZED_TOLERANCE = 1e-3
INPUTS = ("image", "image_large", "tokens")


@dataclass(frozen=True)
class Difference:
    """The largest difference of one output; nan where shapes differ or values are not finite."""

    output: str
    largest: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether the difference is within its tolerance."""
        return self.largest <= self.tolerance


def outputs(weights: Weights, arrays: dict[str, np.ndarray], image: str) -> dict[str, np.ndarray]:
    """All outputs of the model on inputs of an .npz file, by the names that such a file uses.

    Args:
      weights: An opened weights file.
      arrays: Has the images under the name `image`, already normalized, and perhaps `tokens`.
      image: "image", or "image_large" for images of another resolution.

    Returns:
      Of a classifier or backbone: tokens_out, class_token, pooled, logits. Of two towers:
      image_embedding, text_embedding, logits_per_image, logits_per_text.
    """
    images = jnp.asarray(arrays[image], jnp.float32)
    module = weights.module
    _, height, width, channels = images.shape
    params = adapt(weights, module, (height, width, channels)).params(jax.random.key(0))
    # Accelerators round products to fewer bits unless they are told not to.
    with jax.default_matmul_precision("highest"):
        if isinstance(module, TwoTower):
            return _pair_outputs(module, params, images, arrays)
        run = jax.jit(partial(module.apply, mutable=["intermediates"]))
        out, kept = run({"params": params}, images)
    tokens = kept["intermediates"]["tokens"][0]
    ours = {"tokens_out": tokens, "pooled": out["features"]}
    if module.has_class_token:
        ours["class_token"] = tokens[:, 0]
    if module.num_classes:
        ours["logits"] = out["logits"]
    return {name: np.asarray(values) for name, values in ours.items()}


def _pair_outputs(
    module: TwoTower, params: Any, images: Array, arrays: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    if "tokens" not in arrays:
        raise ConfigError("--check: a model of two towers needs the input 'tokens'")
    tokens = jnp.asarray(arrays["tokens"], jnp.int32)
    made = jax.jit(module.apply)({"params": params}, images, tokens)
    logits = np.asarray(made.scale[0] * made.image @ made.text.T + made.bias[0])
    return {
        "image_embedding": np.asarray(made.image),
        "text_embedding": np.asarray(made.text),
        "logits_per_image": logits,
        "logits_per_text": logits.T,
    }


def compare(weights: Weights, path: Path) -> Iterator[Difference]:
    """The largest difference of each output in an .npz file of inputs and outputs.

    Raises:
      ConfigError: The file cannot be read, lacks an input, or has no output that the model gives.
    """
    arrays = _read(path)
    expected = [name for name in arrays if name not in INPUTS]
    large = [name for name in expected if name.endswith("_large")]
    ours: dict[str, np.ndarray] = {}
    if len(expected) > len(large):
        ours |= outputs(weights, arrays, "image")
    if large and "image_large" in arrays:
        resized = outputs(weights, arrays, "image_large")
        ours |= {f"{name}_large": values for name, values in resized.items()}
    compared = [name for name in expected if name in ours]
    if not compared:
        raise ConfigError(
            f"--check={path}: none of its outputs ({', '.join(expected) or 'none'}) is one of the "
            f"model's ({', '.join(ours) or 'none'})"
        )
    for name in compared:
        tolerance = RESIZED_TOLERANCE if name in large else TOLERANCE
        yield Difference(name, _largest(ours[name], arrays[name]), tolerance)


def _largest(ours: np.ndarray, theirs: np.ndarray) -> float:
    if ours.shape != theirs.shape:
        return float("nan")
    return float(np.max(np.abs(ours - theirs.astype(np.float64)), initial=0.0))


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"--check={path}: no readable .npz ({error})") from error
    if "image" not in arrays or arrays["image"].ndim != 4:
        raise ConfigError(f"--check={path}: needs 'image' of shape (n, height, width, channels)")
    return arrays


def sizes(weights: Weights) -> Iterator[str]:
    """What a weights file says of its model, one line each."""
    module, about = weights.module, weights.about
    yield f"layout {weights.layout.name}: {weights.tensors.path}"
    height, width, channels = about.image_shape
    yield f"images {height} x {width} x {channels}, mean {about.mean}, std {about.std}"
    towers = {"image": module}
    if isinstance(module, TwoTower):
        towers = {"image": module.image, "text": module.text}
        yield f"projections {module.image_out or 'none'} and {module.text_out or 'none'}"
    for name, tower in towers.items():
        fields = {
            f.name: getattr(tower, f.name)
            for f in dataclasses.fields(tower)
            if f.name not in ("parent", "name", "scan", "remat", "dtype", "keep", "attention")
        }
        yield f"{name}: " + ", ".join(f"{key} {value}" for key, value in fields.items())
    if about.class_names:
        yield f"classes: {', '.join(about.class_names[:10])}" + (
            ", ..." if len(about.class_names) > 10 else ""
        )
    count = sum(int(np.prod(shape)) for shape in weights.leaves.values())
    kinds = sorted({weights.tensors.dtype(r.theirs) for r in weights.rows})
    yield f"{count:,} parameters, stored as {', '.join(kinds)}"
