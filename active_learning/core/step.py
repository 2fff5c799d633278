"""The algorithm (Algorithm 1 of arXiv 2312.05328), pure: state and batch in, state and metrics out.

X  ~ D                                            the loader's super-batch, |X| = B
S  = l_act(X | online) - l_act(X | reference)     observations, policy.score
I  ~ SoftMax(S / T) without replacement, |I| = b  policy.select
Y  = X[I]                                         take_sharded
learner <- Adam[grad l_learn(Y | learner)]        _optimizer_step
online  <- Adam[grad l_learn(Y | online)]         _optimizer_step, with its own optimizer state
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from active_learning.core import gradients, optim, pair_scores, policies, reuse, scores
from active_learning.core.homes import home_first
from active_learning.core.observe import observations
from active_learning.core.recipe import (
    TEACHER,
    Batch,
    Chosen,
    Metrics,
    Model,
    ModelState,
    Recipe,
    TrainState,
)
from active_learning.core.sharding import replicated, take_sharded


def train_step(
    recipe: Recipe, state: TrainState, super_batch: Batch
) -> tuple[TrainState, tuple[Metrics, Chosen]]:
    """select_step, take_sharded and update_step under one jit: Algorithm 1.

    Args:
      recipe: Static configuration.
      state: May be donated.
      super_batch: Arrays with leading axis B, `id` (B, 2) uint32 among them.

    Returns:
      The new state, and the update's metrics and selection.
    """
    if recipe.policy.reuse_forward:
        return _fused_step(recipe, state, super_batch)
    state, chosen = select_step(recipe, state, super_batch)
    state, metrics = train_on_selection(recipe, state, super_batch, chosen)
    return state, (metrics, chosen)


def select_step(recipe: Recipe, state: TrainState, super_batch: Batch) -> tuple[TrainState, Chosen]:
    """Scores the super-batch and selects `sub_batch_size` rows of it.

    Trains nothing; only the policy state changes.
    """
    inputs = observations(recipe, state, super_batch)
    return _score_and_select(recipe, state, super_batch, inputs)


def _score_and_select(
    recipe: Recipe, state: TrainState, super_batch: Batch, inputs: dict[str, Any]
) -> tuple[TrainState, Chosen]:
    """Scores, divides by the temperature and samples.

    The sampled indices are permuted so that as few rows as possible change device.
    """
    with jax.named_scope("select"):
        label = super_batch.get("label")
        inputs = inputs | {"label": label, "concept": super_batch.get("concept", label)}
        if recipe.mesh is not None and not recipe.policy.needs_embeddings:
            inputs = jax.lax.with_sharding_constraint(inputs, replicated(recipe.mesh))
        values, policy_state = recipe.policy.score(
            scores.ScoreInputs(**inputs, b=recipe.sub_batch_size, mesh=recipe.mesh),
            state.policy_state,
        )
        logits = pair_scores.tempered(
            scores.standardize(values) if recipe.standardize else values, recipe.temperature
        )
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 0)
        selection = recipe.policy.select(key, logits, recipe.sub_batch_size)
        values, logits = pair_scores.per_example(values), pair_scores.per_example(logits)
        devices = 1 if recipe.mesh is None else recipe.mesh.size
        period = recipe.learner.period
        indices = home_first(selection.indices, values.shape[0], devices, period)
        weights = jnp.zeros_like(values).at[selection.indices].set(selection.weights)[indices]
        metrics = {
            "score_mean_all": jnp.mean(values),
            "score_mean_chosen": jnp.mean(values[indices]),
            "ess_fraction": scores.ess_fraction(logits),
        }
        ids = take_sharded(super_batch["id"], indices, recipe.mesh)
        chosen = Chosen(indices, weights, ids, values, metrics)
    return replace(state, policy_state=policy_state), chosen


def train_on_selection(
    recipe: Recipe,
    state: TrainState,
    super_batch: Batch,
    chosen: Chosen,
    sub_batch: Batch | None = None,
) -> tuple[TrainState, Metrics]:
    """Gathers the selected rows and runs `update_step` on them.

    A co-trained reference then takes its own step on the whole super-batch. `sub_batch`: the
    selected rows, where they were read again at full resolution.
    """
    rows = sub_batch
    if rows is None:
        with jax.named_scope("take"):
            taken: Batch = take_sharded(super_batch, chosen.indices, recipe.mesh)
        rows = taken
    state, metrics = update_step(recipe, state, rows, chosen.weights)
    state, more = _train_reference(recipe, state, super_batch)
    return state, metrics | more


def update_step(
    recipe: Recipe, state: TrainState, sub_batch: Batch, weights: Float[Array, "b"]
) -> tuple[TrainState, Metrics]:
    """Trains the learner and, where the policy scores with it, the online model.

    Both see the same augmented sub-batch. `weights`: of each example's loss.
    """
    sub_batch = _training_view(recipe, state, sub_batch)
    with jax.named_scope("learner"):
        learner, metrics, losses = _optimizer_step(
            recipe.learner, state.learner, sub_batch, weights, recipe.grad_accum_steps
        )
    state = _with_learner(recipe, state, learner)
    if recipe.policy.remember is not None:
        memory = recipe.policy.remember(state.policy_state, sub_batch, losses)
        state = replace(state, policy_state=memory)
    if "online" in recipe.policy.needs:
        with jax.named_scope("online"):
            online, more, _ = _optimizer_step(
                recipe.model("online"), state.online, sub_batch, weights, recipe.grad_accum_steps
            )
        state = replace(state, online=online)
        metrics |= {f"online_{name}": value for name, value in more.items()}
    return state, metrics


def uniform_step(recipe: Recipe, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """Uniform training of the learner: the uniform policy, and any policy after its window.

    No scorer runs. A batch whose examples do not count alike carries their weights as `weight`.
    """
    ones = jnp.ones((jax.tree.leaves(batch)[0].shape[0],), jnp.float32)
    policy = policies.uniform if recipe.policy.remember is None else recipe.policy
    recipe = replace(recipe, policy=policy, distill=False)
    return update_step(recipe, state, batch, jnp.asarray(batch.get("weight", ones)))


def _training_view(recipe: Recipe, state: TrainState, batch: Batch) -> Batch:
    """The augmented batch, with the reference's outputs on it where the learner is distilled."""
    seen = recipe.augment(batch, state.key)
    if not recipe.distill:
        return seen
    with jax.named_scope("teacher"):
        outputs = recipe.model("reference").apply(recipe.reference_params(state), seen, False)
    return seen | {TEACHER: jax.lax.stop_gradient(outputs)}


