"""Optimizers: AdamW with warm-up and cosine decay, as an optax chain."""

import jax
import optax


def warmup_cosine(learning_rate: float, warmup: int, total: int) -> optax.Schedule:
    """Linear from 0 over `warmup` updates, then cosine to 0 at update `total`."""
    return optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, max(1, warmup), max(total, warmup + 1, 2)
    )


def adamw(
    learning_rate: float, warmup: int, total: int, weight_decay: float, b2: float, clip: float
) -> optax.GradientTransformation:
    """AdamW after clipping by global norm (`clip`=0: no clipping).

    Arrays with fewer than two axes (biases, scales of norms) are not decayed.
    """
    adam = optax.adamw(
        warmup_cosine(learning_rate, warmup, total),
        b2=b2,
        weight_decay=weight_decay,
        mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
    )
    return optax.chain(optax.clip_by_global_norm(clip), adam) if clip else adam
