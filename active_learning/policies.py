"""Policies: a score, a way to select by it, and the models it needs. A policy is a value; config files import it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from active_learning import scores, select


def _stateless() -> tuple[()]:
    return ()


@dataclass(frozen=True)
class Policy:
    """How a super-batch becomes a sub-batch.

    score: `score_fn(ScoreInputs, policy_state) -> ((B,), policy_state)`; select: `select_fn(key, scores, b) -> Selection`;
    needs: which of "learner", "online", "reference" score the super-batch (none: the loader draws b examples, no super-batch exists);
    observe: `(outputs, batch) -> pytree of (B, ...)`, what the score reads of each model, None for the task's l_act;
    init: the first policy state.
    """

    name: str
    score: Callable
    select: Callable = select.gumbel_top_k
    needs: tuple[str, ...] = ("online", "reference")
    observe: Callable | None = None
    init: Callable[[], Any] = _stateless


def _no_score(inputs, policy_state):
    raise RuntimeError("the uniform policy scores nothing")


uniform = Policy("uniform", _no_score, needs=())
"""Plain training: b examples in the order of the stream."""
learnability = Policy("learnability", scores.learnability)
"""ClassAct / ActiveCLIP (arXiv 2312.05328)."""
cautious_learnability = Policy("cautious learnability", partial(scores.learnability, reference_weight=2.0))
"""Learnability with the reference's loss counted twice: for labels of which many are wrong."""
hard = Policy("hard", scores.hard, needs=("online",))
easy_reference = Policy("easy_reference", scores.easy_reference, needs=("reference",))
