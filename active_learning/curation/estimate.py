"""How many labels are wrong: estimates with intervals that stay honest when the models are weak.

Disagreement between out-of-fold predictions and labels is label noise plus the models' own errors,
and nothing in it says which. What separates the two is where it happens. Label noise lowers the
agreement (above chance) of easy and hard examples by the same factor; a model's errors gather
among the examples it is unsure of. The quotient `steadiness` of the agreement among its less
and its most confident predictions is therefore a property of the model, not of the noise: near 1
for a strong model, 0.3 to 0.4 for one that is right on half of ten classes. How well a model of
that steadiness predicts where it is most confident is bounded below by an empirical curve
(`_least_agreement`), which was drawn below what was seen on CIFAR-10 and Fashion-MNIST.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

from active_learning.curation.records import ClassSummary, Cut, Estimate

MOST_CONFIDENT = 0.1  # share of each predicted class in which a model is at its best
COINCIDENCE = 1.05  # predictions that repeat a wrong label hide about 5 % of the noise
LEAST_SIGNAL = 0.3  # agreement above chance at its best, below which a model proves nothing
SMALL_CLASS = 30  # examples; below it an estimate for a class says nothing
Z, Z_TOP = 1.96, 2.58  # of 95 %, and of 99 % where few examples decide and one end is at stake


@dataclass(frozen=True)
class Agreement:
    """Disagreement with the labels, where the model is most confident and where it is not.

    Attributes:
      top: Disagreement among the most confident tenth of each predicted class.
      rest: Disagreement among the less confident half of each predicted class.
      all: Disagreement.
      chance: Disagreement of a random guess with the labels' frequencies.
      count, top_count: Examples in all, and in `top`.
    """

    top: float
    rest: float
    all: float
    chance: float
    count: int
    top_count: int

    @property
    def steadiness(self) -> float:
        """Agreement above chance of `rest` over that of `top`, 0 .. 1."""
        top, rest = 1 - self.top / self.chance, 1 - self.rest / self.chance
        return float(np.clip(rest / top, 0.0, 1.0)) if top > 0 else 0.0


def agreement(
    probabilities: Float[np.ndarray, "n C"], labels: Integer[np.ndarray, "n"]
) -> Agreement:
    """Measures out-of-fold predictions. Raises ValueError for fewer than two labels."""
    n, classes = probabilities.shape
    frequency = np.bincount(labels, minlength=classes) / max(n, 1)
    chance = 1.0 - float((frequency**2).sum())
    if n == 0 or chance <= 0:
        raise ValueError(f"{n} examples of {int((frequency > 0).sum())} class: nothing to estimate")
    position = confidence_position(probabilities)
    wrong = probabilities.argmax(axis=1) != labels
    top, rest = position < MOST_CONFIDENT, position > 0.5
    if not rest.any():
        rest = np.ones(n, bool)
    if not top.any():
        top = np.ones(n, bool)
    return Agreement(
        float(wrong[top].mean()),
        float(wrong[rest].mean()),
        float(wrong.mean()),
        chance,
        n,
        int(top.sum()),
    )


def confidence_position(probabilities: Float[np.ndarray, "n C"]) -> Float[np.ndarray, "n"]:
    """Position in (0, 1) of each example among those of its predicted class, the surest first."""
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    position = np.empty(len(predicted))
    for one in np.unique(predicted):
        rows = np.flatnonzero(predicted == one)
        order = rows[np.argsort(-confidence[rows], kind="stable")]
        position[order] = (np.arange(len(order)) + 0.5) / len(order)
    return position


def corrupted_fraction(measured: Agreement) -> Estimate:
    """Fraction of wrong labels, with an interval of at least 95 % coverage.

    The upper end is the disagreement, enlarged by what coincidences hide. The lower end is what
    noise must explain of the disagreement among the most confident predictions, if the model is
    there no better than the worst seen at its steadiness; 0 where even they hardly agree with the
    labels: then noise and ignorance look the same.
    """
    low, value, high = _bounds(
        measured.top,
        measured.top_count,
        measured.all,
        measured.count,
        measured.chance,
        measured.steadiness,
    )
    return Estimate(value, low, high)


def per_class(
    probabilities: Float[np.ndarray, "n C"],
    labels: Integer[np.ndarray, "n"],
    names: tuple[str, ...],
) -> tuple[ClassSummary, ...]:
    """Size and fraction of wrong labels of each given class; none below SMALL_CLASS examples."""
    steadiness = agreement(probabilities, labels).steadiness
    predicted = probabilities.argmax(axis=1)
    top = confidence_position(probabilities) < MOST_CONFIDENT
    out = []
    for number, name in enumerate(names):
        given = labels == number
        count, sure = int(given.sum()), int((given & top).sum())
        fraction = None
        if count >= SMALL_CLASS:
            wrong = predicted != number
            best = float(wrong[given & top].mean()) if sure else 0.0
            chance = max(float(wrong.mean()), 0.05)
            low, value, high = _bounds(
                best, sure, float(wrong[given].mean()), count, chance, steadiness
            )
            fraction = Estimate(value, low, high)
        out.append(ClassSummary(name, count, fraction))
    return tuple(out)


def _bounds(
    top: float, top_count: int, everywhere: float, count: int, chance: float, steadiness: float
) -> tuple[float, float, float]:
    """(low, value, high) of the fraction of wrong labels."""
    agrees = 1.0 - top / chance
    # Adding two of either kind (Agresti & Coull 1998) keeps an error of 0 of few from being 0.
    smooth = (top * top_count + 2) / (top_count + 4)
    error = Z_TOP * np.sqrt(smooth * (1 - smooth) / (top_count + 4)) / chance
    high = min(1.0, COINCIDENCE * everywhere + Z * np.sqrt(_variance(everywhere, count)))
    low = chance * (1.0 - (agrees + error) / max(_least_agreement(steadiness), 1e-6))
    value = chance * (1.0 - agrees / max(_usual_agreement(steadiness), 1e-6))
    low = float(np.clip(low, 0.0, high)) if agrees >= LEAST_SIGNAL else 0.0
    return low, float(np.clip(min(value, everywhere), low, high)), float(high)


def wilson(fraction: float, count: int) -> tuple[float, float]:
    """Middle and half width of the 95 % interval of a fraction of `count` (Wilson 1927)."""
    z2 = Z * Z / count
    half = Z * np.sqrt(fraction * (1 - fraction) / count + z2 / (4 * count)) / (1 + z2)
    return float((fraction + z2 / 2) / (1 + z2)), float(half)


def _variance(share: float, count: int) -> float:
    smooth = (share * count + 2) / (count + 4)
    return smooth * (1 - smooth) / (count + 4)


def _least_agreement(steadiness: float) -> float:
    """Least agreement above chance, on clean labels, of the most confident predictions."""
    return 1.0 - (1.0 - steadiness) ** (1.0 + 1.3 * steadiness)


def _usual_agreement(steadiness: float) -> float:
    """The same as was usually seen: 0.57 at 0.33, 0.82 at 0.40, 0.99 at 0.70."""
    return 1.0 - (1.0 - steadiness) ** (2.0 + 2.0 * steadiness)


def wrong_probability(
    probabilities: Float[np.ndarray, "n C"],
    labels: Integer[np.ndarray, "n"],
    suspicion: Float[np.ndarray, "n"],
    fraction: float,
) -> Float[np.ndarray, "n"]:
    """Probability that each label is wrong: rises with the suspicion, its mean is `fraction`.

    The values are those of 1 minus the predicted probability of the label, moved alike in log-odds.
    """
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    odds = np.log(np.maximum(1.0 - own, 1e-6)) - np.log(np.maximum(own, 1e-6))
    low, high = -60.0, 60.0
    for _ in range(80):
        shift = (low + high) / 2
        if (1.0 / (1.0 + np.exp(-(odds + shift)))).mean() < fraction:
            low = shift
        else:
            high = shift
    values = np.sort(1.0 / (1.0 + np.exp(-(odds + (low + high) / 2))))
    out = np.empty(len(labels))
    out[np.argsort(suspicion, kind="stable")] = values
    return out


def confusion(
    probabilities: Float[np.ndarray, "n C"],
    labels: Integer[np.ndarray, "n"],
    wrong: Float[np.ndarray, "n"],
) -> Float[np.ndarray, "C C"]:
    """Estimated number of examples with given label (row) and true label (column).

    An example counts 1 - wrong in its own class; the rest is shared out by the predictions.
    """
    classes = probabilities.shape[1]
    rows = np.arange(len(labels))
    others = np.maximum(probabilities.astype(np.float64), 1e-9) ** 2
    others[rows, labels] = 0.0
    shares = others / others.sum(axis=1, keepdims=True) * wrong[:, None]
    shares[rows, labels] = 1.0 - wrong
    out = np.zeros((classes, classes))
    np.add.at(out, labels, shares)
    return out


def cuts(
    score: Float[np.ndarray, "n"],
    wrong: tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"], Float[np.ndarray, "n"]],
    count: int = 100,
) -> tuple[Cut, ...]:
    """What a cut at each of about `count` scores would hold, by falling score.

    Args:
      score: Of every example.
      wrong: Probabilities of a wrong label at the estimate's value, low and high end.
      count: Number of cuts, closer together where the score is high.
    """
    order = np.argsort(-score, kind="stable")
    n = len(order)
    sums = [np.cumsum(one[order]) for one in wrong]
    taken = np.unique((np.linspace(0, 1, count) ** 2 * (n - 1)).round().astype(int)) + 1
    out = []
    for k in taken.tolist():
        means = [total[k - 1] / k for total in sums]
        shares = [total[k - 1] / max(total[-1], 1e-12) for total in sums]
        out.append(Cut(float(score[order[k - 1]]), k, _estimate(means), _estimate(shares)))
    return tuple(out)


def _estimate(values: list) -> Estimate:
    value, *ends = (float(min(max(v, 0.0), 1.0)) for v in values)
    return Estimate(value, min(value, *ends), max(value, *ends))
