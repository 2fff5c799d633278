"""Accuracy, loss and accuracy per class of a classifier."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from active_learning.core import losses
from active_learning.core.recipe import Model
from active_learning.core.sharding import replicated
from active_learning.data.loader import mine, put


class Accuracy:
    """Evaluates one architecture on any set: `(params, examples) -> figures`. One trace, whatever the sizes.

    `placement`: how a batch is split over the devices; its size is rounded up to a multiple of theirs.
    """

    def __init__(self, model: Model, num_classes: int, batch_size: int, placement=None):
        self.num_classes, self.batch_size, self.placement = num_classes, batch_size, placement

        def count(params, batch):
            mask = batch["mask"]
            outputs = model.apply(params, batch, False)
            hit = losses.accuracy(outputs["logits"], batch["label"]) * mask
            loss = model.act_loss(outputs, batch) * mask
            zero = jnp.zeros((num_classes,), jnp.float32)
            return (
                zero.at[batch["label"]].add(hit),
                zero.at[batch["label"]].add(mask),
                jnp.sum(loss),
            )

        everywhere = None if placement is None else replicated(placement.mesh)
        self._count: Callable = jax.jit(count, out_shardings=everywhere)

    def examples(self, part, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Images and labels of these rows of a part."""
        return {"image": part.images(rows), "label": part.labels[rows]}

    def __call__(
        self, params: PyTree, examples: dict[str, np.ndarray]
    ) -> dict[str, float | list[float]]:
        """accuracy, loss (nats), worst_class (lowest accuracy of a class that occurs), per_class (None where absent)."""
        images, labels = examples["image"], examples["label"]
        hits, seen, loss = np.zeros(self.num_classes), np.zeros(self.num_classes), 0.0
        devices = 1 if self.placement is None else self.placement.num_devices
        size = -(-min(self.batch_size, len(labels)) // devices) * devices
        here = mine(self.placement, size)
        parts = []
        for start in range(0, len(labels), size):
            rows = np.arange(start, start + size)
            mask = (rows < len(labels)).astype(np.float32)
            rows = np.minimum(rows, len(labels) - 1)
            batch = {"image": images[rows[here]], "label": labels[rows[here]], "mask": mask[here]}
            parts.append(self._count(params, put(batch, self.placement, size)))
        for hit, count, total in jax.device_get(parts):
            hits, seen, loss = hits + hit, seen + count, loss + float(total)
        per_class = [float(h / s) if s else None for h, s in zip(hits, seen, strict=True)]
        return {
            "accuracy": float(hits.sum() / seen.sum()),
            "loss": loss / float(seen.sum()),
            "worst_class": min(v for v in per_class if v is not None),
            "per_class": per_class,
        }
