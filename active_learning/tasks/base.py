"""What every task provides, and the view through which a model sees its examples."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Integer, Key, PyTree

from active_learning.config import ConfigError, Section
from active_learning.core.recipe import Batch, Model
from active_learning.curation.records import Estimate
from active_learning.data.parts import Data, Part
from active_learning.data.sources.source import channel_stats
from active_learning.data.stored_rows import COLUMN
from active_learning.data.transforms import normalize, view

# (outputs, the teacher's outputs) -> a loss for each example.
SoftLoss = Callable[[Any, Any], Float[Array, "B"]]


@dataclass(frozen=True)
class View:
    """What the modules of one role (learner, or scorers) read.

    Where a batch brings no image of this size, the larger one is resized on the device.
    """

    # Height, width and channels of the images.
    image_shape: tuple[int, int, int]
    # Per channel, of uint8 images / 255.
    mean: tuple[float, ...]
    std: tuple[float, ...]
    # Classes of the labels, and tokens of a caption (0: there are none).
    num_classes: int = 0
    context: int = 0
    # Compute type of the modules; parameters, losses and scores are float32.
    dtype: str = "float32"
    # The devices over which losses of pairs are split; None: one device.
    mesh: Mesh | None = None
    # Width of the stored features that are read instead of images; 0: images are read.
    features: int = 0

    def prepare(self, batch: Batch) -> Float[Array, "B ..."]:
        """The images of a batch at this size, normalized, in the compute type.

        Or its stored features, for models that read those.
        """
        if self.features:
            return jnp.asarray(batch[COLUMN], jnp.dtype(self.dtype))
        images = view(batch, self.image_shape)
        return normalize(images, self.mean, self.std, jnp.dtype(self.dtype))

    def read(self, part: Any, rows: Integer[np.ndarray, "k"]) -> dict[str, np.ndarray]:
        """What `prepare` needs of rows of a part: their images, or their stored features."""
        if self.features:
            return {COLUMN: part.stored_features(rows)}
        return {"image": part.images(rows)}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of what a module reads of one example."""
        return (self.features,) if self.features else self.image_shape

    def on(self, mesh: Mesh) -> "View":
        """The view on these devices."""
        return dataclasses.replace(self, mesh=mesh if mesh.size > 1 else None)

    def with_small(self, train: Part, task: "Task") -> "View":
        """The view of the scorers: the small view of the data, or the same where there is none."""
        small = train.small_view()
        if small is train:
            return self
        mean, std = task.pixel_stats(small)
        shape = tuple(small.source.image_shape)
        return dataclasses.replace(self, image_shape=shape, mean=mean, std=std)


