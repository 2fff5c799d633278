"""Scoring forward passes over a super-batch: eval mode, no augmentation, no gradients."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from active_learning.core.contrastive import Embeddings
from active_learning.core.recipe import Batch, Model, Recipe, TrainState


def _observe(recipe: Recipe, model: Model, params: PyTree, batch: Batch) -> PyTree:
    """What the policy reads of one model's outputs on the super-batch.

    The chunks are cut inside each device's shard, so no image moves between devices and memory
    does not grow with B.
    """
    observe = recipe.policy.observe or model.act_loss

    def forward(params, rows):
        return observe(model.score_outputs(params, rows), rows)

    def local(params, batch):
        size = jax.tree.leaves(batch)[0].shape[0]
        if not recipe.score_chunk or size <= recipe.score_chunk:
            return forward(params, batch)
        if size % recipe.score_chunk:
            raise ValueError(
                f"score_chunk={recipe.score_chunk} does not divide a device's {size} candidates"
            )
        chunks = jax.tree.map(
            lambda leaf: leaf.reshape(-1, recipe.score_chunk, *leaf.shape[1:]), batch
        )
        outputs = jax.lax.map(lambda rows: forward(params, rows), chunks)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), outputs)

    if recipe.mesh is None:
        return local(params, batch)
    rows = P(recipe.mesh.axis_names)
    return jax.shard_map(
        local, mesh=recipe.mesh, in_specs=(P(), rows), out_specs=rows, check_vma=False
    )(params, batch)


def _observe_held_out(recipe: Recipe, params: PyTree, batch: Batch) -> PyTree:
    """Scores each example with the cross-fitted reference that was not trained on it.

    All K references (leading axis of `params`) run on the whole super-batch, and are charged; one
    result per example is kept.
    """
    count = jax.tree.leaves(params)[0].shape[0]
    scorer = recipe.model("reference")
    outputs = [
        _observe(recipe, scorer, jax.tree.map(lambda p, k=k: p[k], params), batch)
        for k in range(count)
    ]
    rows = jnp.arange(batch["scored_by"].shape[0])
    return jax.tree.map(lambda *each: jnp.stack(each)[batch["scored_by"], rows], *outputs)


def _observe_embeddings(recipe: Recipe, batch: Batch) -> PyTree:
    """What the policy reads of a reference whose embeddings the super-batch carries."""
    columns = ("image", "text", "scale", "bias")
    outputs = Embeddings(*(jnp.asarray(batch[f"reference_{name}"]) for name in columns))
    observe = recipe.policy.observe or recipe.model("reference").act_loss
    return observe(outputs, batch)


def observations(
    recipe: Recipe, state: TrainState, super_batch: Batch, but: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Score inputs of each model that the policy needs, by the model's name.

    Args:
      recipe: Static configuration.
      state: The models.
      super_batch: All candidates.
      but: Models that are left out.

    Returns:
      Arrays with leading axis B: the outputs of `policy.observe`, or losses (B,). The reference's
      are read from the super-batch where it holds `reference_loss`, or `reference_image` and
      `reference_text`, its embeddings of the pairs.
    """
    inputs = {}
    for name in recipe.policy.needs:
        if name in but:
            continue
        with jax.named_scope(f"score_{name}"):
            if name != "reference":
                model = recipe.model(name)
                inputs[name] = _observe(recipe, model, getattr(state, name).params, super_batch)
            elif "reference_loss" in super_batch:
                inputs[name] = super_batch["reference_loss"]
            elif "reference_image" in super_batch:
                inputs[name] = _observe_embeddings(recipe, super_batch)
            elif "scored_by" in super_batch:
                params = recipe.reference_params(state)
                inputs[name] = _observe_held_out(recipe, params, super_batch)
            else:
                params = recipe.reference_params(state)
                inputs[name] = _observe(recipe, recipe.model(name), params, super_batch)
    return inputs
