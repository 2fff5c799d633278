"""When selection is worth its price: the rule behind `select.until='auto'`, on plain numbers.

A shadow, a model of the scorer's size, is trained uniformly on the super-batches that the online
model is trained on by selection. How much better the online model predicts held-out examples is
what selection gives; what uniform training would learn from the same FLOPs is what it costs.
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
      gain: Online less shadow, the mean over held-out examples and comparisons.
      error: Its standard error over examples.
      price: Gain at which selection breaks even: what uniform training would learn from its FLOPs.
    """

    gain: float
    error: float
    price: float

    @property
    def pays(self) -> bool:
        """Whether the gain is above the price, beyond what chance explains."""
        return self.gain - self.price > BOUND * self.error

    @property
    def does_not_pay(self) -> bool:
        """Whether it is below the price, beyond what chance explains."""
        return self.price - self.gain > BOUND * self.error


class Comparisons:
    """Paired comparisons of two models on the same held-out examples, in the course of a run.

    Each example's difference is averaged over the comparisons before the error is taken over
    examples, because those of one run are not independent.

    Args:
      overhead: FLOPs of an update with selection over those of one without, less 1; without the
        shadow's, which is not needed to select.
    """

    def __init__(self, overhead: float):
        self.overhead = overhead
        self.steps: list[int] = []
        self.shadow: list[float] = []
        self.sums: np.ndarray | None = None

    def add(
        self, step: int, online: Float[np.ndarray, "n"], shadow: Float[np.ndarray, "n"]
    ) -> Verdict:
        """Adds the two models' values of each example (higher is better) after `step` updates."""
        difference = online - shadow
        self.sums = difference if self.sums is None else self.sums + difference
        self.steps.append(step)
        self.shadow.append(float(shadow.mean()))
        mean = self.sums / len(self.steps)
        # At least one example's worth: models that agree on few examples are not known to be equal.
        error = max(float(mean.std(ddof=1) / np.sqrt(len(mean))), 1.0 / len(mean))
        price = learning_rate_of(self.steps, self.shadow) * float(np.log1p(self.overhead))
        return Verdict(float(mean.mean()), error, price)

    def as_dict(self) -> dict:
        """The comparisons as JSON types."""
        sums = None if self.sums is None else self.sums.tolist()
        return {"steps": self.steps, "shadow": self.shadow, "sums": sums}

    def restore(self, saved: dict) -> None:
        """Inverse of `as_dict`."""
        self.steps, self.shadow = list(saved["steps"]), list(saved["shadow"])
        self.sums = None if saved["sums"] is None else np.asarray(saved["sums"], np.float64)