def _optimizer_step(
    model: Model, state: ModelState, batch: Batch, weights: Float[Array, "b"], parts: int
) -> tuple[ModelState, Metrics, Float[Array, "b"]]:
    """One optimizer step on the weighted mean of l_learn, from `parts` micro-batches.

    Also returns l_learn of each example.
    """
    (loss, losses), grads = gradients.losses_and_grad(model, state.params, batch, weights, parts)
    return *_apply_gradients(model, state, loss, grads), losses


def _apply_gradients(
    model: Model, state: ModelState, loss: Float[Array, ""], grads: PyTree
) -> tuple[ModelState, Metrics]:
    updates, opt_state = model.optimizer.update(grads, state.opt_state, state.params)
    metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
    return ModelState(optax.apply_updates(state.params, updates), opt_state), metrics


def _with_learner(recipe: Recipe, state: TrainState, learner: ModelState) -> TrainState:
    """The state after the learner's update: one step further, and its weights averaged."""
    ema = state.ema
    if recipe.ema_half_life:
        with jax.named_scope("ema"):
            rate = 1.0 - optim.ema_decay(state.step, recipe.ema_half_life)
            ema = ModelState(optax.incremental_update(learner.params, state.ema.params, rate))
    return replace(state, learner=learner, ema=ema, step=state.step + 1)


def _train_reference(
    recipe: Recipe, state: TrainState, super_batch: Batch
) -> tuple[TrainState, Metrics]:
    """One step of a co-trained reference on the whole super-batch; nothing for a frozen one."""
    if recipe.reference is None or "reference" not in recipe.policy.needs:
        return state, {}
    with jax.named_scope("reference"):
        seen = recipe.augment(super_batch, state.key)
        ones = jnp.ones((jax.tree.leaves(super_batch)[0].shape[0],), jnp.float32)
        reference, metrics, _ = _optimizer_step(
            recipe.reference, state.reference, seen, ones, recipe.grad_accum_steps
        )
    metrics = {f"reference_{name}": value for name, value in metrics.items()}
    return replace(state, reference=reference), metrics


def _fused_step(
    recipe: Recipe, state: TrainState, super_batch: Batch
) -> tuple[TrainState, tuple[Metrics, Chosen]]:
    """The learner scores with the forward pass it trains with.

    One pass over the super-batch, in training mode on the augmented view; backward over the
    selected rows only, with the loss evaluated among them. With `grad_accum_steps` > 1 no residuals
    are kept: the selected rows are computed again, in micro-batches. The reference scores the view
    without augmentation, as it does elsewhere.
    """
    model, params, parts = recipe.learner, state.learner.params, recipe.grad_accum_steps
    seen = recipe.augment(super_batch, state.key)
    ratio = jax.tree.leaves(seen)[0].shape[0] // recipe.sub_batch_size
    with jax.named_scope("learner"):
        passed = reuse.forward(model, params, seen, parts if parts == 1 else parts * ratio)
        observed = (recipe.policy.observe or model.learn_loss)(passed.outputs, seen)
    inputs = observations(recipe, state, super_batch, but=("learner",)) | {"learner": observed}
    state, chosen = _score_and_select(recipe, state, super_batch, inputs)
    with jax.named_scope("learner"):
        loss, grads = reuse.value_and_grad(
            model, params, seen, passed, chosen.indices, chosen.weights, recipe.mesh, parts
        )
        learner, metrics = _apply_gradients(model, state.learner, loss, grads)
    state = _with_learner(recipe, state, learner)
    state, more = _train_reference(recipe, state, super_batch)
    return state, (metrics | more, chosen)
