"""Accuracy, loss and accuracy per class of a classifier."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PyTree

from active_learning.core import losses
from active_learning.core.recipe import Model
from active_learning.core.sharding import replicated
from active_learning.evaluators.batches import map_batches


def images_of(part: Any, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The images of rows of a part: what most models read."""
    return {"image": part.images(rows)}


class Accuracy:
    """Evaluates one architecture on any set, reading it batch by batch.

    Args:
      model: The classifier; its outputs hold "logits".
      num_classes: Number of classes.
      batch_size: Examples a batch; rounded up to a multiple of the number of devices.
      placement: Sharding of a batch over the devices; None for one device.
      inputs: (part, rows) -> what the model reads of a batch besides labels.
    """

    def __init__(
        self,
        model: Model,
        num_classes: int,
        batch_size: int,
        placement: Any = None,
        inputs: Callable[[Any, np.ndarray], dict[str, np.ndarray]] = images_of,
    ):
        self.num_classes, self.batch_size, self.placement = num_classes, batch_size, placement
        self._inputs = inputs

        def judge(params, batch):
            outputs = model.apply(params, batch, False)
            return losses.accuracy(outputs["logits"], batch["label"]), model.act_loss(
                outputs, batch
            )

        def predict(params, batch):
            return jax.nn.softmax(model.apply(params, batch, False)["logits"].astype("float32"))

        everywhere = None if placement is None else replicated(placement.mesh)
        self._judge = jax.jit(judge, out_shardings=everywhere)
        self._predict = jax.jit(predict, out_shardings=everywhere)

    def __call__(
        self, params: PyTree, part: Any, rows: np.ndarray | None = None
    ) -> dict[str, float | list[float | None]]:
        """Evaluate on rows of a part of the split.

        Args:
          params: Parameters of the model.
          part: Has `labels` (n,) and `images(rows)`, and a length.
          rows: Rows to evaluate on; None for all.

        Returns:
          accuracy; loss (mean, in nats); worst_class, the lowest accuracy of a class that occurs;
          per_class, the accuracy of each class (None where it does not occur).
        """
        rows = np.arange(len(part)) if rows is None else rows
        labels = part.labels[rows]
        hits, losses_ = zip(*self._map(self._judge, params, part, rows), strict=True)
        hit, seen = np.concatenate(hits), np.bincount(labels, minlength=self.num_classes)
        right = np.bincount(labels, hit, self.num_classes)
        per_class = [float(r / s) if s else None for r, s in zip(right, seen, strict=True)]
        return {
            "accuracy": float(right.sum() / seen.sum()),
            "loss": float(np.mean(np.concatenate(losses_), dtype=np.float64)),
            "worst_class": min(value for value in per_class if value is not None),
            "per_class": per_class,
        }

    def probabilities(
        self, params: PyTree, part: Any, rows: np.ndarray
    ) -> Float[np.ndarray, "k C"]:
        """The predicted probabilities of rows of a part."""
        return np.concatenate(list(self._map(self._predict, params, part, rows)))

    def _map(self, function: Any, params: PyTree, part: Any, rows: np.ndarray) -> Iterator[Any]:
        """`function(params, batch)` of rows of a part, batch by batch, on the host."""
        labels, size = part.labels[rows], min(self.batch_size, len(rows))

        def read(at: np.ndarray) -> dict[str, np.ndarray]:
            return self._inputs(part, rows[at]) | {"label": labels[at]}

        return map_batches(partial(function, params), read, len(rows), size, self.placement)
