"""The uniform step of a ViT-Ti/16 beside that of a big_vision checkout: same images, same
optimizer, float32, in one process.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from active_learning.core import losses, optim
from active_learning.models import VARIANTS, ViT

BATCH, SIZE, CLASSES = 16, 224, 1000


def step_of(module, apply: Callable, optimizer: optax.GradientTransformation) -> Callable[[], Any]:
    """A compiled training step of a Flax module on drawn images; each call runs it once."""
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=(BATCH, SIZE, SIZE, 3)), jnp.float32)
    label = jnp.asarray(rng.integers(0, CLASSES, BATCH), jnp.int32)
    params = jax.jit(module.init)(jax.random.key(0), image)["params"]

    def step(params, state):
        loss = lambda p: jnp.mean(losses.softmax_xent(apply(p, image), label))
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    held = [params, optimizer.init(params)]
    run = jax.jit(step, donate_argnums=(0, 1)).lower(*held).compile()

    def call():
        *held[:], value = run(*held)
        return value

    return call


def steps(checkout: Path | None) -> tuple[dict[str, Callable[[], Any]], str]:
    """{"ours", "theirs"} to be timed in turns, or nothing and the reason why not."""
    if checkout is None:
        return {}, "no checkout given (--against=DIR of github.com/google-research/big_vision)"
    if not (checkout / "big_vision" / "models" / "vit.py").is_file():
        return {}, f"{checkout}: no big_vision/models/vit.py there"
    sys.path.insert(0, str(checkout))
    try:
        theirs = importlib.import_module("big_vision.models.vit").Model(
            CLASSES, variant="Ti/16", pool_type="gap"
        )
    except ImportError as error:
        return {}, f"{checkout}: cannot be imported here ({error})"
    finally:
        sys.path.remove(str(checkout))
    ours = ViT(num_classes=CLASSES, patch=16, **VARIANTS["Ti"])
    adam = lambda: optim.adamw(1e-3, 10, 1000, 1e-4, 0.999, 1.0)
    return {
        "ours": step_of(
            ours, lambda p, x: ours.apply({"params": p}, x, train=True)["logits"], adam()
        ),
        "theirs": step_of(
            theirs, lambda p, x: theirs.apply({"params": p}, x, train=True)[0], adam()
        ),
    }, ""
