"""Scores of suspicion: a number per example, higher the more likely its label is wrong.

All functions are pure NumPy and take out-of-fold predictions (of models that did not train on the
example) or what was recorded while models trained. None of them reads a clean label.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int64, Integer, Num

FLOOR = 1e-6  # smallest probability; keeps logarithms finite


def label_probability(
    probabilities: Float[np.ndarray, "n C"], labels: Integer[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
    """Predicted probability of the given label."""
    return probabilities[np.arange(len(labels)), labels]


def self_confidence(
    probabilities: Float[np.ndarray, "n C"], labels: Integer[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
    """1 minus the predicted probability of the given label (Northcutt et al. 2021)."""
    return 1.0 - label_probability(probabilities, labels)


def normalized_margin(
    probabilities: Float[np.ndarray, "n C"], labels: Integer[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
    """Largest probability of another label minus that of the given one, mapped to [0, 1]."""
    return (1.0 - _margin(probabilities, labels)) / 2.0


def mean_loss(
    probabilities: Float[np.ndarray, "models n C"], labels: Integer[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
    """Cross-entropy of the given label in nats, averaged over repeats, checkpoints or both."""
    rows = np.arange(len(labels))
    return -np.mean([np.log(np.maximum(p[rows, labels], FLOOR)) for p in probabilities], axis=0)


def lift(
    probabilities: Float[np.ndarray, "n C"],
    labels: Integer[np.ndarray, "n"],
    sharpen: float = 1.5,
    prior: float = 0.25,
) -> Float[np.ndarray, "n"]:
    """Minus the logarithm of the label's sharpened probability over its class's frequency.

    Models that fit noisy labels are less sure of the *true* label than the data warrant: their
    probabilities are raised to the power `sharpen` and normalized again. Label noise also makes
    some classes too frequent, and a label of such a class says less: `prior` is the power of the
    class's mean probability that is divided out (0: none, 1: pointwise mutual information).

    Args:
      probabilities: Out-of-fold predictions.
      labels: Given labels.
      sharpen: Power of the probabilities, at least 1.
      prior: Power of the mean probability of the label's class.
    """
    sharp = np.maximum(probabilities, FLOOR) ** sharpen
    sharp /= sharp.sum(axis=1, keepdims=True)
    frequency = np.maximum(probabilities.mean(axis=0), FLOOR)
    own = np.log(np.maximum(label_probability(sharp, labels), FLOOR))
    return prior * np.log(frequency[labels]) - own


def class_thresholds(
    probabilities: Float[np.ndarray, "n C"], labels: Integer[np.ndarray, "n"]
) -> Float[np.ndarray, "C"]:
    """Mean probability of class c over the examples labeled c; infinite without any."""
    classes = probabilities.shape[1]
    totals = np.bincount(labels, label_probability(probabilities, labels), minlength=classes)
    counts = np.bincount(labels, minlength=classes)
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.inf)


def confident_class(
    probabilities: Float[np.ndarray, "n C"], labels: Integer[np.ndarray, "n"]
) -> Int64[np.ndarray, "n"]:
    """The most probable class among those at or above their threshold; -1 where there is none."""
    reached = probabilities >= class_thresholds(probabilities, labels)[None]
    best = np.where(reached, probabilities, -1.0).argmax(axis=1)
    return np.where(reached.any(axis=1), best, -1)


def confident_joint(
    probabilities: Float[np.ndarray, "n C"], labels: Integer[np.ndarray, "n"]
) -> Int64[np.ndarray, "C C"]:
    """Examples by given label (row) and confident class (column), Northcutt et al. 2021.

    Examples that are confidently in no class are not counted.
    """
    classes = probabilities.shape[1]
    best = confident_class(probabilities, labels)
    counted = best >= 0
    flat = labels[counted].astype(np.int64) * classes + best[counted]
    return np.bincount(flat, minlength=classes**2).reshape(classes, classes)


def margin(
    logits: Float[np.ndarray, "n C"], labels: Integer[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
    """Logit of the given label minus the largest other logit."""
    return _margin(logits, labels)


def area_under_margin(margins: Float[np.ndarray, "checkpoints n"]) -> Float[np.ndarray, "n"]:
    """Minus the mean margin during training on the example (Pleiss et al. 2020).

    NaN marks checkpoints of models that did not train on it; an example without any gets the mean
    of the others.
    """
    known = ~np.isnan(margins)
    counts = known.sum(axis=0)
    means = np.where(known, margins, 0.0).sum(axis=0) / np.maximum(counts, 1)
    if (counts == 0).any() and (counts > 0).any():
        means = np.where(counts > 0, means, means[counts > 0].mean())
    return -means


def epoch_learned(learned: Bool[np.ndarray, "checkpoints n"]) -> Float[np.ndarray, "n"]:
    """Share of the checkpoints before the prediction equals the label and stays equal; 1: never."""
    wrong = ~learned[::-1]
    since_last_error = np.where(wrong.any(axis=0), wrong.argmax(axis=0), len(learned))
    return 1.0 - since_last_error / len(learned)


def forgetting(learned: Bool[np.ndarray, "checkpoints n"]) -> Int64[np.ndarray, "n"]:
    """How often a prediction that equaled the label stopped doing so (Toneva et al. 2019).

    An example that was never learned counts as forgotten at every checkpoint.
    """
    events = (learned[:-1] & ~learned[1:]).sum(axis=0)
    return np.where(learned.any(axis=0), events, len(learned)).astype(np.int64)


def neighbor_votes(
    features: Float[np.ndarray, "n d"],
    labels: Integer[np.ndarray, "n"],
    classes: int,
    k: int = 30,
    temperature: float = 0.1,
    groups: Integer[np.ndarray, "n"] | None = None,
    block: int = 1024,
) -> Float[np.ndarray, "n C"]:
    """Classes of the `k` nearest neighbors by cosine similarity, as probabilities.

    Neighbor j weighs exp((similarity_j - similarity_1) / temperature). An example never votes for
    itself, nor do the members of its group (copies of it). Memory: block x n floats.

    Args:
      features: One vector an example; normalized here.
      labels: Given labels.
      classes: Number of classes.
      k: Neighbors, at most n - 1.
      temperature: Of the weights, in units of cosine similarity.
      groups: Equal numbers for examples that must not vote for each other.
      block: Rows at a time.
    """
    n = len(features)
    k = min(k, n - 1)
    groups = np.arange(n) if groups is None else groups
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    unit = (features / np.maximum(norms, 1e-12)).astype(np.float32)
    votes = np.zeros((n, classes), np.float64)
    for start in range(0, n if k > 0 else 0, block):
        rows = slice(start, min(start + block, n))
        similarity = unit[rows] @ unit.T
        similarity[groups[rows, None] == groups[None]] = -2.0
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        close = np.take_along_axis(similarity, nearest, axis=1)
        weight = np.exp((close - close.max(axis=1, keepdims=True)) / temperature)
        weight[close <= -2.0] = 0.0
        row = np.repeat(np.arange(rows.start, rows.stop), k)
        np.add.at(votes, (row, labels[nearest].ravel()), weight.ravel())
    totals = votes.sum(axis=1, keepdims=True)
    return np.where(totals > 0, votes / np.maximum(totals, 1e-12), 1.0 / classes)


def ranks(values: Num[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Ranks as (rank - 1/2) / n from the smallest; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - (counts - 1) / 2.0)[inverse] - 0.5) / len(values)


def rank_average(
    scores: Sequence[Num[np.ndarray, "n"]], weights: Sequence[float] | None = None
) -> Float[np.ndarray, "n"]:
    """Weighted mean of the ranks of several scores, in (0, 1). Raises ValueError for no scores."""
    if not scores:
        raise ValueError("rank_average: no scores")
    return np.average([ranks(s) for s in scores], axis=0, weights=weights)


def combine(
    probabilities: Sequence[Float[np.ndarray, "n C"]], weights: Sequence[float] | None = None
) -> Float[np.ndarray, "n C"]:
    """Normalized geometric mean of several models' probabilities."""
    logs = [np.log(np.maximum(p, FLOOR)) for p in probabilities]
    mean = np.average(logs, axis=0, weights=weights)
    out = np.exp(mean - mean.max(axis=1, keepdims=True))
    return out / out.sum(axis=1, keepdims=True)


def area_under_roc(scores: Num[np.ndarray, "n"], positive: Bool[np.ndarray, "n"]) -> float:
    """Probability that a positive example scores above a negative one, ties counted half.

    Raises ValueError unless there are both.
    """
    ones = int(positive.sum())
    zeros = len(positive) - ones
    if not ones or not zeros:
        raise ValueError(f"area_under_roc: {ones} positive and {zeros} negative examples")
    total = float((ranks(scores) * len(scores) + 0.5)[positive].sum())
    return (total - ones * (ones + 1) / 2) / (ones * zeros)


def average_precision(scores: Num[np.ndarray, "n"], positive: Bool[np.ndarray, "n"]) -> float:
    """Mean over the positive examples of the precision among those ranked at or above each."""
    hits = positive[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


def precision_at(
    scores: Num[np.ndarray, "n"], positive: Bool[np.ndarray, "n"], share: float
) -> float:
    """Share of positive examples among the top `share` of all (at least one example)."""
    top = np.argsort(-scores, kind="stable")[: max(1, round(share * len(scores)))]
    return float(positive[top].mean())


def _margin(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    rows = np.arange(len(labels))
    others = values.astype(np.float64)
    others[rows, labels] = -np.inf
    return values[rows, labels] - others.max(axis=1)
