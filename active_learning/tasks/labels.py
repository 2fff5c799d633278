"""Single-label classification."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Integer, PyTree

from active_learning.config import ConfigError, setting
from active_learning.core import losses
from active_learning.core.recipe import Batch, Model
from active_learning.curation.estimate import agreement, corrupted_fraction, wilson
from active_learning.curation.records import Estimate
from active_learning.data.parts import Part
from active_learning.evaluators import Accuracy
from active_learning.tasks.base import LabelCheck, SoftLoss, Task, View


@dataclass(frozen=True)
class Labels(Task):
    """Softmax cross-entropy: smoothed in training (l_learn), plain for scores (l_act)."""

    label_smoothing: float = setting(0.0, at_least=0.0, below=1.0)

    primary_metric = "accuracy"

    def check(self, config: Any) -> None:
        policy = config.select.policy
        if policy.needs_embeddings:
            raise ConfigError(
                f"config.select.policy: {policy.name!r} scores image-text pairs; set config.task"
            )

    def specialize(self, module: Any, view: View) -> Any:
        dtype = {} if view.dtype == "float32" else {"dtype": view.dtype}
        return dataclasses.replace(module, num_classes=view.num_classes, **dtype)

    def model(self, module: Any, view: View, optimizer: optax.GradientTransformation) -> Model:
        def apply(params: PyTree, batch: Batch, train: bool) -> dict[str, Array]:
            return module.apply({"params": params}, view.prepare(batch), train=train)

        def loss(
            outputs: dict[str, Array], batch: Batch, smoothing: float = 0.0
        ) -> Float[Array, "B"]:
            label = jnp.asarray(batch["label"])
            own = losses.softmax_xent(outputs["logits"], label, smoothing)
            if "mixed_label" not in batch:
                return own
            mix, label = jnp.asarray(batch["mix"]), jnp.asarray(batch["mixed_label"])
            other = losses.softmax_xent(outputs["logits"], label, smoothing)
            return mix * own + (1.0 - mix) * other

        return Model(apply, partial(loss, smoothing=self.label_smoothing), loss, optimizer)

    def soft_loss(self, view: View, temperature: float) -> SoftLoss:
        del view

        def loss(outputs: dict[str, Array], teacher: dict[str, Array]) -> Float[Array, "B"]:
            return losses.soft_xent(outputs["logits"], teacher["logits"], temperature)

        return loss

    def example(self, view: View) -> tuple[Array, ...]:
        return (jnp.zeros((1, *view.input_shape), jnp.dtype(view.dtype)),)

    def evaluator(
        self, model: Model, view: View, batch_size: int, placement: Any = None
    ) -> Accuracy:
        return Accuracy(model, view.num_classes, batch_size, placement, view.read)

    def gate_metric(self, metrics: dict[str, float]) -> float:
        return metrics["accuracy"]

    def check_labels(
        self, evaluator: Accuracy, params: PyTree, part: Part, rows: np.ndarray
    ) -> LabelCheck | None:
        labels = part.labels[rows]
        if len(np.unique(labels)) < 2:
            return None
        return check_of(evaluator.probabilities(params, part, rows), labels, part.labels)


def check_of(
    probabilities: Float[np.ndarray, "n C"],
    labels: Integer[np.ndarray, "n"],
    every_label: Integer[np.ndarray, "m"],
) -> LabelCheck:
    """The check from a model's predictions for `labels`, some of the labels `every_label`."""
    measured, counts = agreement(probabilities, labels), np.bincount(every_label)
    n, right = measured.count, 1.0 - measured.all
    middle, half = wilson(right, n)
    return LabelCheck(
        corrupted=corrupted_fraction(measured),
        agreement=Estimate(right, max(middle - half, 0.0), min(middle + half, 1.0)),
        chance=float(counts.max() / counts.sum()),
        imbalance=float(counts.max() / counts[counts > 0].min()),
        count=n,
    )
