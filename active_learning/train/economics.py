"""When selection is worth its price: the rule behind `select.until='auto'`, on plain numbers.

A shadow, a model of the scorer's size, is trained uniformly on the super-batches that the online
model is trained on by selection. How much better the online model predicts held-out examples is
what selection gives; what uniform training would learn from the same FLOPs is what it costs.

The small models alone do not see when the learner has nothing to gain any more: it is larger and
learns faster. Selection therefore also ends when the learner is as good as the reference.

Spending more than UNPROVEN needs a proof, ending selection does not: a false proof costs a tenth of
the run, a false end costs a gain that can hardly be measured.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

# Fraction of uniform's FLOPs that is spent on selection before there is a reason to: the
# reference's training, the estimate of the noise and the trial together.
UNPROVEN = 0.05
# The trial lasts at least this fraction of the run, whatever the reference has cost.
SHORTEST_TRIAL = 0.01
# Comparisons in a trial; each is a test at LEVEL / LOOKS (Bonferroni).
LOOKS = 5
LEVEL = 0.05
BOUND = NormalDist().inv_cdf(1.0 - LEVEL / LOOKS)
# Comparisons in a row that end selection, if it does not pay in their mean (by more than one
# standard error).
RECENT = 3
# Corrupted fraction of the labels that is a reason by itself, where its interval lies above it;
# where the interval lies below it, nothing is tried.
NOISY = 0.05


def trial_steps(total: int, uniform: float, active: float, spent: float) -> int:
    """Updates with selection that fit into the unproven fraction.

    Args:
      total: Updates of the run.
      uniform: FLOPs of an update without selection.
      active: FLOPs of an update with selection, the shadow's included.
      spent: FLOPs spent on selection already.
    """
    left = UNPROVEN * total * uniform - spent
    return max(int(left / max(active - uniform, 1.0)), round(SHORTEST_TRIAL * total), 1)


def learning_rate_of(steps: list[int], values: list[float]) -> float:
    """Gain of a learning curve per unit of log updates, by least squares; at least 0.

    0 for fewer than two points.
    """
    if len(set(steps)) < 2:
        return 0.0
    x = np.log(np.asarray(steps, np.float64))
    return max(float(np.polyfit(x, np.asarray(values, np.float64), 1)[0]), 0.0)


@dataclass(frozen=True)
class Verdict:
    """What the comparisons so far say.

    Attributes:
      gain: Online less shadow, the mean over held-out examples and all comparisons.
      error: Its standard error over examples.
      recent, recent_error: The same of the last RECENT comparisons; None while there are fewer.
      price: Gain at which selection breaks even: what uniform training would learn from its FLOPs.
    """

    gain: float
    error: float
    recent: float | None
    recent_error: float | None
    price: float

    @property
    def pays(self) -> bool:
        """Whether the gain is above the price, beyond what chance explains."""
        return self.gain - self.price > BOUND * self.error

    @property
    def no_longer_pays(self) -> bool:
        """Whether the recent gain is below the price by more than its error."""
        return self.recent is not None and self.price - self.recent > self.recent_error


def mean_and_error(values: Float[np.ndarray, "k n"]) -> tuple[float, float]:
    """Mean of k comparisons of n examples, and its standard error over examples.

    Each example is averaged first, because the comparisons of one run are not independent. The
    error is at least one example's worth.
    """
    each = values.mean(axis=0)
    spread = float(each.std(ddof=1)) if len(each) > 1 else 1.0
    return float(each.mean()), max(float(spread / np.sqrt(len(each))), 1.0 / len(each))


class Comparisons:
    """Paired comparisons of two models on the same held-out examples, in the course of a run.

    Args:
      overhead: FLOPs of an update with selection over those of one without, less 1; without the
        shadow's, which is not needed to select.
    """

    def __init__(self, overhead: float):
        self.overhead = overhead
        self.steps: list[int] = []
        self.shadow: list[float] = []
        # Online less shadow by example, of each comparison.
        self.differences: list[np.ndarray] = []

    def add(
        self, step: int, online: Float[np.ndarray, "n"], shadow: Float[np.ndarray, "n"]
    ) -> Verdict:
        """Adds the two models' values of each example after `step` updates; higher is better."""
        self.differences.append(online - shadow)
        self.steps.append(step)
        self.shadow.append(float(shadow.mean()))
        every = np.stack(self.differences)
        recent = (None, None) if len(every) < RECENT else mean_and_error(every[-RECENT:])
        price = learning_rate_of(self.steps, self.shadow) * float(np.log1p(self.overhead))
        return Verdict(*mean_and_error(every), *recent, price)

    def as_dict(self) -> dict:
        """The comparisons as JSON types."""
        return {
            "steps": self.steps,
            "shadow": self.shadow,
            "differences": [one.tolist() for one in self.differences],
        }

    def restore(self, saved: dict) -> None:
        """Inverse of `as_dict`."""
        self.steps, self.shadow = list(saved["steps"]), list(saved["shadow"])
        self.differences = [np.asarray(one, np.float64) for one in saved["differences"]]
