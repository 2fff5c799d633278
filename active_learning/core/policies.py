"""Policies: a score, a sampler, and the models they need. A policy is a value."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from active_learning.core import infobatch as infobatch_memory
from active_learning.core import pair_scores, scores, select


def stateless() -> tuple[()]:
    """The initial state of policies without one."""
    return ()


@dataclass(frozen=True)
class Policy:
    """How a super-batch becomes a sub-batch.

    Raises:
      ValueError: `reuse_forward` without the learner among `needs`, or with the online model.
    """

    # Name of the policy: for those of this module, the name of the attribute.
    name: str
    # score_fn(ScoreInputs, policy_state) -> (scores (B,), policy_state).
    score: Callable
    # sampler(key, scores, b) -> Selection.
    select: Callable = select.gumbel_top_k
    # Which of "learner", "online" and "reference" score the super-batch. None of them: the loader
    # draws b examples, and no super-batch exists.
    needs: tuple[str, ...] = ("online", "reference")
    # (outputs, batch) -> pytree of (B, ...): what the score reads of each model; None for l_act.
    observe: Callable | None = None
    # () -> the first policy state.
    init: Callable[[], Any] = stateless
    # Fraction of the pool that is trained on at all, chosen by the reference's loss before the
    # first update (1: all).
    pool_fraction: float = 1.0
    # (policy_state, batch, losses (b,)) -> policy_state, after each update: what a way of drawing
    # remembers of the losses that were trained on; None: nothing.
    remember: Callable | None = None
    # Probability with which a remembered example of below-average loss is left out of an epoch.
    prune_fraction: float = 0.0
    # The score reads what each candidate shows (`scores.ScoreInputs.concept`).
    reads_concepts: bool = False
    # The score reads embeddings of image-text pairs, which stay sharded over the devices.
    needs_embeddings: bool = False
    # `score` returns `PairScores` for a joint sampler; the task's loss must be a sum over pairs.
    is_joint: bool = False
    # The learner scores with the forward pass it trains with: in training mode on the augmented
    # view. Where `observe` is None it scores by l_learn.
    reuse_forward: bool = False

    def __post_init__(self):
        if self.reuse_forward and ("learner" not in self.needs or "online" in self.needs):
            raise ValueError(
                f"policy {self.name!r}: reuse_forward=True scores with the learner instead of the "
                f"online model, so needs={self.needs} must name 'learner' and not 'online'"
            )

    @property
    def reads_reference(self) -> bool:
        """Whether a reference is needed, at every step or once."""
        return "reference" in self.needs or self.pool_fraction < 1

    @property
    def uses_scorers(self) -> bool:
        """Whether a small model scores anything, at every step or once."""
        return bool(self.needs) or self.reads_reference

    @property
    def uses_online_and_reference(self) -> bool:
        """Whether both small models score, so that they can be compared with each other."""
        return {"online", "reference"} <= set(self.needs)


def no_score(inputs, policy_state):
    """The score of policies that select nothing during training; not to be called."""
    raise RuntimeError("this policy scores nothing")


uniform = Policy("uniform", no_score, needs=())
"""Uniform training: b examples in the order of the stream."""
learnability = Policy("learnability", scores.learnability)
"""ClassAct / ActiveCLIP (arXiv 2312.05328)."""
cautious_learnability = Policy(
    "cautious_learnability", partial(scores.learnability, reference_weight=2.0)
)
"""Learnability with the reference's loss counted twice, for data with many corrupted labels."""
class_centred_learnability = Policy(
    "class_centred_learnability", partial(scores.class_centred, reference_weight=2.0)
)
"""Cautious learnability less its mean over each class, for imbalanced classes."""
concept_balanced_learnability = Policy(
    "concept_balanced_learnability", scores.concept_balanced, reads_concepts=True
)
"""Learnability less the log frequency of the example's concept in the super-batch.

A concept is a class, for image-text pairs the word of `task.classes` that the captions name.
"""
hard = Policy("hard", scores.hard, needs=("online",))
"""The online model's loss, sampled."""
easy_reference = Policy("easy_reference", scores.easy_reference, needs=("reference",))
"""Minus the reference's loss, sampled."""
hard_learner = Policy(
    "hard_learner", partial(scores.hard, model="learner"), select.top_k, ("learner",)
)
"""The b largest losses of the learner itself (online batch selection by loss).

Costs (1 + 3 b/B) / 3 of training on all B.
"""
hard_learner_fused = replace(hard_learner, name="hard_learner_fused", reuse_forward=True)
"""`hard_learner` by the losses of the training pass (augmented view, training mode).

That pass is not run again for the selected rows: (1 + 2 b/B) / 3 of training on all B, in the
memory of training on all B.
"""
rho = Policy(
    "rho", partial(scores.learnability, model="learner"), select.top_k, ("learner", "reference")
)
"""RHO-LOSS (Mindermann et al., ICML 2022, arXiv 2206.07137): the b largest, by the learner."""
small_loss = Policy(
    "small_loss",
    partial(scores.small_loss, model="learner"),
    select.top_k,
    ("learner",),
    reuse_forward=True,
)
"""The b smallest losses of the learner's training pass (the small-loss trick; arXiv 1804.06872).

A control for mislabeled data; costs as `hard_learner_fused` does.
"""
gradient_norm = Policy(
    "gradient_norm",
    scores.gradient_norm,
    select.importance_gumbel_top_k,
    ("learner",),
    scores.error_norm,
)
"""Importance sampling by the last layer's gradient bound (arXiv 1803.00942), without replacement.

The weighted sub-batch gradient is unbiased at any temperature; T = 1 is the paper's.
"""
margin = Policy("margin", scores.margin, needs=("online",), observe=scores.logits)
"""Margin between the online model's two largest probabilities, sampled."""
entropy = Policy("entropy", scores.entropy, needs=("online",), observe=scores.logits)
"""Entropy of the online model's prediction, sampled (Settles 2012).

With the learner: `replace(entropy, score=partial(scores.entropy, model="learner"),
needs=("learner",))`.
"""
divbs = Policy("divbs", scores.divbs, select.top_k, ("learner",), scores.last_layer)
"""Diversified batch selection (Hong et al., ICML 2024). Deterministic.

The sub-batch spans most of the super-batch's mean gradient.
"""
pair_learnability = Policy(
    "pair_learnability",
    pair_scores.loss_learnability,
    observe=pair_scores.embeddings,
    needs_embeddings=True,
)
"""Learnability by each pair's contrastive loss among the super-batch, instead of its dot product.

Pairs are sampled one by one.
"""
s_cliploss = Policy(
    "s_cliploss",
    pair_scores.s_cliploss,
    needs=("reference",),
    observe=pair_scores.embeddings,
    needs_embeddings=True,
)
"""The reference's similarity normalized by those to all other pairs (arXiv 2405.19547)."""
joint = Policy(
    "joint",
    pair_scores.joint_learnability,
    partial(select.joint, chunks=16),
    observe=pair_scores.embeddings,
    needs_embeddings=True,
    is_joint=True,
)
"""JEST (arXiv 2406.17711, Algorithm 1), scored by the small models. Sigmoid loss only.

The sub-batch is selected as a whole, chunk by chunk, each by its learnability together with the
pairs selected before. Other chunks: `replace(joint, select=partial(select.joint, chunks=8,
first=0.25))`.
"""
joint_learner = replace(
    joint,
    name="joint_learner",
    score=partial(pair_scores.joint_learnability, model="learner"),
    needs=("learner", "reference"),
)
"""JEST with the learner as scorer, as in the paper."""
joint_learner_fused = replace(joint_learner, name="joint_learner_fused", reuse_forward=True)
"""`joint_learner` by the embeddings of the training pass, which is not run again.

The contrastive loss is evaluated again among the selected pairs only. With r = B/b an update costs
(r + 2) / 3 of a uniform one, and the reference's forward passes.
"""
joint_easy = replace(
    joint, name="joint_easy", score=pair_scores.joint_easy_reference, needs=("reference",)
)
"""As `joint`, by what the reference finds easy."""
offline_filter = Policy("offline_filter", no_score, needs=(), pool_fraction=0.5)
"""Uniform training on the half of the pool that the reference finds easiest, scored once.

Another fraction: `replace(offline_filter, pool_fraction=0.8)`.
"""
infobatch = Policy(
    "infobatch", no_score, needs=(), remember=infobatch_memory.remember, prune_fraction=0.5
)
"""InfoBatch (arXiv 2303.04947): uniform training that draws learnt examples less often.

Each epoch leaves out half of the examples whose remembered loss is below the mean, and the others
among them count twice; the last eighth of the run draws all. No model scores, nothing is charged.
"""