@dataclass(frozen=True)
class LabelCheck:
    """What a cheap model says about labels that it was not trained on; intervals are of 95 %."""

    # Estimated fraction of corrupted labels.
    corrupted: Estimate
    # Fraction of the labels that the model predicts: how good it is, as far as labels can tell.
    agreement: Estimate
    # The same if one always predicted the most frequent class.
    chance: float
    # Examples of the most frequent class over those of the least frequent one that occurs.
    imbalance: float
    # Examples that were looked at.
    count: int

    def as_dict(self) -> dict[str, Any]:
        """The values as JSON types."""
        return dataclasses.asdict(self) | {"text": str(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LabelCheck":
        """The inverse of `as_dict`."""
        corrupted, agreement = (Estimate(**values[name]) for name in ("corrupted", "agreement"))
        return cls(corrupted, agreement, values["chance"], values["imbalance"], values["count"])

    def __str__(self) -> str:
        def span(value: Estimate) -> str:
            return f"{value.low:.1%} to {value.high:.1%}"

        return (
            f"{span(self.corrupted)} are corrupted, estimated on {self.count:,} examples by a "
            f"model that predicts {span(self.agreement)} of them (the most frequent class: "
            f"{self.chance:.1%}); the largest class has {self.imbalance:.1f} times the examples "
            "of the smallest"
        )


class Task(Section):
    """What is learnt. Turns a Flax module into a `core.recipe.Model` and says how it is judged."""

    # Name of the evaluator's metric that summaries quote; higher is better.
    primary_metric: ClassVar[str]
    # Column of the data that holds the captions; empty without captions.
    text: str = ""
    # Where their tokenizer lies; empty: one is trained, or there are no captions.
    tokenizer: str = ""

    def check(self, config: Any) -> None:
        """Refuses what the task cannot do. Raises ConfigError."""
        raise NotImplementedError

    def attach(self, config: Any, data: Data) -> Data:
        """Joins what the task reads besides images and labels."""
        del config
        return data

    def pixel_stats(self, train: Part) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the channels that images are normalized with."""
        return channel_stats(train.source, train.stats_rows())

    def view(self, config: Any, data: Data) -> View:
        """The view of the learner on these data."""
        mean, std = self.pixel_stats(data.train)
        height, width, channels = data.train.source.image_shape
        return self.view_of(config, (height, width, channels), data.num_classes, mean, std)

    def view_of(
        self,
        config: Any,
        image_shape: tuple[int, int, int],
        num_classes: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> View:
        """The view on images of this shape, without opening any data."""
        return View(image_shape, mean, std, num_classes=num_classes, dtype=config.dtype)

    def specialize(self, module: Any, view: View) -> Any:
        """The module with what the data decide filled in (classes, compute type)."""
        raise NotImplementedError

    def model(self, module: Any, view: View, optimizer: optax.GradientTransformation) -> Model:
        """The module as functions of its parameters."""
        raise NotImplementedError

    def soft_loss(self, view: View, temperature: float) -> SoftLoss:
        """The loss of a learner against the outputs of a reference on the same batch."""
        raise NotImplementedError

    def example(self, view: View) -> tuple[Array, ...]:
        """Inputs of a module, one example of zeros each."""
        raise NotImplementedError

    def init(self, module: Any, view: View, key: Key[Array, ""]) -> PyTree:
        """Fresh parameters of a module."""
        return jax.jit(module.init)(key, *self.example(view))["params"]

    def batch_leaves(self, view: View) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """Type and shape (without the batch axis) of what a batch carries for this task."""
        return {"image": (np.dtype(np.uint8), view.image_shape), "label": (np.dtype(np.int32), ())}

    def evaluator(self, model: Model, view: View, batch_size: int, placement: Any = None) -> Any:
        """What judges a model: `evaluator(params, part, rows) -> metrics`."""
        raise NotImplementedError

    def gate_metric(self, metrics: dict[str, float]) -> float:
        """What online and reference are compared by on the gate; higher is better."""
        raise NotImplementedError

    def check_labels(
        self, evaluator: Any, params: PyTree, part: Part, rows: np.ndarray
    ) -> LabelCheck | None:
        """What a model says about the labels of rows of a part that it was not trained on.

        None where the task has no such check, or where nothing can be estimated.
        """
        del evaluator, params, part, rows
        return None

    def extra_metrics(
        self, experiment: Any, evaluator: Any, params: PyTree, name: str, metrics: dict
    ) -> dict:
        """More metrics of a finished run on the set `name`, beside the evaluator's `metrics`."""
        del experiment, evaluator, params, name, metrics
        return {}

    def flag_metrics(
        self, experiment: Any, evaluator: Any, params: PyTree, args: Any
    ) -> dict[str, Any]:
        """Metrics that further flags of `evaluate` ask for.

        Raises:
          ConfigError: For flags of other tasks.
        """
        del experiment, evaluator, params
        if args is not None and (args.judgements or args.zero_shot or args.captions):
            raise ConfigError("--judgements, --zero_shot, --captions: config.task has no texts")
        return {}

    def describe(self, data: Data) -> str:
        """The examples in a few words, for logs."""
        return f"{data.num_classes} classes"

    def check_reference_texts(self, module: Any, data: Data) -> None:
        """Refuses a published reference that reads other tokens. Raises ConfigError."""
        del module, data

    def check_loaded_reference(self, folder: Any, data: Data) -> None:
        """Refuses a reference of a run that read other inputs. Raises ConfigError."""
