"""Zero-shot classification: each class is the mean embedding of its name in several templates."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int, PyTree

from active_learning.evaluators.embed import Embedder


def class_embeddings(
    embed: Embedder,
    params: PyTree,
    names: Sequence[str],
    templates: Sequence[str],
    encode: Callable[[Sequence[str]], np.ndarray],
) -> Float[np.ndarray, "C D"]:
    """Unit-norm mean over the templates (each with one {}) of the embeddings of each name; `encode`: texts -> token ids."""
    texts = [template.format(name) for name in names for template in templates]
    each = embed.texts(params, encode(texts)).reshape(len(names), len(templates), -1).mean(axis=1)
    return each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-8)


def zero_shot(
    images: Float[np.ndarray, "n D"],
    classes: Float[np.ndarray, "C D"],
    labels: Int[np.ndarray, "n"],
) -> dict[str, float]:
    """accuracy, mean accuracy of the classes that occur, and what always answering the most frequent class would give."""
    hit = np.argmax(images @ classes.T, axis=1) == labels
    found = np.unique(labels)
    return {
        "accuracy": float(hit.mean()),
        "class_mean": float(np.mean([hit[labels == c].mean() for c in found])),
        "most_frequent": float(np.bincount(labels).max() / len(labels)),
    }
