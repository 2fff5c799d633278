"""The ledger: five accounts of FLOPs and four clocks, charged for what runs.

Forward + backward without the first layer's input gradient (never computed); recomputation (remat) in a column of its own. `closed_form`
is the paper's convention (a training step costs three forward passes), and what the accounts are checked against.
"""

from dataclasses import dataclass, field

from active_learning.cost.accounts import ACCOUNTS


def total(costs: dict[str, float]) -> float:
    """FLOPs of the five accounts together; recomputation is in no total."""
    return float(sum(costs.get(account, 0.0) for account in ACCOUNTS))


@dataclass
class Ledger:
    """Cumulative FLOPs by account, examples the learner saw, candidates the scorers saw, seconds of training."""

    flops: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys((*ACCOUNTS, "recompute"), 0.0)
    )
    step: int = 0
    examples: int = 0
    candidates: int = 0
    train_seconds: float = 0.0
    window_steps: int = 0

    def charge(self, costs: dict[str, float], times: float | int = 1) -> None:
        """Adds FLOPs to accounts; KeyError for an account that does not exist."""
        for account, value in costs.items():
            self.flops[account] = self.flops[account] + times * value

    @property
    def total(self) -> float:
        return total(self.flops)

    def as_dict(self) -> dict:
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
        return cls(**saved)


def step_costs(
    learner,
    scorer,
    needs: tuple[str, ...],
    b: int,
    ratio: int,
    reference: str = "trained",
    reuse: bool = False,
) -> dict[str, float]:
    """FLOPs of one update, by account. `learner`, `scorer`: `flops.Cost` per example; `needs`: the policy's scorers (none: uniform).

    `reference`: its kind. Stored scores cost nothing here, two cross-fitted references score twice, a co-trained one also trains on B. `reuse`:
    the learner scores with the forward pass that it trains with.
    """
    costs = {"learner_train": b * learner.train, "recompute": b * learner.recompute}
    if "learner" in needs:
        costs["learner_train"] += (ratio - reuse) * b * learner.forward
    if "online" in needs:
        costs["online_score"] = ratio * b * scorer.forward
        costs["online_train"] = b * scorer.train
        costs["recompute"] += b * scorer.recompute
    if "reference" in needs:
        costs["reference_score"] = ratio * b * scorer.forward
        costs["reference_score"] *= {"stored": 0, "crossfitted": 2}.get(reference, 1)
        if reference == "cotrained":
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

    beta: updates over uniform's; window w: updates inside the window over uniform's; r: scorer's forward FLOPs over the learner's in
    training; kappa: examples the reference was trained on over uniform's.
    """
    return beta + window * ((r if scorers else 0.0) + ratio / 3.0 * scorers * r) + kappa * r


def break_even(r: float, ratio: float | int, kappa: float | int, *, scorers: int = 2) -> float:
    """The largest beta that costs no more than uniform training, selection on throughout (w = beta)."""
    return (1.0 - kappa * r) / closed_form(1.0, 1.0, r, ratio, 0.0, scorers=scorers)
