"""The ledger: five FLOP accounts and four clocks, charged for what runs.

Training is charged as forward and backward without the first layer's input gradient, which is never
computed; recomputation is recorded separately. `closed_form` follows the paper's convention (a
training step costs three forward passes); the accounts are checked against it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from active_learning.cost.accounts import ACCOUNTS


def total(costs: dict[str, float]) -> float:
    """Sum of the five accounts, without recomputation."""
    return float(sum(costs.get(account, 0.0) for account in ACCOUNTS))


def sum_flops(bills: Iterable[dict[str, float]]) -> dict[str, float]:
    """The accounts of several runs, added up."""
    out: dict[str, float] = {}
    for bill in bills:
        for account, value in bill.items():
            out[account] = out.get(account, 0.0) + value
    return out


@dataclass
class Ledger:
    """Cumulative costs of a run."""

    # FLOPs by account, and of recomputation.
    flops: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys((*ACCOUNTS, "recompute"), 0.0)
    )
    # Updates done.
    step: int = 0
    # Examples the learner was trained on.
    examples: int = 0
    # Examples the scorers saw.
    candidates: int = 0
    # Wall-clock time of training, without evaluation, checkpoints and compilation.
    train_seconds: float = 0.0
    # Updates with selection.
    window_steps: int = 0

    def charge(self, costs: Mapping[str, float], times: float | int = 1) -> None:
        """Adds `times` * `costs` to the accounts.

        Raises:
          KeyError: There is no account of that name.
        """
        for account, value in costs.items():
            self.flops[account] = self.flops[account] + times * value

    @property
    def total(self) -> float:
        """Sum of the five accounts, without recomputation."""
        return total(self.flops)

    def as_dict(self) -> dict:
        """The ledger as JSON types."""
        return {
            "step": self.step,
            "examples": self.examples,
            "candidates": self.candidates,
            "flops": dict(self.flops),
            "train_seconds": self.train_seconds,
            "window_steps": self.window_steps,
        }

    @classmethod
    def from_dict(cls, saved: dict) -> "Ledger":
        """Inverse of `as_dict`."""
        return cls(**saved)


def step_costs(
    learner: Any,
    scorer: Any,
    needs: tuple[str, ...],
    b: int,
    ratio: int,
    references: int = 1,
    cotrained: bool = False,
    reuse: bool = False,
    distill: bool = False,
    learner_scores: Any = None,
    reference: Any = None,
) -> dict[str, float]:
    """FLOPs of one update, by account.

    Args:
      learner: `flops.Cost` per example.
      scorer: `flops.Cost` per example of the online model, and of a reference of the same
        architecture.
      needs: Models that score (`Policy.needs`); none for uniform updates.
      b: Examples trained on.
      ratio: B / b.
      references: Reference models that score every candidate; 0 where their scores are stored.
      cotrained: The reference is also trained on all candidates.
      reuse: The learner scores with the forward pass it trains with (`Policy.reuse_forward`).
      distill: The reference runs on the examples trained on as well (`Recipe.distill`).
      learner_scores: `flops.Cost` per example of the learner's scoring pass; None: as `learner`.
      reference: `flops.Cost` per example of a frozen reference of another architecture.
    """
    costs = {"learner_train": b * learner.train, "recompute": b * learner.recompute}
    if "learner" in needs:
        costs["learner_train"] += (ratio - reuse) * b * (learner_scores or learner).forward
    if "online" in needs:
        costs["online_score"] = ratio * b * scorer.forward
        costs["online_train"] = b * scorer.train
        costs["recompute"] += b * scorer.recompute
    if "reference" in needs:
        each = scorer if reference is None else reference
        costs["reference_score"] = (references * ratio + distill) * b * each.forward
        if cotrained:
            costs["reference_train"] = ratio * b * scorer.train
            costs["recompute"] += ratio * b * scorer.recompute
    return costs


def closed_form(
    beta: float,
    window: float,
    r: float,
    ratio: float | int,
    kappa: float | int,
    *,
    scorers: int = 2,
) -> float:
    """C / C_uniform = beta + w [r + (ratio / 3) sum r_m] + kappa r, in the paper's 3F convention.

    Args:
      beta: Updates, over uniform's.
      window: w, updates with selection, over uniform's.
      r: Forward FLOPs of the scorer over the learner's.
      ratio: B / b.
      kappa: Examples the reference was trained on, over uniform's.
      scorers: Small models that score each candidate.
    """
    return beta + window * ((r if scorers else 0.0) + ratio / 3.0 * scorers * r) + kappa * r


def break_even(r: float, ratio: float | int, kappa: float | int, *, scorers: int = 2) -> float:
    """Largest beta that costs no more than uniform training; selection throughout (w = beta)."""
    return (1.0 - kappa * r) / closed_form(1.0, 1.0, r, ratio, 0.0, scorers=scorers)
