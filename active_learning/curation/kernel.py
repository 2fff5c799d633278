"""A cross-fitted kernel ridge classifier on frozen features, in closed form.

The kernel exp((cosine similarity - 1) / width) is approximated by `landmarks` examples (Nystrom;
exact where all examples are landmarks). The product of all mapped examples with themselves is
computed once; a fold's own part is subtracted from it.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_factor, cho_solve, solve_triangular
from jaxtyping import Array, Bool, Float, Int, Integer

from active_learning.curation.scores import FLOOR, label_probability
from active_learning.data.order import hash64

# For matrix products that are factored: TF32 and bfloat16, the default of some accelerators, round
# a kernel of close examples to one without a root.
exact = jax.default_matmul_precision("highest")
JITTER = 1e-3  # added to the landmarks' kernel, whose smallest eigenvalues drown in rounding


@dataclass(frozen=True)
class KernelSettings:
    """Settings of the classifier.

    Attributes:
      landmarks: Examples the kernel is approximated with; time grows with its square.
      width: Of the kernel, in units of cosine similarity.
      ridge: Added to the kernel's diagonal.
    """

    landmarks: int = 4096
    width: float = 0.3
    ridge: float = 1.0


@dataclass(frozen=True, eq=False)
class Mapped:
    """All examples in the kernel's coordinates, and their product with themselves."""

    phi: Float[Array, "n m"]
    gram: Float[Array, "m m"]


@dataclass(frozen=True, eq=False)
class Landmarks:
    """The examples that the kernel's coordinates are made of."""

    points: Float[Array, "m d"]
    # Triangular root of their kernel.
    root: Float[Array, "m m"]
    width: float

    @classmethod
    @exact
    def of(cls, points: Float[np.ndarray, "m d"], width: float) -> "Landmarks":
        """From unit vectors."""
        rows = jnp.asarray(points)
        inside = jnp.exp((rows @ rows.T - 1.0) / width)
        return cls(rows, jnp.linalg.cholesky(inside + JITTER * jnp.eye(len(rows))), width)

    def map(self, features: Float[np.ndarray, "b d"]) -> Float[Array, "b m"]:
        """Kernel coordinates of unit vectors."""
        return _map_block(jnp.asarray(features), self.points, self.root, self.width)


def drawn_landmarks(keys: Integer[np.ndarray, "n"], count: int, seed: int) -> Int[np.ndarray, "m"]:
    """Places of the examples that are landmarks, by their keys alone."""
    drawn = np.argsort(hash64(seed, keys), kind="stable")
    return np.sort(drawn[:count])


@exact
def kernel_map(features: Float[np.ndarray, "n d"], settings: KernelSettings, seed: int) -> Mapped:
    """Maps unit vectors; depends on features and seed alone."""
    n = len(features)
    chosen = drawn_landmarks(np.arange(n), settings.landmarks, seed)
    landmarks = Landmarks.of(features[chosen], settings.width)
    phi = jnp.concatenate([landmarks.map(features[i : i + 2048]) for i in range(0, n, 2048)])
    return Mapped(phi, phi.T @ phi)


@jax.jit
@exact
def _map_block(rows: Array, landmarks: Array, root: Array, width: Float[Array, ""]) -> Array:
    kernel = jnp.exp((rows @ landmarks.T - 1.0) / width)
    return solve_triangular(root, kernel.T, lower=True).T


def held_out_outputs(
    mapped: Mapped,
    labels: Integer[np.ndarray, "n"],
    classes: int,
    held: Bool[np.ndarray, "n"],
    ridge: float,
) -> Float[np.ndarray, "h C"]:
    """Outputs for the examples with `held`, fitted to the labels of all others; about 0 .. 1."""
    targets = np.eye(classes, dtype=np.float32)[labels] - np.float32(1 / classes)
    return held_out_regression(mapped, targets, held, ridge) + np.float32(1 / classes)


def held_out_regression(
    mapped: Mapped, targets: Float[np.ndarray, "n C"], held: Bool[np.ndarray, "n"], ridge: float
) -> Float[np.ndarray, "h C"]:
    """Predicted targets of the examples with `held`, fitted to those of all others."""
    rows = jnp.asarray(np.flatnonzero(held))
    wanted = jnp.asarray(targets, jnp.float32)
    return np.asarray(_solve(mapped.phi, mapped.gram, wanted, rows, ridge))


@jax.jit
@exact
def _solve(
    phi: Float[Array, "n m"],
    gram: Float[Array, "m m"],
    targets: Float[Array, "n C"],
    rows: Int[Array, "h"],
    ridge: float | Float[Array, ""],
) -> Float[Array, "h C"]:
    own, own_targets = phi[rows], targets[rows]
    left = gram - own.T @ own + ridge * jnp.eye(gram.shape[0])
    right = phi.T @ targets - own.T @ own_targets
    return own @ cho_solve(cho_factor(left), right)


def probabilities(
    outputs: Float[np.ndarray, "n C"], labels: Integer[np.ndarray, "n"]
) -> Float[np.ndarray, "n C"]:
    """Softmax of outputs / temperature; the temperature minimizes the loss of the given labels.

    Out-of-fold outputs in, so that one number is fitted to n labels no model has seen.
    """
    return softmax(outputs / best_temperature(outputs, labels))


def best_temperature(outputs: Float[np.ndarray, "n C"], labels: Integer[np.ndarray, "n"]) -> float:
    """The temperature of a softmax that minimizes the loss of the given labels."""

    def loss(temperature: float) -> float:
        own = label_probability(softmax(outputs / temperature), labels)
        return float(-np.log(np.maximum(own, FLOOR)).mean())

    return min(np.geomspace(0.02, 1.0, 25).tolist(), key=loss)


def softmax(logits: Float[np.ndarray, "*n C"]) -> Float[np.ndarray, "*n C"]:
    """Softmax over the last axis."""
    out = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return out / out.sum(axis=-1, keepdims=True)
