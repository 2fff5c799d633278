"""What the step is given: models as functions, a recipe (static), and the one train state (a pytree)."""

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


@dataclass(frozen=True)
class Model:
    """A model as functions. `apply(params, batch, train) -> outputs`; the losses map `(outputs, batch) -> (B,)`, never reduced."""

    apply: Callable[[PyTree, Batch, bool], Any]
    learn_loss: Callable[[Any, Batch], Float[Array, "B"]]
    act_loss: Callable[[Any, Batch], Float[Array, "B"]]
    optimizer: optax.GradientTransformation
    pairwise: bool = False  # an example's loss depends on the rest of its batch


def _same(batch: Batch, key: Key[Array, ""]) -> Batch:
    return batch


def _own_reference(state: "TrainState") -> PyTree:
    return state.reference.params


@dataclass(frozen=True)
class Recipe:
    """What a run does, as opposed to where it stands: everything static that the step closes over.

    learner, scorer: models (online and reference share the scorer's functions); policy, sub_batch_size b, temperature T, standardize: the
    choice; chunk: how many examples a device scores at once (0: its whole shard); augment: `(batch, key) -> batch` for training, keyed by
    (id, epoch); mesh: None on one device; reference_params: where the reference's parameters come from; reference: the scorer with the
    optimizer of a reference that is trained on every super-batch, None for a frozen one; accumulate: micro-batches of a gradient.

    A super-batch that carries `reference_loss` (B,) is scored with it and no reference runs; one that carries `scored_by` (B,) has
    reference parameters with a leading axis, and each example is scored by that one of them.
    """

    learner: Model
    scorer: Model | None = None
    policy: policies.Policy = policies.uniform
    sub_batch_size: int = 128
    temperature: float = 1.0
    standardize: bool = False
    chunk: int = 0
    augment: Callable[[Batch, Key[Array, ""]], Batch] = _same
    mesh: Mesh | None = None
    reference_params: Callable[["TrainState"], PyTree] = _own_reference
    reference: Model | None = None
    accumulate: int = 1


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ModelState:
    """Parameters and, where the model is trained, its optimizer state (None: frozen)."""

    params: Any
    opt_state: Any = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Chosen:
    """A choice: rows of the super-batch, their weights and ids, the scores of all candidates, and figures about them."""

    indices: Any  # (b,) int32
    weights: Any  # (b,) float32
    ids: Any  # (b, 2) uint32
    scores: Any  # (B,) float32
    metrics: Any  # dict of () float32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that a run remembers; one pytree, one checkpoint. The three models never share a buffer.

    (The fields of a pytree also hold shapes, shardings and the like, so their array types are comments here.)
    """

    step: Any  # () int32
    key: Any  # () PRNG key
    learner: Any  # ModelState
    online: Any = None  # ModelState
    reference: Any = None  # ModelState
    policy_state: Any = field(default_factory=tuple)
    pending: Any = None  # Chosen: what the next update trains on, where that is decided ahead


def init_state(
    recipe: Recipe,
    key: Key[Array, ""],
    learner: PyTree,
    online: PyTree = None,
    reference: PyTree = None,
) -> TrainState:
    """A state at step 0 from the three models' parameters (copied, so that donating the state cannot reach the caller's arrays)."""
    copy = lambda tree: jax.tree.map(jnp.array, tree)  # noqa: E731
    trained = lambda model, params: ModelState(copy(params), model.optimizer.init(params))  # noqa: E731
    return TrainState(
        step=jnp.int32(0),
        key=key,
        learner=trained(recipe.learner, learner),
        online=None if online is None else trained(recipe.scorer, online),
        reference=_reference_state(recipe, copy, reference),
        policy_state=recipe.policy.init(),
    )


def _reference_state(recipe: Recipe, copy: Callable, params: PyTree) -> ModelState | None:
    if params is None or recipe.reference is None:
        return None if params is None else ModelState(copy(params))
    return ModelState(copy(params), recipe.reference.optimizer.init(params))
