"""An experiment and its batches as shapes, for devices and data that need not be present."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from active_learning.checks import resolve
from active_learning.core import sharding
from active_learning.data.stored_rows import COLUMN
from active_learning.plan.cost_model import scorer_image_shape
from active_learning.settings import Config
from active_learning.train.build import Experiment, assemble
from active_learning.train.starts import open_models


def build_abstract(
    config: Config,
    image_shape: tuple[int, int, int],
    classes: int,
    examples: int,
    devices: list[sharding.Device],
) -> Experiment:
    """The experiment without its data.

    Args:
      config: The config.
      image_shape: Height, width and channels of the learner's images.
      classes: Number of classes.
      examples: Size of the training pool.
      devices: Devices of the mesh, such as those of a topology.

    Raises:
      ConfigError: For what cannot run.
    """
    opened, starts = open_models(config)
    channels = (0.5,) * image_shape[2]
    view = opened.task.view_of(opened, image_shape, classes, channels, channels)
    small = dataclasses.replace(view, image_shape=scorer_image_shape(config, image_shape))
    view, small = starts.learner.view(view), starts.scorer.view(small)
    return assemble(config, resolve(opened, examples, len(devices)), view, small, devices)


def abstract_batch(experiment: Experiment) -> dict[str, jax.ShapeDtypeStruct]:
    """A step's batch as shapes with their shardings."""
    config, view = experiment.config, experiment.view
    selects = bool(experiment.steps.window)
    size = config.batch_size * (config.select.ratio if selects else 1)
    place = sharding.batch_sharding(experiment.mesh)

    def leaf(dtype, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, *shape), dtype, sharding=place)

    batch = {"epoch": leaf(jnp.int32), "id": leaf(jnp.uint32, 2)}
    for name, (dtype, shape) in experiment.task.batch_leaves(view).items():
        batch[name] = leaf(dtype, *shape)
    if experiment.scorer_view.image_shape != view.image_shape:
        batch["image_small"] = leaf(jnp.uint8, *experiment.scorer_view.image_shape)
    if experiment.scorer_view.features:
        batch[COLUMN] = leaf(jnp.float32, experiment.scorer_view.features)
    if selects and "reference" in experiment.recipe.policy.needs:
        more = experiment.reference.batch_columns(experiment.reference_role.module)
        for name, (dtype, shape) in more.items():
            batch[name] = leaf(np.dtype(dtype), *shape)
    if selects and experiment.recipe.policy.reads_concepts and experiment.task.text:
        batch["concept"] = leaf(jnp.int32)
    return batch
