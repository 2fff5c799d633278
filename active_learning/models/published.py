"""A learner or scorer that starts from published weights, as one config value."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxtyping import Array, Key, PyTree

from active_learning.config import ConfigError, Section, setting
from active_learning.models.frozen import check_freeze, parse_freeze
from active_learning.models.two_tower import TwoTower
from active_learning.models.vit import ViT
from active_learning.models.weights.adapt import Adaptation, adapt, format_lines
from active_learning.models.weights.files import Weights, open_weights
from active_learning.models.weights.layout import About


@dataclass(frozen=True)
class Published(Section):
    """The model of a weights file: its architecture, sizes, normalization and parameters.

    The head is taken where it has as many classes as the data, else it is new; positions are
    resized to the images of the data as the publisher does.
    """

    # A .safetensors or .npz file, or a folder with one (docs/weights.md has the layouts).
    path: str = ""
    # Attention heads, where the file does not say; 0: as it says.
    heads: int = setting(0, at_least=0, at_most=4096)
    # How a new head begins: 'zero', or 'normal' with a deviation of 0.01.
    head: str = setting("zero", one_of=("zero", "normal"))
    # Another patch size than the file's, whose kernel is then resized; 0: the file's.
    patch: int = setting(0, at_least=0, at_most=4096)
    # What is not trained: '', 'all but head', 'first N blocks', or the tower 'image' or 'text'.
    freeze: str = ""
    # Factor of the learning rate from each block to the one below it; 1: the same for all.
    layer_decay: float = setting(1.0, above=0.0, at_most=1.0)
    # Factor of the learning rate of the head.
    head_rate: float = setting(1.0, above=0.0, at_most=1e4)
    # As in ViT.
    scan: bool = setting(False, hashed=False)
    remat: str = setting("off", one_of=("off", "full", "dots"), hashed=False)
    attention: str = setting("xla", one_of=("xla", "cudnn"))


@dataclass(frozen=True)
class Resolved:
    """A `Published` value together with what its file says.

    Attributes:
      published: The config value.
      weights: The opened file.
      module: The ViT or TwoTower, with the file's number of classes.
    """

    published: Published
    weights: Weights
    module: Any

    @property
    def about(self) -> About:
        """Images, normalization and class names that the weights are for."""
        return self.weights.about

    def adapted(self, module: Any, image_shape: tuple[int, int, int]) -> Adaptation:
        """The file fitted to `module`, this one with another head or compute type."""
        return adapt(self.weights, module, image_shape)

    def content_hash(self) -> str:
        """Hash of the weights file, for provenance; the file is read once."""
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        return content_hash(self.weights.tensors.path)


def open_published(published: Published, texts: bool, key: str = "config.learner") -> Resolved:
    """Reads what a weights file says of its model; no values.

    Args:
      published: The config value.
      texts: Whether the task has texts: both towers are wanted; else the image tower.
      key: Of the value in the config, for error messages.

    Raises:
      ConfigError: Names the key and what is wrong with the file or the value.
    """
    if not published.path:
        raise ConfigError(f"{key}.path='': give a .safetensors or .npz file, or a folder with one")
    parse_freeze(published.freeze, f"{key}.freeze")
    try:
        weights = open_weights(published.path, published.heads)
    except ConfigError as error:
        raise ConfigError(f"{key}.path: {error}") from error
    module = weights.module
    if texts and not isinstance(module, TwoTower):
        raise ConfigError(
            f"{key}.path={published.path!r}: layout {weights.layout.name} has no text tower, "
            "config.task needs one"
        )
    if isinstance(module, TwoTower) and not texts:
        module = module.image
    module = _with_options(published, module, key)
    check_freeze(parse_freeze(published.freeze, f"{key}.freeze"), module, f"{key}.freeze")
    return Resolved(published, weights, module)


def _with_options(published: Published, module: Any, key: str) -> Any:
    """The module with the keys that change how, and on which patches, it runs."""
    options = {
        "scan": published.scan,
        "remat": published.remat,
        "attention": published.attention,
    }
    if isinstance(module, TwoTower):
        image = _with_options(published, module.image, key)
        return replace(module, image=image, text=replace(module.text, **options))
    if not isinstance(module, ViT):
        raise ConfigError(f"{key}.path={published.path!r}: holds a {type(module).__name__}, no ViT")
    return replace(module, **options, patch=published.patch or module.patch)


def resolve(
    published: Published,
    image_shape: tuple[int, int, int],
    num_classes: int,
    texts: bool = False,
    key: str = "config.learner",
) -> tuple[Any, Callable[[Key[Array, ""]], PyTree], str]:
    """The module, its initial parameters and a report for data of this kind.

    Args:
      published: The config value.
      image_shape: Of the images of the data.
      num_classes: Of the labels; 0: no head.
      texts: Whether both towers are wanted.
      key: Of the value in the config, for error messages.

    Returns:
      The module; (random key) -> its initial parameters, which reads the file; a table of what is
      taken, resized, new and left.

    Raises:
      ConfigError: Names the key and what does not fit.
    """
    resolved = open_published(published, texts, key)
    module = resolved.module
    if isinstance(module, ViT):
        module = replace(module, num_classes=num_classes)
    adapted = resolved.adapted(module, image_shape)
    init = lambda rng: adapted.params(rng, published.head)
    return module, init, format_lines(adapted.lines)


def content_hash(path: Path) -> str:
    """Sixteen hex digits over the bytes of a file; of an index, over those of its files too."""
    digest = hashlib.sha256()
    files = [path]
    if path.name.endswith(".index.json"):
        files += sorted(path.parent.glob("*.safetensors"))
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
