"""Tasks: what is learnt. A task turns a Flax module into a `recipe.Model` and says how it is evaluated; a new objective is a new value."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, PyTree

from active_learning.core import contrastive, losses, sharding
from active_learning.core.contrastive import Embeddings
from active_learning.core.recipe import Batch, Model
from active_learning.data.transforms import normalize, view
from active_learning.evaluators import Accuracy, Retrieval


@dataclass(frozen=True)
class Classification:
    """Single-label classification: softmax cross-entropy, smoothed in training (l_learn), plain for scores (l_act).

    `headline`: the figure of its evaluator that summaries name, higher is better.
    `image_shape` is the view that its modules see (a small one is resized on the device where the batch brings none); `mean` and `std` are
    per channel of its uint8 images / 255.
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: str = "float32"
    label_smoothing: float = 0.0
    headline = "accuracy"

    def prepare(self, batch: Batch) -> Array:
        """The module's input: the view of `image_shape`, normalised, in the compute type."""
        return normalize(view(batch, self.image_shape), self.mean, self.std, jnp.dtype(self.dtype))

    def fitted(self, module: Any) -> Any:
        """The module with a head of as many classes, in the run's compute type."""
        kind = {} if self.dtype == "float32" else {"dtype": self.dtype}
        return dataclasses.replace(module, num_classes=self.num_classes, **kind)

    def on(self, mesh: Mesh) -> "Classification":
        """The task on these devices."""
        del mesh
        return self

    def model(self, module: Any, optimizer: optax.GradientTransformation) -> Model:
        """The module as functions of its parameters."""

        def apply(params: PyTree, batch: Batch, train: bool) -> dict[str, Array]:
            return module.apply({"params": params}, self.prepare(batch), train=train)

        def loss(outputs: dict[str, Array], batch: Batch, smoothing: float = 0.0) -> Array:
            own = losses.softmax_xent(outputs["logits"], batch["label"], smoothing)
            if "mixed_label" not in batch:
                return own
            other = losses.softmax_xent(outputs["logits"], batch["mixed_label"], smoothing)
            return batch["mix"] * own + (1.0 - batch["mix"]) * other

        return Model(apply, partial(loss, smoothing=self.label_smoothing), loss, optimizer)

    def init(self, module: Any, key: Key[Array, ""]) -> PyTree:
        """Fresh parameters of the module."""
        image = jnp.zeros((1, *self.image_shape), jnp.dtype(self.dtype))
        return jax.jit(module.init)(key, image)["params"]

    def evaluator(self, model: Model, batch_size: int, placement=None) -> Accuracy:
        """What judges a model."""
        return Accuracy(model, self.num_classes, batch_size, placement)

    def merit(self, figures: dict) -> float:
        """What the gate compares, higher is better."""
        return figures["accuracy"]


@dataclass(frozen=True)
class Contrastive:
    """Image-text pairs: the softmax (InfoNCE, CLIP) or the sigmoid (SigLIP) loss of each pair within its batch.

    l_act = - score_scale * image . text of the pair's own embeddings (ActiveCLIP); `chunk`: pairs of a block of the loss, 0: all at once.
    The loss is split over the rows of `mesh`. `mean` and `std` as in `Classification`.
    """

    loss: str
    image_shape: tuple[int, int, int]
    context: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: str = "float32"
    score_scale: float = 10.0
    chunk: int = 0
    mesh: Mesh | None = None
    headline = "recall"
    prepare = Classification.prepare

    def fitted(self, module: Any) -> Any:
        """The module in the run's compute type."""
        kind = {} if self.dtype == "float32" else {"dtype": self.dtype}
        towers = {
            name: dataclasses.replace(getattr(module, name), **kind) for name in ("image", "text")
        }
        return dataclasses.replace(module, **towers)

    def on(self, mesh: Mesh) -> "Contrastive":
        """The task on these devices."""
        return dataclasses.replace(self, mesh=mesh if mesh.size > 1 else None)

    def model(self, module: Any, optimizer: optax.GradientTransformation) -> Model:
        """The module as functions of its parameters. A batch without images or without tokens is embedded in part."""

        def apply(params: PyTree, batch: Batch, train: bool) -> Embeddings:
            image = self.prepare(batch) if batch.keys() & {"image", "image_small"} else None
            return module.apply({"params": params}, image, batch.get("tokens"), train=train)

        def act(outputs: Embeddings, batch: Batch) -> Float[Array, "B"]:
            return self.score_scale * contrastive.negative_dot(outputs.image, outputs.text)

        return Model(apply, self._learn_loss, act, optimizer, pairwise=True)

    def _learn_loss(self, outputs: Embeddings, batch: Batch) -> Float[Array, "B"]:
        scalars = (
            (outputs.scale[0],) if self.loss == "softmax" else (outputs.scale[0], outputs.bias[0])
        )
        function = contrastive.info_nce if self.loss == "softmax" else contrastive.sigmoid
        over_rows = sharding.shard_map_rows(partial(function, chunk=self.chunk), self.mesh, rows=2)
        return over_rows(outputs.image, outputs.text, *scalars)

    def init(self, module: Any, key: Key[Array, ""]) -> PyTree:
        """Fresh parameters of both towers."""
        image, tokens = (
            jnp.zeros((1, *self.image_shape), jnp.dtype(self.dtype)),
            jnp.zeros((1, self.context), jnp.int32),
        )
        return jax.jit(module.init)(key, image, tokens)["params"]

    def evaluator(self, model: Model, batch_size: int, placement=None) -> Retrieval:
        """What judges a model."""
        return Retrieval(model, batch_size, placement)

    def merit(self, figures: dict) -> float:
        """What the gate compares: a finer figure than recall."""
        return -figures["log_rank"]
