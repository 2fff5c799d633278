"""What a reference that is no model said before the first update."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from active_learning.tasks.base import LabelCheck


@dataclass(frozen=True)
class Known:
    """What is known of a reference whose scores are stored; empty for others.

    Attributes:
      gate: Its metrics on the gate.
      labels: What it says about the labels of the pool.
      final: Its metrics on the evaluation sets, as `references.Obtained.metrics`.
      seconds: What it took.
    """

    gate: dict[str, float] | None = None
    labels: LabelCheck | None = None
    final: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
