"""Arguments of the step: models as functions, the recipe (static), the train state (a pytree)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, PyTree

from active_learning.core import policies

Batch = dict[str, jax.Array | np.ndarray]
Metrics = dict[str, Any]

# Key of a batch under which a distilled learner finds the reference's outputs.
TEACHER = "teacher"


@dataclass(frozen=True)
class Model:
    """A model as functions of its parameters."""

    # apply(params, batch, train) -> outputs, a pytree of arrays with the batch's leading axis.
    apply: Callable[[PyTree, Batch, bool], Any]
    # (outputs, batch) -> (B,): the loss that is trained on, unreduced.
    learn_loss: Callable[[Any, Batch], Float[Array, "B"]]
    # (outputs, batch) -> (B,): the loss that scores, unreduced.
    act_loss: Callable[[Any, Batch], Float[Array, "B"]]
    optimizer: optax.GradientTransformation
    # Whether an example's loss depends on the rest of its batch.
    pairwise: bool = False
    # As `apply`, where scores are computed in another way than evaluations (a low resolution).
    score_apply: Callable[[PyTree, Batch, bool], Any] | None = None
    # Rows of a batch are treated alike when their places differ by this.
    period: int = 1

    def score_outputs(self, params: PyTree, batch: Batch) -> Any:
        """Outputs that scores are computed from: evaluation mode."""
        return (self.score_apply or self.apply)(params, batch, False)


def unaugmented(batch: Batch, key: Key[Array, ""]) -> Batch:
    """The batch as it is: the default of `Recipe.augment`."""
    del key
    return batch


def _reference_in_state(state: "TrainState") -> PyTree:
    return state.reference.params


@dataclass(frozen=True)
class Recipe:
    """Static configuration of the training step; `TrainState` is its dynamic counterpart.

    A super-batch that carries `reference_loss` (B,) is scored with it, and no reference runs. One
    that carries `scored_by` (B,) has reference parameters with a leading axis, and each example is
    scored by that one of them.
    """

    learner: Model
    # Functions of the online model, and of a reference of the same architecture.
    scorer: Model | None = None
    policy: policies.Policy = policies.uniform
    # Examples of an update, b.
    sub_batch_size: int = 128
    # Scores are divided by it before sampling.
    temperature: float = 1.0
    # Whether scores are brought to mean 0 and standard deviation 1 before.
    standardize: bool = False
    # Candidates scored per forward pass on each device; 0 scores the whole shard at once.
    score_chunk: int = 0
    # (batch, key) -> batch, for training only. Randomness depends on (key, id, epoch).
    augment: Callable[[Batch, Key[Array, ""]], Batch] = unaugmented
    # None on one device.
    mesh: Mesh | None = None
    # Where the reference's parameters come from.
    reference_params: Callable[["TrainState"], PyTree] = _reference_in_state
    # The scorer with the optimizer of a reference that is co-trained on every super-batch; None
    # for a frozen one.
    reference: Model | None = None
    # Micro-batches per gradient.
    grad_accum_steps: int = 1
    # Half-life in updates of the average of the learner's weights; 0 keeps none.
    ema_half_life: float = 0.0
    # Whether the learner gets the reference's outputs on the selected batch, as batch[TEACHER];
    # its l_learn must read them (`distillation.distilled`).
    distill: bool = False
    # Functions of a frozen reference of an architecture of its own, such as published weights.
    frozen_reference: Model | None = None

    def __post_init__(self):
        if self.distill and self.policy.reuse_forward:
            raise ValueError(
                f"policy {self.policy.name!r} with distill=True: a reused forward pass has no "
                "second view for the teacher; use the policy that scores in a pass of its own"
            )
        if self.learner.period > 1 and (self.policy.reuse_forward or self.grad_accum_steps > 1):
            raise ValueError(
                "a learner that treats rows by their place (period "
                f"{self.learner.period}) with a reused forward pass or grad_accum_steps="
                f"{self.grad_accum_steps}: both change the places"
            )

    def model(self, name: str) -> Model:
        """Functions of "learner", "online" or "reference"; the latter two need a scorer."""
        if name == "learner":
            return self.learner
        if name == "reference" and self.frozen_reference is not None:
            return self.frozen_reference
        assert self.scorer is not None, f"policy {self.policy.name!r}: recipe without a scorer"
        return self.scorer


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ModelState:
    """Parameters and, where the model is trained, its optimizer state (None: frozen)."""

    params: Any
    opt_state: Any = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Chosen:
    """Result of a selection."""

    # Rows of the super-batch, (b,) int32.
    indices: Any
    # Weight of each row's loss, (b,) float32.
    weights: Any
    # Ids of the rows, (b, 2) uint32.
    ids: Any
    # Scores of all candidates, (B,) float32.
    scores: Any
    # Scalars about the selection, by name.
    metrics: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Complete training state: one pytree, checkpointed as a unit.

    The models never alias each other's buffers. (Fields of a pytree also hold shapes and
    shardings, so array types are comments here.)
    """

    # Updates done, () int32.
    step: Any
    # Base key, constant over a run.
    key: Any
    # ModelState.
    learner: Any
    # ModelState, None where the policy does not need it.
    online: Any = None
    # ModelState, None where the policy does not need it.
    reference: Any = None
    policy_state: Any = field(default_factory=tuple)
    # ModelState: moving average of the learner's parameters, None where none is kept.
    ema: Any = None
    # Chosen: what the next update trains on, where selection runs ahead.
    pending: Any = None


def init_state(
    recipe: Recipe,
    key: Key[Array, ""],
    learner: PyTree,
    online: PyTree = None,
    reference: PyTree = None,
) -> TrainState:
    """Returns a state at step 0.

    Args:
      recipe: What the state will be trained by.
      key: Base key of the run; copied, as the parameters are.
      learner: Parameters. Copies, so that donating the state cannot invalidate the caller's arrays.
      online: Parameters of the online model, None where the policy does not need it.
      reference: Parameters of the reference, None where the policy does not need it.
    """

    def model_state(model: Model | None, params: PyTree) -> ModelState | None:
        if params is None:
            return None
        opt_state = None if model is None else model.optimizer.init(params)
        return ModelState(jax.tree.map(jnp.array, params), opt_state)

    return TrainState(
        step=jnp.int32(0),
        key=jnp.copy(key),
        learner=model_state(recipe.learner, learner),
        online=model_state(recipe.scorer, online),
        reference=model_state(recipe.reference, reference),
        policy_state=recipe.policy.init(),
        ema=model_state(None, learner if recipe.ema_half_life else None),
    )
