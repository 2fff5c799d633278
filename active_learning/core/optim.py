"""Optimizers: AdamW with warm-up and cosine decay, as an optax chain and as a config section."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from active_learning.config import Section, setting


@dataclass(frozen=True)
class Optim(Section):
    """AdamW with linear warm-up and cosine decay to 0."""

    # Peak learning rate, reached after the warm-up.
    learning_rate: float = setting(1e-3, at_least=0.0)
    # Duration of the linear warm-up.
    warmup: str = "5 %"
    weight_decay: float = setting(1e-4, at_least=0.0)
    b2: float = setting(0.99, at_least=0.0, below=1.0)
    # Largest global gradient norm; 0: no clipping.
    clip: float = setting(1.0, at_least=0.0)

    def make(self, warmup: int, total: int) -> optax.GradientTransformation:
        """The optimizer of a run of `total` updates, `warmup` of them with a rising rate."""
        return adamw(self.learning_rate, warmup, total, self.weight_decay, self.b2, self.clip)


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


def ema_decay(step: Int[Array, ""], half_life: float) -> Float[Array, ""]:
    """Decay of an exponential moving average of weights in the update after `step` others.

    0.5 ** (1 / half_life), but at most (1 + step) / (10 + step): at first the average spans about
    the last ninth of the updates done, and the initial weights are forgotten at once (1.8 % of
    them are left after two updates).

    Args:
      step: Updates done before this one.
      half_life: Updates in which the weight of an update's parameters falls by half, > 0.
    """
    warm_start = (1.0 + step) / (10.0 + step)
    return jnp.minimum(jnp.float32(0.5 ** (1.0 / half_life)), warm_start.astype(jnp.float32))
