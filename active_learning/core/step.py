"""The algorithm (Algorithm 1 of arXiv 2312.05328), pure: state and batch in, state and metrics out.

X  ~ D                                        the loader's super-batch, |X| = B
S  = l_act(X | online) - l_act(X | reference)     observations, policy.score
I  ~ SoftMax(S / T) without replacement, |I| = b  policy.select
Y  = X[I]                                         take_sharded
learner <- Adam[grad l_learn(Y | learner)]        _descend
online  <- Adam[grad l_learn(Y | online)]         _descend, with its own optimizer state
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from active_learning.core import gradients, pair_scores, policies, reuse, scores
from active_learning.core.observe import observations
from active_learning.core.recipe import (
    Batch,
    Chosen,
    Metrics,
    Model,
    ModelState,
    Recipe,
    TrainState,
)
from active_learning.core.sharding import home_first, replicated, take_sharded


def select_step(recipe: Recipe, state: TrainState, super_batch: Batch) -> tuple[TrainState, Chosen]:
    """Scores the super-batch and chooses `sub_batch_size` rows of it. Trains nothing; only the policy state changes."""
    return _choose(recipe, state, super_batch, observations(recipe, state, super_batch))


def _choose(
    recipe: Recipe, state: TrainState, super_batch: Batch, said: dict[str, Any]
) -> tuple[TrainState, Chosen]:
    """score -> temper -> draw; the order of what was drawn is permuted so that rows stay on their devices."""
    with jax.named_scope("select"):
        if recipe.mesh is not None and not recipe.policy.pairs:
            said = jax.lax.with_sharding_constraint(said, replicated(recipe.mesh))
        values, policy_state = recipe.policy.score(
            scores.ScoreInputs(**said, b=recipe.sub_batch_size), state.policy_state
        )
        logits = pair_scores.tempered(
            scores.standardize(values) if recipe.standardize else values, recipe.temperature
        )
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 0)
        selection = recipe.policy.select(key, logits, recipe.sub_batch_size)
        values, logits = pair_scores.own(values), pair_scores.own(logits)
        devices = 1 if recipe.mesh is None else recipe.mesh.size
        indices = home_first(selection.indices, values.shape[0], devices)
        weights = jnp.zeros_like(values).at[selection.indices].set(selection.weights)[indices]
        figures = {
            "score_mean_all": jnp.mean(values),
            "score_mean_chosen": jnp.mean(values[indices]),
            "ess": scores.effective_share(logits),
        }
        chosen = Chosen(
            indices, weights, take_sharded(super_batch["id"], indices, recipe.mesh), values, figures
        )
    return replace(state, policy_state=policy_state), chosen


def _descend(
    model: Model, state: ModelState, batch: Batch, weights: Float[Array, "b"], parts: int
) -> tuple[ModelState, Metrics]:
    """One optimizer step on the weighted mean of l_learn, from `parts` micro-batches."""
    return _moved(
        model, state, *gradients.value_and_grad(model, state.params, batch, weights, parts)
    )


def _moved(
    model: Model, state: ModelState, loss: Float[Array, ""], grads: PyTree
) -> tuple[ModelState, Metrics]:
    updates, opt_state = model.optimizer.update(grads, state.opt_state, state.params)
    metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
    return ModelState(optax.apply_updates(state.params, updates), opt_state), metrics


def update_step(
    recipe: Recipe, state: TrainState, sub_batch: Batch, weights: Float[Array, "b"]
) -> tuple[TrainState, Metrics]:
    """Trains the learner and, where the policy scores with it, the online model on the same augmented sub-batch."""
    sub_batch = recipe.augment(sub_batch, state.key)
    with jax.named_scope("learner"):
        learner, metrics = _descend(
            recipe.learner, state.learner, sub_batch, weights, recipe.accumulate
        )
    state = replace(state, learner=learner, step=state.step + 1)
    if "online" in recipe.policy.needs:
        with jax.named_scope("online"):
            online, figures = _descend(
                recipe.scorer, state.online, sub_batch, weights, recipe.accumulate
            )
        state = replace(state, online=online)
        metrics |= {f"online_{name}": value for name, value in figures.items()}
    return state, metrics


def follow_step(
    recipe: Recipe,
    state: TrainState,
    super_batch: Batch,
    chosen: Chosen,
    sub_batch: Batch | None = None,
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
            reference, figures = _descend(
                recipe.reference, before.reference, seen, ones, recipe.accumulate
            )
        state = replace(state, reference=reference)
        metrics |= {f"reference_{name}": value for name, value in figures.items()}
    return state, metrics


def train_step(
    recipe: Recipe, state: TrainState, super_batch: Batch
) -> tuple[TrainState, tuple[Metrics, Chosen]]:
    """select_step, take_sharded and update_step under one jit: one line for each line of Algorithm 1."""
    if recipe.policy.reuse:
        return _reusing_step(recipe, state, super_batch)
    state, chosen = select_step(recipe, state, super_batch)
    state, metrics = follow_step(recipe, state, super_batch, chosen)
    return state, (metrics, chosen)


def _reusing_step(
    recipe: Recipe, state: TrainState, super_batch: Batch
) -> tuple[TrainState, tuple[Metrics, Chosen]]:
    """The learner scores with the forward pass that it trains with: one pass over the super-batch, in training mode on the augmented view,
    by l_learn; backward over the chosen."""
    model, seen = recipe.learner, recipe.augment(super_batch, state.key)
    losses = lambda params, rows: model.learn_loss(model.apply(params, rows, True), rows)  # noqa: E731
    with jax.named_scope("learner"):
        said, pull = reuse.forward(losses, state.learner.params, seen)
    state, chosen = _choose(recipe, state, super_batch, {"learner": said})
    with jax.named_scope("learner"):
        weights = chosen.weights / recipe.sub_batch_size
        grads = reuse.backward(
            losses, state.learner.params, pull, seen, chosen.indices, weights, recipe.mesh
        )
        learner, metrics = _moved(
            model, state.learner, jnp.sum(weights * said[chosen.indices]), grads
        )
    return replace(state, learner=learner, step=state.step + 1), (metrics, chosen)


def uniform_step(recipe: Recipe, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """Plain training of the learner: the uniform policy, and every policy once its window has closed. No scorer runs.

    A batch of recorded choices brings their weights along as `weight`.
    """
    ones = jnp.ones((jax.tree.leaves(batch)[0].shape[0],), jnp.float32)
    return update_step(
        replace(recipe, policy=policies.uniform), state, batch, batch.get("weight", ones)
    )
