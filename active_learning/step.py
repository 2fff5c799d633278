"""The algorithm (Algorithm 1 of arXiv 2312.05328), pure: state and batch in, state and metrics out.

X  ~ D                                        the loader's super-batch, |X| = B
S  = l_act(X | online) - l_act(X | reference)     _observe, policy.score
I  ~ SoftMax(S / T) without replacement, |I| = b  policy.select
Y  = X[I]                                         take_sharded
learner <- Adam[grad l_learn(Y | learner)]        _descend
online  <- Adam[grad l_learn(Y | online)]         _descend, with its own optimizer state
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Key, PyTree

from active_learning import gradients, pairwise, policies, scores
from active_learning.sharding import home_first, replicated, take_sharded

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
    recipe: Recipe, key: Key[Array, ""], learner: PyTree, online: PyTree = None, reference: PyTree = None
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


def _observe(recipe: Recipe, model: Model, params: PyTree, batch: Batch) -> PyTree:
    """What the policy reads of one model: evaluation mode, plain view, in chunks cut inside each device's shard, so that no image moves
    and memory does not grow with B."""
    observe = recipe.policy.observe or model.act_loss

    def one(params, rows):
        return observe(model.apply(params, rows, False), rows)

    def local(params, batch):
        size = jax.tree.leaves(batch)[0].shape[0]
        if not recipe.chunk or size <= recipe.chunk:
            return one(params, batch)
        if size % recipe.chunk:
            raise ValueError(f"scoring chunk {recipe.chunk} does not divide a device's {size} candidates")
        cut = jax.tree.map(lambda leaf: leaf.reshape(-1, recipe.chunk, *leaf.shape[1:]), batch)
        said = jax.lax.map(lambda rows: one(params, rows), cut)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), said)

    if recipe.mesh is None:
        return local(params, batch)
    split = P(recipe.mesh.axis_names)
    return jax.shard_map(local, mesh=recipe.mesh, in_specs=(P(), split), out_specs=split, check_vma=False)(
        params, batch
    )


def _observe_unseen(recipe: Recipe, params: PyTree, batch: Batch) -> PyTree:
    """What each example's own reference says of it: all K run on the whole super-batch (and are charged), one is read."""
    count = jax.tree.leaves(params)[0].shape[0]
    every = [_observe(recipe, recipe.scorer, jax.tree.map(lambda p: p[k], params), batch) for k in range(count)]  # noqa: B023
    rows = jnp.arange(batch["scored_by"].shape[0])
    return jax.tree.map(lambda *said: jnp.stack(said)[batch["scored_by"], rows], *every)


def select_step(recipe: Recipe, state: TrainState, super_batch: Batch) -> tuple[TrainState, Chosen]:
    """Scores the super-batch and chooses `sub_batch_size` rows of it. Trains nothing; only the policy state changes."""
    params = {"learner": state.learner.params}
    if state.online is not None:
        params["online"] = state.online.params
    stored = {"reference": super_batch["reference_loss"]} if "reference_loss" in super_batch else {}
    if "reference" in recipe.policy.needs and not stored:
        params["reference"] = recipe.reference_params(state)
    said = {}
    for name in recipe.policy.needs:
        with jax.named_scope(f"score_{name}"):
            if name in stored:
                said[name] = stored[name]
            elif name == "reference" and "scored_by" in super_batch:
                said[name] = _observe_unseen(recipe, params[name], super_batch)
            else:
                model = recipe.learner if name == "learner" else recipe.scorer
                said[name] = _observe(recipe, model, params[name], super_batch)
    with jax.named_scope("select"):
        if recipe.mesh is not None and not recipe.policy.pairs:
            said = jax.lax.with_sharding_constraint(said, replicated(recipe.mesh))
        values, policy_state = recipe.policy.score(
            scores.ScoreInputs(**said, b=recipe.sub_batch_size), state.policy_state
        )
        logits = pairwise.tempered(scores.standardize(values) if recipe.standardize else values, recipe.temperature)
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 0)
        selection = recipe.policy.select(key, logits, recipe.sub_batch_size)
        values, logits = pairwise.own(values), pairwise.own(logits)
        devices = 1 if recipe.mesh is None else recipe.mesh.size
        indices = home_first(selection.indices, values.shape[0], devices)
        weights = jnp.zeros_like(values).at[selection.indices].set(selection.weights)[indices]
        figures = {
            "score_mean_all": jnp.mean(values),
            "score_mean_chosen": jnp.mean(values[indices]),
            "ess": scores.effective_share(logits),
        }
        chosen = Chosen(indices, weights, take_sharded(super_batch["id"], indices, recipe.mesh), values, figures)
    return replace(state, policy_state=policy_state), chosen


