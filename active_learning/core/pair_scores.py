"""Scores of image-text pairs that depend on the other pairs of the super-batch: from embeddings, never as a (B, B) array."""

from dataclasses import dataclass, replace
from typing import Any

import jax
from jaxtyping import Array, Float, Int

from active_learning.core import contrastive
from active_learning.core.contrastive import Embeddings
from active_learning.core.scores import PolicyState, ScoreInputs, Scores

TILE = 1024  # columns of a block of the contrastive losses


def embeddings(outputs: Embeddings, batch: dict[str, Array]) -> Embeddings:
    """What these scores observe of a model: all that it says."""
    del batch
    return outputs


def _terms(
    said: Embeddings, rows: Int[Array, "R"] | None, columns: Int[Array, "C"] | None
) -> Float[Array, "R C"]:
    """softplus(x_ij), what texts j that are not image i's own add to the sigmoid loss."""
    image = said.image if rows is None else said.image[rows]
    text = said.text if columns is None else said.text[columns]
    return jax.nn.softplus(said.scale[0] * contrastive.products(image, text) + said.bias[0])


def _own(said: Embeddings) -> Float[Array, "B"]:
    """softplus(-x_ii), what a pair's own text adds."""
    return jax.nn.softplus(said.scale[0] * contrastive.dot(said.image, said.text) - said.bias[0])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PairScores:
    """Sigmoid loss of `hard` less that of `easy`, for every pair (i, j) of the super-batch, times `gain` (None: that model is left out).

    The sum of it over a sub-batch, divided by b, is the sub-batch's learnability.
    """

    hard: Any  # Embeddings
    easy: Any  # Embeddings
    gain: Any = 1.0

    def diag(self) -> Float[Array, "B"]:
        """Scores of the pairs (i, i)."""
        return self._difference(_own)

    def block(
        self, rows: Int[Array, "R"] | None, columns: Int[Array, "C"] | None
    ) -> Float[Array, "R C"]:
        """Scores of the pairs (i, j), i in rows and j in columns (None: all), as if i and j were always different."""
        return self._difference(lambda said: _terms(said, rows, columns))

    def _difference(self, of) -> Array:
        positive = 0.0 if self.hard is None else of(self.hard)
        return self.gain * (positive - (0.0 if self.easy is None else of(self.easy)))


def learnability(
    inputs: ScoreInputs, policy_state: PolicyState, by: str = "online"
) -> tuple[PairScores, PolicyState]:
    """Of each pair (i, j) the sigmoid loss of the online model (or of `by`) less the reference's (JEST, arXiv 2406.17711)."""
    return jax.lax.stop_gradient(PairScores(getattr(inputs, by), inputs.reference)), policy_state


def easy_reference(
    inputs: ScoreInputs, policy_state: PolicyState
) -> tuple[PairScores, PolicyState]:
    """Of each pair (i, j) minus the reference's sigmoid loss."""
    return jax.lax.stop_gradient(PairScores(None, inputs.reference)), policy_state


def loss_learnability(
    inputs: ScoreInputs, policy_state: PolicyState, by: str = "online", loss: str = "softmax"
) -> tuple[Scores, PolicyState]:
    """Per-example contrastive loss among the whole super-batch, of the online model (or of `by`) less the reference's. Any sign."""

    def of(said: Embeddings) -> Scores:
        size = said.image.shape[0]
        chunk = TILE if size % TILE == 0 else 0
        if loss == "softmax":
            return contrastive.info_nce(said.image, said.text, said.scale[0], chunk=chunk)
        return contrastive.sigmoid(said.image, said.text, said.scale[0], said.bias[0], chunk=chunk)

    return jax.lax.stop_gradient(of(getattr(inputs, by)) - of(inputs.reference)), policy_state


def tempered(values: Scores | PairScores, temperature: float) -> Scores | PairScores:
    """Scores / T."""
    return (
        replace(values, gain=values.gain / temperature)
        if isinstance(values, PairScores)
        else values / temperature
    )


def own(values: Scores | PairScores) -> Scores:
    """Of each candidate its score alone."""
    return values.diag() if isinstance(values, PairScores) else values
