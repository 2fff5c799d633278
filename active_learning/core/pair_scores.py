"""Scores of image-text pairs that depend on the other pairs of the super-batch.

They are computed from embeddings; no (B, B) array exists.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from active_learning.core import contrastive, pair_gains
from active_learning.core.contrastive import Embeddings
from active_learning.core.scores import PolicyState, ScoreInputs, Scores
from active_learning.core.sharding import replicated

TILE = 1024  # Columns per block of the contrastive losses.


def embeddings(outputs: Embeddings, batch: dict[str, Array]) -> Embeddings:
    """What the scores in this module observe of a model: all of its outputs."""
    del batch
    return outputs


def _positive_terms(outputs: Embeddings) -> Float[Array, "B"]:
    """softplus(-x_ii): what a pair's own text adds to the sigmoid loss."""
    negative_dot = contrastive.negative_dot(outputs.image, outputs.text)
    return jax.nn.softplus(outputs.scale[0] * negative_dot - outputs.bias[0])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SigmoidPairScores:
    """gain * (sigmoid loss of `hard` - sigmoid loss of `easy`) for every pair (i, j) of the batch.

    Its sum over a sub-batch, divided by b, is the sub-batch's learnability. It implements
    `select.PairScores`.
    """

    # Embeddings, or None to leave this model out.
    hard: Any
    # Embeddings, or None to leave this model out.
    easy: Any
    # Factor of all scores, 1 / temperature.
    gain: Any = 1.0
    # The devices over which the candidates are split, None on one device.
    mesh: Mesh | None = field(default=None, metadata={"static": True})

    def diag(self) -> Float[Array, "B"]:
        """Scores of the pairs (i, i)."""
        hard = 0.0 if self.hard is None else _positive_terms(self.hard)
        scores = self.gain * (hard - (0.0 if self.easy is None else _positive_terms(self.easy)))
        if self.mesh is None:
            return scores
        # Whole on every device, like the gains that are added to it.
        return jax.lax.with_sharding_constraint(scores, replicated(self.mesh))

    def gains(self, selected: int) -> Callable[[Int[Array, "n"]], Float[Array, "B"]]:
        """What newly selected pairs add to the score of every other one, taken as negatives."""
        both = [(one, sign) for one, sign in ((self.hard, 1), (self.easy, -1)) if one is not None]
        models, signs = zip(*both, strict=True)
        sums = pair_gains.gains(list(models), signs, self.mesh, selected)
        return lambda new: self.gain * sums(new)


def joint_learnability(
    inputs: ScoreInputs, policy_state: PolicyState, model: str = "online"
) -> tuple[SigmoidPairScores, PolicyState]:
    """Sigmoid loss of `model` less the reference's, for every pair (i, j) (JEST, 2406.17711)."""
    pairs = SigmoidPairScores(getattr(inputs, model), inputs.reference, mesh=inputs.mesh)
    return jax.lax.stop_gradient(pairs), policy_state


def joint_easy_reference(
    inputs: ScoreInputs, policy_state: PolicyState
) -> tuple[SigmoidPairScores, PolicyState]:
    """Minus the reference's sigmoid loss, for every pair (i, j)."""
    pairs = SigmoidPairScores(None, inputs.reference, mesh=inputs.mesh)
    return jax.lax.stop_gradient(pairs), policy_state


def _loss(outputs: Embeddings, loss: str) -> Scores:
    """Contrastive loss of each pair among the whole super-batch."""
    size = outputs.image.shape[0]
    chunk = TILE if size % TILE == 0 else 0
    scale, bias = outputs.scale[0], outputs.bias[0]
    if loss == "softmax":
        return contrastive.info_nce(outputs.image, outputs.text, scale, chunk=chunk)
    return contrastive.sigmoid(outputs.image, outputs.text, scale, bias, chunk=chunk)


def loss_learnability(
    inputs: ScoreInputs, policy_state: PolicyState, model: str = "online", loss: str = "softmax"
) -> tuple[Scores, PolicyState]:
    """Contrastive loss of each pair among the super-batch, of `model` less the reference's.

    Any sign. `loss`: "softmax" or "sigmoid".
    """
    difference = _loss(getattr(inputs, model), loss) - _loss(inputs.reference, loss)
    return jax.lax.stop_gradient(difference), policy_state


def s_cliploss(inputs: ScoreInputs, policy_state: PolicyState) -> tuple[Scores, PolicyState]:
    """Reference similarity less how similar the pair is to all others (arXiv 2405.19547).

    image_i . text_i - (log-mean-exp over the images + log-mean-exp over the texts) / (2 scale),
    up to a constant: minus the softmax loss of the pair among the super-batch, over the scale. A
    caption that fits many images then scores low, which the plain similarity does not see.
    """
    outputs = inputs.reference
    return jax.lax.stop_gradient(-_loss(outputs, "softmax") / outputs.scale[0]), policy_state


def tempered(values: Scores | SigmoidPairScores, temperature: float) -> Scores | SigmoidPairScores:
    """Scores / temperature."""
    if isinstance(values, SigmoidPairScores):
        return replace(values, gain=values.gain / temperature)
    return values / temperature


def per_example(values: Scores | SigmoidPairScores) -> Scores:
    """Each candidate's score by itself: the diagonal of pair scores."""
    return values.diag() if isinstance(values, SigmoidPairScores) else values
