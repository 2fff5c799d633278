"""What the models say of a super-batch: evaluation mode, plain view, no gradient."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from active_learning.core.recipe import Batch, Model, Recipe, TrainState


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
            raise ValueError(
                f"scoring chunk {recipe.chunk} does not divide a device's {size} candidates"
            )
        cut = jax.tree.map(lambda leaf: leaf.reshape(-1, recipe.chunk, *leaf.shape[1:]), batch)
        said = jax.lax.map(lambda rows: one(params, rows), cut)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), said)

    if recipe.mesh is None:
        return local(params, batch)
    split = P(recipe.mesh.axis_names)
    return jax.shard_map(
        local, mesh=recipe.mesh, in_specs=(P(), split), out_specs=split, check_vma=False
    )(params, batch)


def _observe_unseen(recipe: Recipe, params: PyTree, batch: Batch) -> PyTree:
    """What each example's own reference says of it: all K run on the whole super-batch (and are charged), one is read."""
    count = jax.tree.leaves(params)[0].shape[0]
    every = [
        _observe(recipe, recipe.scorer, jax.tree.map(lambda p: p[k], params), batch)
        for k in range(count)
    ]  # noqa: B023
    rows = jnp.arange(batch["scored_by"].shape[0])
    return jax.tree.map(lambda *said: jnp.stack(said)[batch["scored_by"], rows], *every)


def observations(recipe: Recipe, state: TrainState, super_batch: Batch) -> dict[str, Any]:
    """For each model that the policy needs what it reads of it: arrays with leading axis B, stored ones where the super-batch brings them."""
    said = {}
    for name in recipe.policy.needs:
        with jax.named_scope(f"score_{name}"):
            if name == "reference" and "reference_loss" in super_batch:
                said[name] = super_batch["reference_loss"]
            elif name == "reference" and "scored_by" in super_batch:
                said[name] = _observe_unseen(recipe, recipe.reference_params(state), super_batch)
            elif name == "reference":
                said[name] = _observe(
                    recipe, recipe.scorer, recipe.reference_params(state), super_batch
                )
            else:
                model = recipe.learner if name == "learner" else recipe.scorer
                said[name] = _observe(recipe, model, getattr(state, name).params, super_batch)
    return said
