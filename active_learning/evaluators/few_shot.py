"""Linear classifiers on frozen features.

Ridge regression in closed form on a few examples a class, or logistic regression on all of them.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize

from active_learning.data.order import hash64
from active_learning.evaluators.zero_shot import classification_metrics, label_places

Labelled = tuple[Float[np.ndarray, "n D"], Int[np.ndarray, "n"]]  # features and class numbers
Judged = tuple[Float[np.ndarray, "m D"], Int[np.ndarray, "m"]]
PENALTIES = (1e-6, 1e-4, 1e-2, 1.0)


def few_shot(
    train: Labelled, test: Judged, shots: int = 10, penalty: float = 1.0
) -> dict[str, float]:
    """Accuracy of ridge regression from features to classes.

    Solves w = (X^T X + penalty I)^-1 X^T Y on centered features; Y is +1 for the class and -1 for
    the others, and the offset is not penalized.

    Args:
      train: Features and labels to draw `shots` examples of each class from, always the same ones.
      test: Features and labels to judge on.
      shots: Examples a class; fewer where a class has fewer.
      penalty: Ridge penalty.

    Returns:
      acc1, acc5 (with at least 5 classes), mean_per_class_recall, shots, and the number of
      examples fitted.
    """
    features, labels = train
    classes, numbers = np.unique(labels, return_inverse=True)
    order = np.argsort(hash64(0xF5, np.arange(len(labels))), kind="stable")
    rows = np.concatenate([order[numbers[order] == c][:shots] for c in range(len(classes))])
    mean = features[rows].mean(axis=0, keepdims=True)
    x = features[rows].astype(np.float64) - mean
    y = 2.0 * (numbers[rows][:, None] == np.arange(len(classes))[None]) - 1.0
    offset = y.mean(axis=0, keepdims=True)
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (y - offset))
    scores = (test[0] - mean) @ weights + offset
    return _metrics(scores, test[1], classes) | {
        "shots": float(shots),
        "examples": float(len(rows)),
    }


def linear_probe(
    train: Labelled,
    test: Judged,
    penalties: Sequence[float] = PENALTIES,
    held_out: float = 0.2,
    iterations: int = 500,
) -> dict[str, float]:
    """Accuracy of L2-regularized multinomial logistic regression, fitted by L-BFGS to all features.

    Features are standardized by the fitted ones. The penalty is chosen on a held-out fraction of
    `train`, then the classifier is fitted to all of it; `test` takes no part in the choice.

    Args:
      train: Features and labels to fit.
      test: Features and labels to judge on.
      penalties: Candidates for the penalty on half the squared weights.
      held_out: Fraction of `train` on which the penalty is chosen.
      iterations: Most iterations of L-BFGS for each fit.

    Returns:
      lp_acc1, lp_acc5 (with at least 5 classes), lp_mean_per_class_recall, and the penalty.
    """
    features, labels = train
    classes, numbers = np.unique(labels, return_inverse=True)
    penalty = penalties[0]
    if len(penalties) > 1:
        order = np.argsort(hash64(0x1B, np.arange(len(labels))), kind="stable")
        held = order[: max(1, round(held_out * len(order)))]
        kept = order[len(held) :]
        accuracies = []
        for one in penalties:
            fitted = _fit(features[kept], numbers[kept], len(classes), one, iterations)
            accuracies.append(np.mean(fitted(features[held]).argmax(axis=1) == numbers[held]))
        # Of equally good penalties the strongest.
        penalty = max(zip(accuracies, penalties, strict=True))[1]
    scores = _fit(features, numbers, len(classes), penalty, iterations)(test[0])
    metrics = {f"lp_{name}": value for name, value in _metrics(scores, test[1], classes).items()}
    return metrics | {"penalty": float(penalty)}


def _fit(features: np.ndarray, labels: np.ndarray, classes: int, penalty: float, iterations: int):
    """The function from features to logits after a fit of weights and offsets from 0."""
    mean = features.mean(axis=0, keepdims=True)
    scale = np.maximum(features.std(axis=0, keepdims=True), 1e-6)
    x = jnp.asarray((features - mean) / scale, jnp.float32)
    y, width = jnp.asarray(labels), features.shape[1]

    def objective(flat, x, y):
        weights, offset = flat[:-classes].reshape(width, classes), flat[-classes:]
        logits = jnp.matmul(x, weights, precision="highest") + offset[None]
        picked = jnp.take_along_axis(logits, y[:, None], axis=1)[:, 0]
        loss = jnp.mean(jax.nn.logsumexp(logits, axis=1) - picked)
        return loss + penalty / 2 * jnp.sum(weights**2)

    gradient = jax.jit(jax.value_and_grad(objective))

    def fun(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = gradient(jnp.asarray(flat, jnp.float32), x, y)
        return float(value), np.asarray(slope, np.float64)

    start = np.zeros((width + 1) * classes)
    best = minimize(fun, start, jac=True, method="L-BFGS-B", options={"maxiter": iterations}).x
    weights, offset = best[:-classes].reshape(width, classes), best[-classes:]
    return lambda rows: ((rows - mean) / scale) @ weights + offset[None]


def _metrics(scores: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """Metrics of scores whose column k is classes[k]; a label that was not fitted is wrong."""
    known = np.isin(labels, classes)
    places = np.full(len(labels), len(classes))
    at = np.searchsorted(classes, labels[known])
    places[known] = label_places(scores[known], at)
    count = max(int(classes.max()), int(labels.max())) + 1
    out = classification_metrics(places, labels, count)
    if len(classes) < 5:
        out.pop("acc5", None)
    return out