def _descend(
    model: Model, state: ModelState, batch: Batch, weights: Float[Array, "b"], parts: int
) -> tuple[ModelState, Metrics]:
    """One optimizer step on the weighted mean of l_learn, from `parts` micro-batches."""
    loss, grads = gradients.value_and_grad(model, state.params, batch, weights, parts)
    updates, opt_state = model.optimizer.update(grads, state.opt_state, state.params)
    metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
    return ModelState(optax.apply_updates(state.params, updates), opt_state), metrics


def update_step(
    recipe: Recipe, state: TrainState, sub_batch: Batch, weights: Float[Array, "b"]
) -> tuple[TrainState, Metrics]:
    """Trains the learner and, where the policy scores with it, the online model on the same augmented sub-batch."""
    sub_batch = recipe.augment(sub_batch, state.key)
    with jax.named_scope("learner"):
        learner, metrics = _descend(recipe.learner, state.learner, sub_batch, weights, recipe.accumulate)
    state = replace(state, learner=learner, step=state.step + 1)
    if "online" in recipe.policy.needs:
        with jax.named_scope("online"):
            online, figures = _descend(recipe.scorer, state.online, sub_batch, weights, recipe.accumulate)
        state = replace(state, online=online)
        metrics |= {f"online_{name}": value for name, value in figures.items()}
    return state, metrics


def follow_step(
    recipe: Recipe, state: TrainState, super_batch: Batch, chosen: Chosen, sub_batch: Batch | None = None
) -> tuple[TrainState, Metrics]:
    """What follows a choice: take_sharded (unless `sub_batch` brings the chosen rows, read in full), update_step, and where the reference
    is co-trained its own step on the whole super-batch."""
    if sub_batch is None:
        with jax.named_scope("take"):
            sub_batch = take_sharded(super_batch, chosen.indices, recipe.mesh)
    before = state
    state, metrics = update_step(recipe, state, sub_batch, chosen.weights)
    if recipe.reference is not None and "reference" in recipe.policy.needs:
        with jax.named_scope("reference"):
            seen = recipe.augment(super_batch, before.key)
            ones = jnp.ones(chosen.scores.shape, jnp.float32)
            reference, figures = _descend(recipe.reference, before.reference, seen, ones, recipe.accumulate)
        state = replace(state, reference=reference)
        metrics |= {f"reference_{name}": value for name, value in figures.items()}
    return state, metrics


def train_step(recipe: Recipe, state: TrainState, super_batch: Batch) -> tuple[TrainState, tuple[Metrics, Chosen]]:
    """select_step, take_sharded and update_step under one jit: one line for each line of Algorithm 1."""
    state, chosen = select_step(recipe, state, super_batch)
    state, metrics = follow_step(recipe, state, super_batch, chosen)
    return state, (metrics, chosen)


def uniform_step(recipe: Recipe, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """Plain training of the learner: the uniform policy, and every policy once its window has closed. No scorer runs.

    A batch of recorded choices brings their weights along as `weight`.
    """
    ones = jnp.ones((jax.tree.leaves(batch)[0].shape[0],), jnp.float32)
    return update_step(replace(recipe, policy=policies.uniform), state, batch, batch.get("weight", ones))
