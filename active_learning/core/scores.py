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
    """What each model said of the B candidates; None where the policy does not need the model. `b`: how many will be chosen."""

    learner: Any = None
    online: Any = None
    reference: Any = None
    b: Any = None  # int


def _score(values: Float[Array, "B"]) -> Scores:
    return jax.lax.stop_gradient(values.astype(jnp.float32))


def learnability(
    inputs: ScoreInputs,
    policy_state: PolicyState,
    reference_weight: float = 1.0,
    by: str = "online",
) -> tuple[Scores, PolicyState]:
    """l_act(x | online) - l_act(x | reference): hard for the one, easy for the other (Eq. 4-5 of arXiv 2312.05328). Any sign.

    `by="learner"` scores with the learner instead, which is RHO-LOSS (arXiv 2206.07137).

    `reference_weight` > 1 trusts the reference more than the paper does: what both models find hard (most of it mislabelled) then scores
    below 0 instead of near it.
    """
    return _score(getattr(inputs, by)) - reference_weight * _score(inputs.reference), policy_state


def hard(
    inputs: ScoreInputs, policy_state: PolicyState, by: str = "online"
) -> tuple[Scores, PolicyState]:
    """l_act(x | model): what the model still gets wrong, noise included. Non-negative for cross-entropy."""
    return _score(getattr(inputs, by)), policy_state


def easy_reference(inputs: ScoreInputs, policy_state: PolicyState) -> tuple[Scores, PolicyState]:
    """- l_act(x | reference): what a trained model finds easy. Non-positive for cross-entropy."""
    return -_score(inputs.reference), policy_state


def logits(outputs: dict[str, Array], batch: dict[str, Array]) -> Float[Array, "B C"]:
    """What the uncertainty scores observe of a model."""
    del batch
    return outputs["logits"].astype(jnp.float32)


def entropy(
    inputs: ScoreInputs, policy_state: PolicyState, by: str = "online"
) -> tuple[Scores, PolicyState]:
    """Entropy of the model's prediction, in nats, in [0, log C]; the label is not read (Settles, Active Learning, 2012). Observes `logits`."""
    log_p = jax.nn.log_softmax(getattr(inputs, by))
    return _score(-jnp.sum(jnp.exp(log_p) * log_p, axis=-1)), policy_state


def margin(
    inputs: ScoreInputs, policy_state: PolicyState, by: str = "online"
) -> tuple[Scores, PolicyState]:
    """Second largest probability less the largest, in [-1, 0] (Scheffer et al. 2001). Observes `logits`."""
    largest = jax.lax.top_k(jax.nn.softmax(getattr(inputs, by)), 2)[0]
    return _score(largest[:, 1] - largest[:, 0]), policy_state


def last_layer(outputs: dict[str, Array], batch: dict[str, Array]) -> dict[str, Array]:
    """The gradient of cross-entropy with respect to the last layer's weights is error (B, C) times features (B, D)^T, example by example."""
    said = outputs["logits"].astype(jnp.float32)
    error = jax.nn.softmax(said) - jax.nn.one_hot(batch["label"], said.shape[-1])
    return {"error": error, "features": outputs["features"].astype(jnp.float32)}


def error_norm(outputs: dict[str, Array], batch: dict[str, Array]) -> Float[Array, "B"]:
    """|softmax(logits) - onehot(label)|, in [0, sqrt 2): up to a constant a bound of the norm of the example's whole gradient."""
    return jnp.linalg.norm(
        last_layer(outputs | {"features": outputs["logits"]}, batch)["error"], axis=-1
    )


def gradient_norm(
    inputs: ScoreInputs, policy_state: PolicyState, by: str = "learner"
) -> tuple[Scores, PolicyState]:
    """log of the last layer's bound, so that softmax samples in proportion to it: the variance of the importance-weighted gradient is
    then the least among samplings that know only the bound (Katharopoulos and Fleuret 2018, arXiv 1803.00942). Observes `error_norm`."""
    return _score(jnp.log(jnp.maximum(getattr(inputs, by), 1e-6))), policy_state


def divbs(
    inputs: ScoreInputs, policy_state: PolicyState, by: str = "learner"
) -> tuple[Scores, PolicyState]:
    """b for the first example that is picked, b - 1 for the second, ..., 0 for the others (DivBS, Hong et al., ICML 2024).

    Picked, one after the other, is the example whose last-layer gradient has the largest product with what the span of those picked
    before does not yet hold of the super-batch's mean gradient (orthogonal matching pursuit). Gradients are outer products, so their
    products need no (B, C D) array: 2 B C D + B b (C + D + b) multiply-adds, not charged by the ledger. Observes `last_layer`.
    """
    said = jax.lax.stop_gradient(getattr(inputs, by))
    error, features = said["error"], said["features"]
    size, count = error.shape[0], inputs.b
    mean = error.T @ features / size
    left = jnp.sum((error @ mean) * features, axis=-1)  # <gradient, residual of the mean gradient>

    def pick(k, carry):
        left, basis, scores = carry  # basis (B, b): gradients in the orthonormal basis of the span
        row = jnp.argmax(jnp.where(scores > 0, -1.0, jnp.abs(left)))
        products = jnp.sum(error * error[row][None], axis=-1) * jnp.sum(
            features * features[row][None], axis=-1
        )
        column = products - jnp.sum(basis * basis[row][None], axis=-1)
        length = jnp.sqrt(jnp.maximum(column[row], 0.0))
        new = length > 1e-4 * jnp.sqrt(products[row])  # else in the span already: nothing to remove
        along = jnp.where(new, column / jnp.where(new, length, 1.0), 0.0)
        left = left - along * jnp.where(new, left[row] / jnp.where(new, length, 1.0), 0.0)
        return left, basis.at[:, k].set(along), scores.at[row].set(count - k)

    start = (left, jnp.zeros((size, count), jnp.float32), jnp.zeros((size,), jnp.float32))
    return _score(jax.lax.fori_loop(0, count, pick, start)[2]), policy_state


def standardize(scores: Scores) -> Scores:
    """Scores of mean 0 and standard deviation 1 over the super-batch; constant scores become 0."""
    centred = scores - jnp.mean(scores)
    return centred / jnp.maximum(jnp.std(scores), 1e-6)


def effective_share(scores: Scores) -> Float[Array, ""]:
    """Effective sample size of softmax(scores) over B, in (1/B, 1]; 1 means that the sampling is uniform."""
    p = jax.nn.softmax(scores)
    return 1.0 / (scores.shape[0] * jnp.sum(p * p))