# Policies, scores, samplers and observers by the names a stored config may hold.
POLICIES: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        uniform, learnability, cautious_learnability, class_centred_learnability,
        concept_balanced_learnability, hard,
        easy_reference, hard_learner, hard_learner_fused, small_loss, infobatch, rho, gradient_norm,
        margin, entropy, divbs, pair_learnability, s_cliploss, joint, joint_learner,
        joint_learner_fused, joint_easy, offline_filter,
    )
}  # fmt: skip
SCORES: dict[str, Callable] = {
    no_score.__name__: no_score,
    **{
        score.__name__: score
        for score in (
            scores.learnability, scores.hard, scores.small_loss, scores.easy_reference,
            scores.class_centred, scores.concept_balanced,
            scores.entropy, scores.margin, scores.gradient_norm, scores.divbs,
            pair_scores.joint_learnability, pair_scores.joint_easy_reference,
            pair_scores.loss_learnability, pair_scores.s_cliploss,
        )
    },
}  # fmt: skip
SAMPLERS: dict[str, Callable] = {
    sampler.__name__: sampler
    for sampler in (
        select.gumbel_top_k,
        select.top_k,
        select.importance_gumbel_top_k,
        select.joint,
    )
}
OBSERVERS: dict[str, Callable] = {
    observer.__name__: observer
    for observer in (scores.logits, scores.last_layer, scores.error_norm, pair_scores.embeddings)
}
