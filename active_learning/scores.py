"""Pure score functions: what each model said of the super-batch -> (B,) float32, higher = train on it.

A score function has the signature `score_fn(inputs, policy_state) -> (scores, policy_state)`. `inputs` holds, for each model the policy
needs, its per-example losses (or whatever the policy observes), computed in evaluation mode on the plain view; None for the others.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

PolicyState = Any
Scores = Float[Array, "B"]


class ScoreInputs(NamedTuple):
    """What each model said of the B candidates; None where the policy does not need the model."""

    learner: Any = None
    online: Any = None
    reference: Any = None


def _score(values: Float[Array, "B"]) -> Scores:
    return jax.lax.stop_gradient(values.astype(jnp.float32))


def learnability(
    inputs: ScoreInputs, policy_state: PolicyState, reference_weight: float = 1.0
) -> tuple[Scores, PolicyState]:
    """l_act(x | online) - l_act(x | reference): hard for the one, easy for the other (Eq. 4-5 of arXiv 2312.05328). Any sign.

    `reference_weight` > 1 trusts the reference more than the paper does: what both models find hard (most of it mislabelled) then scores
    below 0 instead of near it.
    """
    return _score(inputs.online) - reference_weight * _score(inputs.reference), policy_state


def hard(inputs: ScoreInputs, policy_state: PolicyState) -> tuple[Scores, PolicyState]:
    """l_act(x | online): what the online model still gets wrong, noise included. Non-negative for cross-entropy."""
    return _score(inputs.online), policy_state


def easy_reference(inputs: ScoreInputs, policy_state: PolicyState) -> tuple[Scores, PolicyState]:
    """- l_act(x | reference): what a trained model finds easy. Non-positive for cross-entropy."""
    return -_score(inputs.reference), policy_state


def standardize(scores: Scores) -> Scores:
    """Scores of mean 0 and standard deviation 1 over the super-batch; constant scores become 0."""
    centred = scores - jnp.mean(scores)
    return centred / jnp.maximum(jnp.std(scores), 1e-6)


def effective_share(scores: Scores) -> Float[Array, ""]:
    """Effective sample size of softmax(scores) over B, in (1/B, 1]; 1 means that the sampling is uniform."""
    p = jax.nn.softmax(scores)
    return 1.0 / (scores.shape[0] * jnp.sum(p * p))
