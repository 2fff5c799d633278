"""Optimizers and learning-rate schedules, as optax chains and as a config section."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from active_learning.config import Section, setting

OPTIMIZERS = ("adamw", "sgd", "lion", "adafactor")
SCHEDULES = ("cosine", "rsqrt", "constant")
DECAYED = ("matrices", "kernels")


@dataclass(frozen=True)
class Optim(Section):
    """An optimizer with linear warm-up, then a schedule that ends at 0."""

    # Peak learning rate, reached after the warm-up.
    learning_rate: float = setting(1e-3, at_least=0.0, at_most=1e4)
    # Duration of the linear warm-up.
    warmup: str = "5 %"
    weight_decay: float = setting(1e-4, at_least=0.0, at_most=1e4)
    b2: float = setting(0.99, at_least=0.0, below=1.0)
    # Largest global gradient norm; 0: no clipping.
    clip: float = setting(1.0, at_least=0.0, at_most=1e9)
    # Which optimizer; 'adafactor' stores second moments of matrices in factored form.
    optimizer: str = setting("adamw", one_of=OPTIMIZERS)
    # Type in which the first moment is stored ('adamw', 'lion', 'sgd'). The second moment stays
    # float32: bfloat16 would lose its small increments.
    first_moment: str = setting("float32", one_of=("float32", "bfloat16"))
    # Of 'sgd' (Nesterov) and 'lion'.
    momentum: float = setting(0.9, at_least=0.0, below=1.0)
    # After the warm-up: 'cosine' to 0, or 'rsqrt' or 'constant' with a linear cooldown to 0.
    schedule: str = setting("cosine", one_of=SCHEDULES)
    # Fraction of the run that the cooldown takes.
    cooldown: float = setting(0.2, at_least=0.0, at_most=1.0)
    # What weight decay applies to: 'matrices' (arrays with two axes or more), or 'kernels' (of
    # dense layers and embeddings of tokens: no norms, biases, positions or class tokens).
    decay_applies_to: str = setting("matrices", one_of=DECAYED)
    # Your own optimizer: (schedule) -> optax.GradientTransformation, instead of all but the
    # learning rate, the warm-up and the schedule.
    transform: Any = None

    def make(self, warmup: int, total: int) -> optax.GradientTransformation:
        """The optimizer of a run of `total` updates, `warmup` of them with a rising rate."""
        rate = self.rate(warmup, total)
        if self.transform is not None:
            return self.transform(rate)
        made = self._optimizer(rate)
        return optax.chain(optax.clip_by_global_norm(self.clip), made) if self.clip else made

    def rate(self, warmup: int, total: int) -> optax.Schedule:
        """The learning rate by update."""
        if self.schedule == "cosine":
            return warmup_cosine(self.learning_rate, warmup, total)
        if self.schedule == "rsqrt":
            return warmup_rsqrt(self.learning_rate, warmup, total, self.cooldown)
        return warmup_constant(self.learning_rate, warmup, total, self.cooldown)

    def _optimizer(self, rate: optax.Schedule) -> optax.GradientTransformation:
        mask = decayed_kernels if self.decay_applies_to == "kernels" else decayed_matrices
        decay = {"weight_decay": self.weight_decay, "mask": mask}
        stored = None if self.first_moment == "float32" else self.first_moment
        if self.optimizer == "adamw":
            return optax.adamw(rate, b2=self.b2, mu_dtype=stored, **decay)
        if self.optimizer == "lion":
            return optax.lion(rate, b1=self.momentum, b2=self.b2, mu_dtype=stored, **decay)
        if self.optimizer == "sgd":
            return optax.chain(
                optax.trace(self.momentum, nesterov=True, accumulator_dtype=stored),
                optax.add_decayed_weights(**decay),
                optax.scale_by_learning_rate(rate),
            )
        return optax.chain(
            optax.scale_by_factored_rms(decay_rate=0.8),
            optax.clip_by_block_rms(1.0),
            optax.add_decayed_weights(**decay),
            optax.scale_by_learning_rate(rate),
        )


def decayed_matrices(params: PyTree) -> PyTree:
    """True for arrays with at least two axes."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def decayed_kernels(params: PyTree) -> PyTree:
    """True for kernels of dense layers and embeddings of tokens, by the last part of their name."""

    def decayed(path: tuple, _: Any) -> bool:
        return jax.tree_util.keystr(path[-1:], simple=True) in ("kernel", "embed")

    return jax.tree_util.tree_map_with_path(decayed, params)


def warmup_cosine(learning_rate: float, warmup: int, total: int) -> optax.Schedule:
    """Linear from 0 over `warmup` updates, then cosine to 0 at update `total`."""
    return optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, max(1, warmup), max(total, warmup + 1, 2)
    )


def _warmed_up(after: Callable, warmup: int, total: int, cooldown: float) -> optax.Schedule:
    """Linear warm-up, `after(update)`, and a linear factor to 0 in the last part of the run."""
    start, last = max(1, warmup), round(cooldown * total)

    def rate(update: Any) -> Any:
        rising = jnp.minimum(update / start, 1.0)
        falling = jnp.clip((total - update) / last, 0.0, 1.0) if last else 1.0
        return rising * falling * after(jnp.maximum(update, start))

    return rate


def warmup_rsqrt(
    learning_rate: float, warmup: int, total: int, cooldown: float = 0.2
) -> optax.Schedule:
    """Linear over `warmup` updates, then learning_rate * sqrt(warmup / update), then to 0.

    Args:
      learning_rate: Peak, at the end of the warm-up.
      warmup: Updates of the warm-up.
      total: Updates of the run.
      cooldown: Fraction of the run in which a factor falls linearly from 1 to 0.
    """
    start = max(1, warmup)
    return _warmed_up(
        lambda update: learning_rate * jnp.sqrt(start / update), warmup, total, cooldown
    )


def warmup_constant(
    learning_rate: float, warmup: int, total: int, cooldown: float = 0.2
) -> optax.Schedule:
    """Linear over `warmup` updates, then constant, then to 0 as in `warmup_rsqrt`."""
    return _warmed_up(lambda update: learning_rate, warmup, total, cooldown)


def adamw(
    learning_rate: float, warmup: int, total: int, weight_decay: float, b2: float, clip: float
) -> optax.GradientTransformation:
    """AdamW after clipping by global norm (`clip`=0: no clipping).

    Arrays with fewer than two axes (biases, scales of norms) are not decayed.
    """
    section = Optim(learning_rate, weight_decay=weight_decay, b2=b2, clip=clip)
    return section.make(warmup, total)


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
