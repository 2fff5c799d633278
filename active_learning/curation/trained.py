"""Small networks trained for cross-fitting, several folds at a time, with what happens on the way.

Any model of `active_learning.models` that returns logits will do: on pixels (uint8 images, which
are augmented by crop and flip) or on frozen features (float vectors shaped (n, 1, 1, d)).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Integer, Key

from active_learning.core.losses import softmax_xent
from active_learning.core.optim import adamw
from active_learning.data.order import hash64
from active_learning.data.transforms import augment, normalize

BLOCK = 1000  # examples evaluated at a time


@dataclass(frozen=True)
class Training:
    """How long and how a network is trained.

    Attributes:
      epochs: Passes over the training examples.
      batch_size: Examples per update.
      learning_rate: Peak of a cosine with a warm-up of 5 %.
      weight_decay: Of AdamW.
      checkpoints: Evaluations, evenly spaced; the last is at the end.
      crop_padding: Px of the border images are shifted within; pixels only.
      flip: Whether half of the images are mirrored; pixels only.
    """

    epochs: int = 8
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    checkpoints: int = 8
    crop_padding: int = 4
    flip: bool = True


@dataclass(frozen=True, eq=False)
class Dynamics:
    """What a fold's network said of every example at every checkpoint.

    Attributes:
      logits: Of all examples, those of the held-out ones out-of-fold.
      held: Which examples it did not train on.
    """

    logits: Float[np.ndarray, "checkpoints n C"]
    held: Bool[np.ndarray, "n"]


def train_folds(
    model: Any,
    training: Training,
    inputs: np.ndarray,
    labels: Integer[np.ndarray, "n"],
    held: Bool[np.ndarray, "k n"],
    seed: int,
    tick: Callable[[float], None] | None = None,
) -> list[Dynamics]:
    """Trains one network a fold, all at once (vmap).

    Folds may differ by an example: every epoch drops what does not fill the last batch, from the
    end of an order that changes every epoch.

    Args:
      model: A Flax module with `num_classes` set.
      training: Settings.
      inputs: uint8 images (n, H, W, C) or float vectors (n, 1, 1, d).
      labels: Given labels.
      held: For each fold the examples it must not train on.
      seed: Of initial weights, order and augmentation.
      tick: Called with the finished share in (0, 1] after every epoch.
    """
    rows = [np.flatnonzero(~one) for one in held]
    batch = min(training.batch_size, min(map(len, rows)))
    steps = min(map(len, rows)) // batch
    optimizer = adamw(
        training.learning_rate,
        round(0.05 * steps * training.epochs),
        steps * training.epochs,
        training.weight_decay,
        b2=0.99,
        clip=1.0,
    )
    keys = jax.random.split(jax.random.key(seed), len(held))
    stack = _start(model, optimizer, jnp.asarray(inputs[:1]), keys)
    data, targets = jnp.asarray(inputs), jnp.asarray(labels, jnp.int32)
    stats = _channel_stats(inputs)
    run = partial(_epoch, model, training, optimizer, stats)
    marks = np.unique(np.linspace(0, training.epochs, training.checkpoints + 1).round())[1:]
    logits = []
    for epoch in range(training.epochs):
        order = [_order(one, seed, fold, epoch)[: steps * batch] for fold, one in enumerate(rows)]
        index = jnp.asarray(np.stack(order).reshape(len(held), steps, batch).astype(np.int32))
        stack = run(stack, data, targets, index, keys, jnp.int32(epoch))
        if epoch + 1 in marks:
            logits.append(_evaluate(model, stats, stack[0], data))
        if tick is not None:
            tick((epoch + 1) / training.epochs)
    stacked = np.stack(logits, axis=1)  # (k, checkpoints, n, C)
    return [Dynamics(one, mask) for one, mask in zip(stacked, held, strict=True)]


def _order(rows: np.ndarray, seed: int, fold: int, epoch: int) -> np.ndarray:
    return rows[np.argsort(hash64(seed, fold, epoch, rows), kind="stable")]


def _channel_stats(inputs: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation of uint8 images' channels from at most 2,000 of them; None for vectors."""
    if inputs.dtype != np.uint8:
        return None
    sample = inputs[:: max(1, len(inputs) // 2000)].astype(np.float64) / 255
    std = np.maximum(sample.std(axis=(0, 1, 2)), 1 / 255)
    return tuple(sample.mean(axis=(0, 1, 2)).tolist()), tuple(std.tolist())


@partial(jax.jit, static_argnums=(0, 1))
def _start(
    model: Any,
    optimizer: optax.GradientTransformation,
    example: Array,
    keys: Key[Array, "k"],
) -> tuple[Any, Any]:
    def one(key):
        params = model.init(key, example.astype(jnp.float32))["params"]
        return params, optimizer.init(params)

    return jax.vmap(one)(keys)


def _prepared(stats: tuple | None, inputs: Array) -> Array:
    return inputs if stats is None else normalize(inputs, *stats)


@partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=4)
def _epoch(
    model: Any,
    training: Training,
    optimizer: optax.GradientTransformation,
    stats: tuple | None,
    stack: tuple[Any, Any],
    data: Array,
    labels: Int[Array, "n"],
    index: Int[Array, "k steps b"],
    keys: Key[Array, "k"],
    epoch: Int[Array, ""],
) -> tuple[Any, Any]:
    def fold(params, state, index, key):
        def step(carry, rows):
            params, state = carry
            inputs = data[rows]
            if stats is not None:
                ids = jnp.stack([jnp.zeros_like(rows), rows], axis=1).astype(jnp.uint32)
                turn = jnp.broadcast_to(epoch, rows.shape)
                inputs = augment(
                    inputs, ids, turn, key, crop_padding=training.crop_padding, flip=training.flip
                )

            def loss(params):
                outputs = model.apply({"params": params}, _prepared(stats, inputs), train=True)
                return jnp.mean(softmax_xent(outputs["logits"], labels[rows]))

            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), index)[0]

    return jax.vmap(fold)(*stack, index, keys)


def _evaluate(model: Any, stats: tuple | None, params: Any, data: Array) -> np.ndarray:
    """Logits (k, n, C) of all examples."""
    n, parts = len(data), []
    for start in range(0, n, BLOCK):
        rows = np.minimum(np.arange(start, start + BLOCK), n - 1)
        logits = np.asarray(_logits(model, stats, params, data, jnp.asarray(rows)))
        parts.append(logits[:, : n - start])
    return np.concatenate(parts, axis=1)


@partial(jax.jit, static_argnums=(0, 1))
def _logits(
    model: Any, stats: tuple | None, params: Any, data: Array, rows: Int[Array, "b"]
) -> Float[Array, "k b C"]:
    inputs = _prepared(stats, data[rows])
    return jax.vmap(lambda one: model.apply({"params": one}, inputs)["logits"])(params)
