"""Pure score functions: score inputs of the super-batch -> (B,) float32, higher = train on it.

A score function has the signature `score_fn(inputs, policy_state) -> (scores, policy_state)`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

PolicyState = Any
Scores = Float[Array, "B"]


class ScoreInputs(NamedTuple):
    """Per-model score inputs for the B candidates; None for models the policy does not use.

    A model's input is its per-example loss (B,), or what the policy's `observe` reads, computed in
    eval mode without augmentation.
    """

    learner: Any = None
    online: Any = None
    reference: Any = None
    # Class numbers (B,) as trained on, None where the candidates have none.
    label: Any = None
    # What each candidate shows (B,): a number for the class word its captions name, else its class.
    concept: Any = None
    # Number of candidates that will be selected (int).
    b: Any = None
    # Devices over which embeddings are split (Mesh), None on one device.
    mesh: Any = None


def _score(values: Float[Array, "B"]) -> Scores:
    return jax.lax.stop_gradient(values.astype(jnp.float32))


def learnability(
    inputs: ScoreInputs,
    policy_state: PolicyState,
    reference_weight: float = 1.0,
    model: str = "online",
) -> tuple[Scores, PolicyState]:
    """l_act(x | model) - l_act(x | reference) (Eq. 4-5 of arXiv 2312.05328). Any sign.

    Args:
      inputs: Losses of `model` and of the reference.
      policy_state: Returned as it is.
      reference_weight: Factor of the reference's loss. Above 1, examples that both models find
        hard (most of them mislabeled) score below 0 instead of near it.
      model: "online", or "learner" for RHO-LOSS (arXiv 2206.07137).
    """
    reference = _score(inputs.reference)
    return _score(getattr(inputs, model)) - reference_weight * reference, policy_state


def hard(
    inputs: ScoreInputs, policy_state: PolicyState, model: str = "online"
) -> tuple[Scores, PolicyState]:
    """l_act(x | model): examples the model still gets wrong, label noise included.

    Non-negative for cross-entropy.
    """
    return _score(getattr(inputs, model)), policy_state


def small_loss(
    inputs: ScoreInputs, policy_state: PolicyState, model: str = "learner"
) -> tuple[Scores, PolicyState]:
    """-l_act(x | model): examples the model already gets right. Non-positive for cross-entropy."""
    return -_score(getattr(inputs, model)), policy_state


def easy_reference(inputs: ScoreInputs, policy_state: PolicyState) -> tuple[Scores, PolicyState]:
    """-l_act(x | reference): easy for a trained model. Non-positive for cross-entropy."""
    return -_score(inputs.reference), policy_state


def class_centred(
    inputs: ScoreInputs,
    policy_state: PolicyState,
    score: Callable[..., tuple[Scores, PolicyState]] = learnability,
    **options: Any,
) -> tuple[Scores, PolicyState]:
    """`score(inputs, policy_state, **options)` less the mean score of the example's class.

    The mean is taken over the super-batch, so that frequent or easy classes do not crowd out the
    others. Needs class labels.

    Raises:
      ValueError: The candidates have no labels.
    """
    if inputs.label is None:
        raise ValueError("class_centred: the super-batch has no 'label', so it has no classes")
    values, policy_state = score(inputs, policy_state, **options)
    size = values.shape[0]
    classes = jnp.unique(inputs.label, return_inverse=True, size=size)[1]
    sums = jnp.zeros((size,)).at[classes].add(values)
    counts = jnp.zeros((size,)).at[classes].add(1.0)
    return _score(values - (sums / jnp.maximum(counts, 1.0))[classes]), policy_state


def concept_balanced(
    inputs: ScoreInputs,
    policy_state: PolicyState,
    score: Callable[..., tuple[Scores, PolicyState]] = learnability,
    weight: float = 1.0,
    **options: Any,
) -> tuple[Scores, PolicyState]:
    """`score(inputs, policy_state, **options)` less `weight` * log of the concept's frequency.

    Frequencies are counted in the super-batch. With `weight` equal to the temperature, candidates
    of equal score are drawn such that every concept comes equally often, whatever its frequency
    (the composition of CABS, concept-aware batch sampling).

    Raises:
      ValueError: The candidates have neither concepts nor labels.
    """
    if inputs.concept is None:
        raise ValueError("concept_balanced: the super-batch has neither 'concept' nor 'label'")
    values, policy_state = score(inputs, policy_state, **options)
    size = inputs.concept.shape[0]
    concepts = jnp.unique(inputs.concept, return_inverse=True, size=size)[1]
    counts = jnp.zeros((size,)).at[concepts].add(1.0)
    return _score(values - weight * jnp.log(counts[concepts])), policy_state


def logits(outputs: dict[str, Array], batch: dict[str, Array]) -> Float[Array, "B C"]:
    """What the uncertainty scores observe of a model."""
    del batch
    return outputs["logits"].astype(jnp.float32)


def entropy(
    inputs: ScoreInputs, policy_state: PolicyState, model: str = "online"
) -> tuple[Scores, PolicyState]:
    """Entropy of the model's prediction, in nats, in [0, log C] (Settles, 2012).

    The label is not read. Observes `logits`.
    """
    log_p = jax.nn.log_softmax(getattr(inputs, model))
    return _score(-jnp.sum(jnp.exp(log_p) * log_p, axis=-1)), policy_state


def margin(
    inputs: ScoreInputs, policy_state: PolicyState, model: str = "online"
) -> tuple[Scores, PolicyState]:
    """Second largest probability less the largest, in [-1, 0] (Scheffer et al. 2001).

    Observes `logits`.
    """
    largest = jax.lax.top_k(jax.nn.softmax(getattr(inputs, model)), 2)[0]
    return _score(largest[:, 1] - largest[:, 0]), policy_state


def last_layer(outputs: dict[str, Array], batch: dict[str, Array]) -> dict[str, Array]:
    """Factors of the gradient of cross-entropy with respect to the last layer's weights.

    Per example it is the outer product of `error` (B, C) and `features` (B, D).
    """
    logits = outputs["logits"].astype(jnp.float32)
    error = jax.nn.softmax(logits) - jax.nn.one_hot(batch["label"], logits.shape[-1])
    return {"error": error, "features": outputs["features"].astype(jnp.float32)}


def error_norm(outputs: dict[str, Array], batch: dict[str, Array]) -> Float[Array, "B"]:
    """|softmax(logits) - onehot(label)|, in [0, sqrt 2).

    Up to a constant it bounds the norm of the example's whole gradient.
    """
    return jnp.linalg.norm(
        last_layer(outputs | {"features": outputs["logits"]}, batch)["error"], axis=-1
    )


def gradient_norm(
    inputs: ScoreInputs, policy_state: PolicyState, model: str = "learner"
) -> tuple[Scores, PolicyState]:
    """Logarithm of the last layer's gradient bound, so that softmax samples in proportion to it.

    The variance of the importance-weighted gradient is then the least among samplings that know
    only the bound (Katharopoulos and Fleuret 2018, arXiv 1803.00942). Observes `error_norm`.
    """
    return _score(jnp.log(jnp.maximum(getattr(inputs, model), 1e-6))), policy_state


def divbs(
    inputs: ScoreInputs, policy_state: PolicyState, model: str = "learner"
) -> tuple[Scores, PolicyState]:
    """Ranks by DivBS: b for the first example picked, b - 1 for the second, ..., 0 for the rest.

    DivBS (Hong et al., ICML 2024) picks one example after the other: the one whose last-layer
    gradient has the largest product with the residual of the super-batch's mean gradient, that is,
    with its component outside the span of the examples picked before (orthogonal matching
    pursuit). Gradients are outer products, so their products need no (B, C D) array:
    2 B C D + B b (C + D + b) multiply-adds, not charged by the ledger. Observes `last_layer`.
    """
    factors = jax.lax.stop_gradient(getattr(inputs, model))
    error, features = factors["error"], factors["features"]
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
        # A gradient that lies in the span already removes nothing from the residual.
        new = length > 1e-4 * jnp.sqrt(products[row])
        along = jnp.where(new, column / jnp.where(new, length, 1.0), 0.0)
        left = left - along * jnp.where(new, left[row] / jnp.where(new, length, 1.0), 0.0)
        return left, basis.at[:, k].set(along), scores.at[row].set(count - k)

    start = (left, jnp.zeros((size, count), jnp.float32), jnp.zeros((size,), jnp.float32))
    return _score(jax.lax.fori_loop(0, count, pick, start)[2]), policy_state


def standardize(scores: Scores) -> Scores:
    """Scores of mean 0 and standard deviation 1 over the super-batch; constant scores become 0."""
    centred = scores - jnp.mean(scores)
    return centred / jnp.maximum(jnp.std(scores), 1e-6)


def ess_fraction(scores: Scores) -> Float[Array, ""]:
    """Effective sample size of softmax(scores) over B, in (1/B, 1]; 1 means uniform sampling."""
    p = jax.nn.softmax(scores)
    return 1.0 / (scores.shape[0] * jnp.sum(p * p))
