"""Few-shot linear probe in closed form: ridge regression from features to classes."""

import numpy as np
from jaxtyping import Float, Int

from active_learning.data.order import hash64


def few_shot(
    train: tuple[Float[np.ndarray, "n D"], Int[np.ndarray, "n"]],
    test: tuple[Float[np.ndarray, "m D"], Int[np.ndarray, "m"]],
    shots: int = 10,
    penalty: float = 1.0,
) -> dict[str, float]:
    """Accuracy on `test` of w = (X^T X + penalty I)^-1 X^T Y, fitted to `shots` examples of each class (fewer where a class has fewer), always
    the same ones. Features are centred by the fitted ones; Y is +1 for the class, -1 for the others; the offset is not penalised.
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
    said = classes[np.argmax((test[0] - mean) @ weights + offset, axis=1)]
    return {
        "accuracy": float(np.mean(said == test[1])),
        "shots": float(shots),
        "examples": float(len(rows)),
    }
