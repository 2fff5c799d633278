"""Models of a run that start from published weights: modules, pixels, rates and parameters."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import jax
import optax
from jaxtyping import PyTree

from active_learning.config import ConfigError
from active_learning.core.recipe import Model
from active_learning.cost import flops
from active_learning.data import tokenizer
from active_learning.models.frozen import scale_rates, stop_frozen, trained_cost, trained_only
from active_learning.models.on_features import OnFeatures, open_features
from active_learning.models.published import Published, Resolved, open_published
from active_learning.models.weights.adapt import format_lines
from active_learning.settings import Config
from active_learning.tasks import View


@dataclass(frozen=True)
class Start:
    """Where a model starts: from random parameters (`resolved` is None) or from a weights file."""

    resolved: Resolved | None = None

    @property
    def feature_scorer(self) -> OnFeatures | None:
        """The config value of a model that reads stored features, None for others."""
        return None

    @property
    def freeze(self) -> str:
        """Which parameters are not trained."""
        return "" if self.resolved is None else self.resolved.published.freeze

    def view(self, view: View) -> View:
        """The view with the normalization that the weights are for."""
        if self.resolved is None:
            return view
        about = self.resolved.about
        return dataclasses.replace(view, mean=about.mean, std=about.std)

    def optimizer(self, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        """The optimizer with the rates of layers and head, for what is trained."""
        if self.resolved is None:
            return optimizer
        published = self.resolved.published
        if (published.layer_decay, published.head_rate) != (1.0, 1.0):
            rates = scale_rates(published.layer_decay, published.head_rate)
            optimizer = optax.chain(optimizer, rates)
        return trained_only(optimizer, published.freeze)

    def model(self, model: Model) -> Model:
        """The model whose gradient is not computed where it is frozen."""
        return dataclasses.replace(model, apply=stop_frozen(model.apply, self.freeze))

    def cost(self, module: Any, image_shape: tuple[int, int, int]) -> flops.Cost:
        """FLOPs per example of training the module."""
        if self.resolved is None:
            return module.cost(image_shape)
        return trained_cost(module, image_shape, self.freeze)

    def params(self, module: Any, view: View, key: jax.Array) -> PyTree | None:
        """The parameters of the file, fitted to the data; None for random ones."""
        if self.resolved is None:
            return None
        adapted = self.resolved.adapted(module, view.image_shape)
        return adapted.params(key, self.resolved.published.head)

    def report(self, module: Any, view: View) -> dict[str, Any] | None:
        """What was taken from which file, for config.json; None for random parameters."""
        if self.resolved is None:
            return None
        lines = self.resolved.adapted(module, view.image_shape).lines
        return {
            "layout": self.resolved.weights.layout.name,
            "hash": self.resolved.content_hash(),
            "table": format_lines(lines).splitlines(),
        }


@dataclass(frozen=True)
class HeadStart(Start):
    """A head with random parameters, on features that `resolved` gives."""

    # The config value.
    scorer: OnFeatures = field(default_factory=OnFeatures)
    # Features of an example.
    width: int = 0

    @property
    def freeze(self) -> str:
        return ""

    @property
    def feature_scorer(self) -> OnFeatures:
        return self.scorer

    def view(self, view: View) -> View:
        """The view whose examples are stored features; the images' pixels are of no matter."""
        return dataclasses.replace(view, features=self.width)

    def optimizer(self, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        return optimizer

    def cost(self, module: Any, image_shape: tuple[int, int, int]) -> flops.Cost:
        return module.cost(image_shape)

    def params(self, module: Any, view: View, key: jax.Array) -> PyTree | None:
        return None

    def report(self, module: Any, view: View) -> dict[str, Any]:
        """The model that gives the features, for config.json."""
        assert self.resolved is not None
        lines = self.resolved.adapted(self.resolved.module, view.image_shape).lines
        return {
            "layout": self.resolved.weights.layout.name,
            "hash": self.resolved.content_hash(),
            "table": format_lines(lines).splitlines(),
        }


RANDOM = Start()


@dataclass(frozen=True)
class Starts:
    """Where learner, scorer and a published reference start."""

    learner: Start = RANDOM
    scorer: Start = RANDOM
    # Of a reference that has an architecture of its own, None for others.
    reference: Start | None = None


def open_models(config: Config) -> tuple[Config, Starts]:
    """The config with modules in place of `Published` values, and where its models start.

    Raises:
      ConfigError: Names the key and what is wrong with its weights file.
    """
    starts: dict[str, Start] = {}
    given = config.learner
    for role, value in (("learner", config.learner), ("scorer", config.scorer)):
        if isinstance(value, OnFeatures):
            _check_features(config)
            resolved, head = open_features(value, given, f"config.{role}")
            config = dataclasses.replace(config, **{role: head})
            starts[role] = HeadStart(resolved, value, head.inputs)
        if isinstance(value, Published):
            resolved = open_published(value, bool(config.task.text), f"config.{role}")
            config = dataclasses.replace(config, **{role: resolved.module})
            starts[role] = Start(resolved)
            if config.task.text:
                _check_tokenizer(config, role, resolved)
    if config.select.policy.reads_reference:
        weights = config.reference.published(config)
        if weights is not None:
            starts["reference"] = Start(_open_reference(config, weights))
    return config, Starts(**starts)


def _open_reference(config: Config, weights: Published) -> Resolved:
    """Published weights that score pairs, which must read the learner's tokens."""
    resolved = open_published(weights, texts=True, key="config.reference")
    _check_tokenizer(config, "reference", resolved)
    theirs, ours = resolved.module.text.context, config.learner.text.context
    if theirs != ours:
        raise ConfigError(
            f"config.reference.path={weights.path!r}: reads texts of {theirs} tokens, "
            f"config.learner.text.context={ours}"
        )
    return resolved


def _check_features(config: Config) -> None:
    """Refuses what stored features of unaugmented images cannot do."""
    if config.task.text:
        raise ConfigError(
            "config.scorer: heads on stored features score labels; for image-text pairs use a "
            "TwoTower, or config.reference.kind='stored' with stored embeddings"
        )
    if config.augmentation.mixup:
        raise ConfigError(
            f"config.augmentation.mixup={config.augmentation.mixup}: config.scorer reads stored "
            "features, which are of one image each; set it to 0"
        )
    if config.data.small:
        raise ConfigError(
            f"config.data.small={config.data.small}: config.scorer reads stored features instead "
            "of a small view; set it to 0"
        )


def _check_tokenizer(config: Config, role: str, resolved: Resolved) -> None:
    """Refuses a tokenizer of one's own for a text tower that was trained with another."""
    if config.task.tokenizer:
        return
    folder = resolved.weights.tensors.path.parent
    there = tokenizer.find(folder)
    where = f"; there is one beside the weights: {there}" if there else ""
    raise ConfigError(
        f"config.task.tokenizer='': config.{role} has a text tower that was trained with its own "
        f"tokenizer, give its file or folder{where}"
    )


def check_param_shapes(params: PyTree, like: PyTree, key: str) -> PyTree:
    """Returns `params` when its tree and shapes are those of `like`.

    Raises:
      ConfigError: Names the first parameter that differs.
    """
    theirs, ours = _shapes(params), _shapes(like)
    for name in sorted(set(ours) | set(theirs)):
        if ours.get(name) != theirs.get(name):
            raise ConfigError(
                f"{key}: parameter {name} is {theirs.get(name)} there, {ours.get(name)} in this "
                "config"
            )
    return params


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in leaves}
