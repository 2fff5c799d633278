"""What selection may cost under `select.until='auto'`: the rule on plain numbers.

On clean labels selection never earned its price at equal FLOPs, whatever the small models say of
their own progress; on corrupted labels it does, as long as the reference knows more than the
learner. So little is spent before there is a reason, a known fraction of corrupted labels is the
reason, and selection ends when the learner itself is as good as the reference.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from active_learning.tasks.base import LabelCheck

# Fraction of uniform's FLOPs that selection costs at most while there is no reason for it: the
# reference's training, the look at the labels, the updates with selection and the gate's passes.
UNPROVEN = 0.05
# The same of what is still to be paid where there is a reason: the reference is paid for then.
PROVEN = 0.10
# Corrupted fraction of the labels above which selection has a reason: NOISY where the whole
# interval lies above, PROBABLE where the estimate does and the model knows enough for it to mean
# something: it was asked about so many labels, and predicts them so far above chance.
NOISY, PROBABLE = 0.05, 0.10
ENOUGH_LABELS, ENOUGH_SIGNAL = 2000, 0.15
# Fractions of the run at which the learner is compared with the reference. Early ones, because a
# bad reference is overtaken soon.
LOOKS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32)


@dataclass(frozen=True)
class Opening:
    """What is decided before the first update.

    Attributes:
      decision: "select", "little" (at most UNPROVEN) or "none".
      reason: In words.
    """

    decision: str
    reason: str


def opening(labels: LabelCheck | None) -> Opening:
    """Decides from what is known of the labels; None: nothing is known."""
    if labels is None:
        return Opening("little", "nothing is known about the labels")
    if labels.agreement.low <= labels.chance:
        return Opening("none", "the reference predicts labels no better than chance")
    low, high = labels.corrupted.low, labels.corrupted.high
    estimate = f"{low:.0%} to {high:.0%} of the labels are corrupted"
    if labels.corrupted.low > NOISY:
        return Opening("select", estimate)
    if labels.corrupted.value > PROBABLE and _means_something(labels):
        return Opening("select", f"{estimate}, probably {labels.corrupted.value:.0%}")
    if labels.corrupted.high < NOISY:
        return Opening("none", estimate)
    return Opening("little", estimate)


def too_dear(price: float, until: str) -> bool:
    """Whether a reference costs more than may be spent before there is a reason.

    Args:
      price: What it costs before the first update, of uniform's FLOPs.
      until: Value of config.select.until.
    """
    return until == "auto" and price > UNPROVEN


def _means_something(labels: LabelCheck) -> bool:
    """Whether the estimate is more than an upper bound, as it is for weak models."""
    signal = (labels.agreement.value - labels.chance) / (1.0 - labels.chance)
    return labels.count >= ENOUGH_LABELS and signal > ENOUGH_SIGNAL


def look_steps(total: int) -> tuple[int, ...]:
    """Updates after which the learner is compared with the reference."""
    return tuple(sorted({max(1, round(fraction * total)) for fraction in LOOKS}))


def affordable(
    budget: float | int, update: float | int, looks: Sequence[int], look: float | int
) -> int:
    """Updates with selection that a budget pays for, with the looks among them.

    Args:
      budget: FLOPs.
      update: FLOPs of an update with selection beyond those of one without.
      looks: Updates after which there is a look, ascending; none after the last update.
      look: FLOPs of a look.
    """
    updates = 0
    for made, following in enumerate((*looks, math.inf)):
        paid = int((budget - made * look) / max(update, 1.0))
        updates = max(updates, int(min(following, paid)))
    return updates
