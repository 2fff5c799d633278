"""Per-example losses, always (B,) float32 and unreduced; `gradients.weighted_mean` reduces them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def softmax_xent(
    logits: Float[Array, "B C"], labels: Int[Array, "B"], smoothing: float = 0.0
) -> Float[Array, "B"]:
    """Softmax cross-entropy of integer labels, in nats.

    Args:
      logits: Any float type; computed in float32.
      labels: Class numbers.
      smoothing: s replaces the one-hot target by (1 - s) * onehot + s / C (the paper trains with
        s = 0.1 and scores with s = 0).
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    hit = jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
    return -(1.0 - smoothing) * hit - smoothing * jnp.mean(log_p, axis=-1)


def soft_xent(
    logits: Float[Array, "B C"], teacher: Float[Array, "B C"], temperature: float = 1.0
) -> Float[Array, "B"]:
    """Cross-entropy with a teacher's distribution, in nats (Hinton et al., arXiv 1503.02531).

    T^2 * H(softmax(teacher / T), softmax(logits / T)): the factor keeps the size of the gradient
    independent of the temperature T.
    """
    target = jax.nn.softmax(teacher.astype(jnp.float32) / temperature)
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)
    return -(temperature**2) * jnp.sum(target * log_p, axis=-1)


def accuracy(logits: Float[Array, "B C"], labels: Int[Array, "B"]) -> Float[Array, "B"]:
    """1.0 where the largest logit is the label's, else 0.0."""
    return (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
