"""Policies: a score, a way to select by it, and the models it needs. A policy is a value; config files import it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from active_learning.core import pair_scores, scores, select


def _stateless() -> tuple[()]:
    return ()


@dataclass(frozen=True)
class Policy:
    """How a super-batch becomes a sub-batch.

    score: `score_fn(ScoreInputs, policy_state) -> ((B,), policy_state)`; select: `select_fn(key, scores, b) -> Selection`;
    needs: which of "learner", "online", "reference" score the super-batch (none: the loader draws b examples, no super-batch exists);
    observe: `(outputs, batch) -> pytree of (B, ...)`, what the score reads of each model, None for the task's l_act;
    init: the first policy state; keep: share of the pool that trains at all, by the reference's loss, before the first update (1: all);
    pairs: what it reads are embeddings of image-text pairs, which stay sharded; joint: `score` returns `PairScores` for a joint `select`, so
    the task's loss must be a sum over pairs; reuse: the learner, alone, scores with the forward pass that it trains with.
    """

    name: str
    score: Callable
    select: Callable = select.gumbel_top_k
    needs: tuple[str, ...] = ("online", "reference")
    observe: Callable | None = None
    init: Callable[[], Any] = _stateless
    keep: float = field(default=1.0, metadata={"late": True})
    pairs: bool = field(default=False, metadata={"late": True})
    joint: bool = field(default=False, metadata={"late": True})
    reuse: bool = field(default=False, metadata={"late": True})

    @property
    def reads_reference(self) -> bool:
        """Whether a reference is needed, at every step or once."""
        return "reference" in self.needs or self.keep < 1


def _no_score(inputs, policy_state):
    raise RuntimeError("the uniform policy scores nothing")


uniform = Policy("uniform", _no_score, needs=())
"""Plain training: b examples in the order of the stream."""
learnability = Policy("learnability", scores.learnability)
"""ClassAct / ActiveCLIP (arXiv 2312.05328)."""
cautious_learnability = Policy(
    "cautious learnability", partial(scores.learnability, reference_weight=2.0)
)
"""Learnability with the reference's loss counted twice: for labels of which many are wrong."""
hard = Policy("hard", scores.hard, needs=("online",))
"""The online model's loss, sampled."""
easy_reference = Policy("easy_reference", scores.easy_reference, needs=("reference",))
"""What the reference finds easy, sampled."""
hard_learner = Policy(
    "hard_learner", partial(scores.hard, by="learner"), select.top_k, ("learner",)
)
"""The b largest of the learner's own losses (online batch selection by loss). Costs (1 + 3 b/B) / 3 of training on all B."""
hard_learner_once = replace(hard_learner, name="hard_learner, one forward pass", reuse=True)
"""The same choice by the losses of the training pass (augmented view, training mode), which is not run again for what was chosen:
(1 + 2 b/B) / 3 of training on all B, in the memory of training on all B."""
rho = Policy(
    "rho", partial(scores.learnability, by="learner"), select.top_k, ("learner", "reference")
)
"""RHO-LOSS (Mindermann et al., ICML 2022, arXiv 2206.07137): the learner scores, the b largest are taken."""
gradient_norm = Policy(
    "gradient_norm",
    scores.gradient_norm,
    select.importance_gumbel_top_k,
    ("learner",),
    scores.error_norm,
)
"""Importance sampling by the last layer's gradient bound (Katharopoulos and Fleuret, ICML 2018, arXiv 1803.00942), without replacement;
the weighted sub-batch gradient is unbiased at any temperature, and T = 1 is theirs."""
margin = Policy("margin", scores.margin, needs=("online",), observe=scores.logits)
entropy = Policy("entropy", scores.entropy, needs=("online",), observe=scores.logits)
"""Uncertainty of the online model, sampled (Settles 2012). With the learner: `replace(entropy, score=partial(scores.entropy,
by="learner"), needs=("learner",))`."""
divbs = Policy("divbs", scores.divbs, select.top_k, ("learner",), scores.last_layer)
"""Diversified batch selection (Hong et al., ICML 2024): the group that spans most of the super-batch's mean gradient. Deterministic."""
pair_learnability = Policy(
    "pair learnability", pair_scores.loss_learnability, observe=pair_scores.embeddings, pairs=True
)
"""Learnability by each pair's own contrastive loss among all of the super-batch, instead of its dot product; sampled one by one."""
joint = Policy(
    "joint",
    pair_scores.learnability,
    partial(select.joint, chunks=16),
    observe=pair_scores.embeddings,
    pairs=True,
    joint=True,
)
"""JEST (arXiv 2406.17711, Algorithm 1): the sub-batch is chosen as a whole, chunk by chunk, each by its learnability together with what is
chosen already. Sigmoid loss only. Other chunks: `replace(joint, select=partial(select.joint, chunks=8, first=0.25))`; with the learner, as in
the paper: `replace(joint, score=partial(pair_scores.learnability, by="learner"), needs=("learner", "reference"))`."""
joint_easy = Policy(
    "joint easy",
    pair_scores.easy_reference,
    partial(select.joint, chunks=16),
    ("reference",),
    pair_scores.embeddings,
    pairs=True,
    joint=True,
)
"""As `joint`, by what the reference finds easy."""
offline_filter = Policy("offline_filter", _no_score, needs=(), keep=0.5)
"""The half of the pool that the reference finds easiest, scored once; then plain training on it (the reference score above a quantile).
Another share: `replace(offline_filter, keep=0.8)`."""
