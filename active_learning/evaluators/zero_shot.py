"""Zero-shot classification: each class is the mean embedding of its name in several templates."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int, PyTree

from active_learning.evaluators.embed import Embedder
from active_learning.evaluators.retrieval import BLOCK


def class_embeddings(
    embed: Embedder,
    params: PyTree,
    names: Sequence[str],
    templates: Sequence[str],
    encode: Callable[[Sequence[str]], np.ndarray],
) -> Float[np.ndarray, "C D"]:
    """Class embeddings from names and templates.

    Args:
      embed: Embeds the texts.
      params: Parameters of its model.
      names: Name of each class.
      templates: Texts with one `{}`, where the name goes.
      encode: Texts to token ids.

    Returns:
      The mean over the templates of each class, scaled to unit norm.
    """
    texts = [template.format(name) for name in names for template in templates]
    each = embed.texts(params, encode(texts)).reshape(len(names), len(templates), -1).mean(axis=1)
    return each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-8)


def zero_shot(
    images: Float[np.ndarray, "n D"],
    classes: Float[np.ndarray, "C D"],
    labels: Int[np.ndarray, "n"],
) -> dict[str, float]:
    """Accuracy of the nearest class embedding.

    Returns:
      The metrics of `classification_metrics`, and most_frequent: the accuracy of always answering
      the most frequent class.
    """
    rows = max(1, BLOCK // len(classes))
    places = [
        label_places(images[at : at + rows] @ classes.T, labels[at : at + rows])
        for at in range(0, len(images), rows)
    ]
    frequent = float(np.bincount(labels).max() / len(labels))
    metrics = classification_metrics(np.concatenate(places), labels, len(classes))
    return metrics | {"most_frequent": frequent}


def label_places(
    scores: Float[np.ndarray, "n C"], labels: Int[np.ndarray, "n"]
) -> Int[np.ndarray, "n"]:
    """Place (0: first) of each label among classes sorted by falling score.

    Of equal scores the lower class number is first.
    """
    own = scores[np.arange(len(labels)), labels][:, None]
    before = np.arange(scores.shape[1])[None] < labels[:, None]
    return (scores > own).sum(axis=1) + ((scores == own) & before).sum(axis=1)


def classification_metrics(
    places: Int[np.ndarray, "n"], labels: Int[np.ndarray, "n"], num_classes: int
) -> dict[str, float]:
    """Accuracy under clip_benchmark's names.

    Returns:
      acc1; acc5, with at least 5 classes; mean_per_class_recall over the classes that occur.
    """
    out = {"acc1": float(np.mean(places < 1))}
    if num_classes >= 5:
        out["acc5"] = float(np.mean(places < 5))
    seen = np.bincount(labels, minlength=num_classes)
    recall = np.bincount(labels, places < 1, minlength=num_classes)[seen > 0] / seen[seen > 0]
    return out | {"mean_per_class_recall": float(recall.mean())}
