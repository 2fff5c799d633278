"""An experiment and its batches as shapes: on devices that need not be here and data that need not either."""

import dataclasses

import jax
import jax.numpy as jnp

from active_learning.core import sharding
from active_learning.plan.cost_model import scorer_image_shape
from active_learning.settings import Config, Pairs, resolve
from active_learning.train.build import Run, assemble, task_of


def build_abstract(
    config: Config,
    image_shape: tuple[int, int, int],
    classes: int,
    examples: int,
    devices: list[jax.Device],
) -> Run:
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
    channels = (0.5,) * image_shape[2]
    task = task_of(config, image_shape, classes, channels, channels)
    small = dataclasses.replace(task, image_shape=scorer_image_shape(config, image_shape))
    return assemble(config, resolve(config, examples, len(devices)), task, small, devices)


def abstract_batch(experiment: Run) -> dict[str, jax.ShapeDtypeStruct]:
    """A step's batch as shapes with their shardings."""
    config, task = experiment.config, experiment.task
    selects = bool(experiment.clock.window)
    size = config.batch_size * (config.select.ratio if selects else 1)
    place = sharding.over_data(experiment.mesh)

    def leaf(dtype, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, *shape), dtype, sharding=place)

    batch = {
        "image": leaf(jnp.uint8, *task.image_shape),
        "label": leaf(jnp.int32),
        "epoch": leaf(jnp.int32),
        "id": leaf(jnp.uint32, 2),
    }
    if isinstance(config.task, Pairs):
        batch["tokens"] = leaf(jnp.int32, task.context)
    if experiment.scorer_task.image_shape != task.image_shape:
        batch["image_small"] = leaf(jnp.uint8, *experiment.scorer_task.image_shape)
    kind = config.reference.kind
    if selects and kind == "stored" and "reference" in experiment.recipe.policy.needs:
        batch["reference_loss"] = leaf(jnp.float32)
    if selects and kind == "crossfitted":
        batch["scored_by"] = leaf(jnp.int32)
    return batch
