"""A reference for labels that reads the words of the classes: published two towers."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from active_learning.config import ConfigError, setting
from active_learning.data.parts import Data
from active_learning.data.tokenizer import Tokenizer, check_tower, find, load
from active_learning.models.published import Published, Resolved, open_published
from active_learning.references import score_file
from active_learning.references.base import Reference, WithoutModel
from active_learning.references.loaded import run_for_plan
from active_learning.references.row_pass import embedding_flops

TEMPLATES = ("a photo of a {}.", "a {}.", "there is a {} in the picture.")


@dataclass(frozen=True)
class ZeroShot(WithoutModel, Reference):
    """Published two towers whose loss is that of each label among the words of all classes.

    Every image is embedded once, before the first update, and compared with the mean embedding of
    each class in the templates, as in zero-shot classification. Nothing is trained on the labels,
    and no reference runs while the run trains.
    """

    kind_name = "zero_shot"

    # Published weights of two towers, as in `Published`.
    path: str = ""
    # Word of each class, in the order of the classes; none: their names in the data.
    words: tuple[str, ...] = ()
    # Texts with a place '{}' for the word.
    templates: tuple[str, ...] = TEMPLATES
    # As `task.tokenizer` of pairs; '': the one beside the weights.
    tokenizer: str = ""
    # Folder of the image embeddings, which several runs may share; '': WORKDIR/features.
    store: str = setting("", hashed=False)
    # Whether the pass over the training data is on this run's bill.
    charge: bool = True

    def check(self, config: Any) -> None:
        policy = config.select.policy
        if not self.path:
            raise ConfigError(
                "config.reference.kind='zero_shot' needs config.reference.path, published weights "
                "of two towers"
            )
        if config.task.text:
            raise ConfigError(
                "config.reference.kind='zero_shot' scores labels; for image-text pairs use "
                "'embedded' or 'loaded'"
            )
        if not self.templates or any("{}" not in text for text in self.templates):
            raise ConfigError(
                f"config.reference.templates={self.templates}: each needs a place '{{}}' for the "
                "word of a class"
            )
        if policy.reads_reference and "reference" in policy.needs and policy.observe is not None:
            raise ConfigError(
                f"config.reference.kind='zero_shot': policy {policy.name!r} reads more of the "
                "reference than its losses"
            )

    def attach(self, config: Any, data: Data, view: str) -> tuple[Data, dict | None]:
        """Checks that the words are those of the classes, and the tokenizer that of the weights."""
        resolved = self.opened()
        names = self.words_of(data)
        if len(names) != data.num_classes:
            given = "config.reference.words" if self.words else "names of classes in the data"
            raise ConfigError(
                f"{given}: {len(names)} for {data.num_classes} classes; give "
                "config.reference.words, one for each class in order"
            )
        tower = resolved.module.text
        check_tower("config.reference.path: text", tower, self.tokens(resolved))
        about = data.provenance | {"scores": resolved.content_hash()}
        return dataclasses.replace(data, provenance=about), None

    def opened(self) -> Resolved:
        """The weights. Raises ConfigError for those without a text tower."""
        return open_published(Published(path=self.path), texts=True, key="config.reference")

    def words_of(self, data: Data) -> tuple[str, ...]:
        """The word of each class."""
        return self.words or tuple(data.class_names)

    def tokens(self, resolved: Resolved) -> Tokenizer:
        """The tokenizer of the weights."""
        beside = find(resolved.weights.tensors.path.parent)
        if not self.tokenizer and beside is None:
            raise ConfigError(
                "config.reference.tokenizer='': there is none beside the weights "
                f"({self.path}); give its file or folder"
            )
        return load(self.tokenizer or str(beside))

    def for_plan(self) -> Reference:
        """Itself, or a stand-in where its weights are not there."""
        return self if Path(self.path).exists() else run_for_plan(self.path)

    def planned_pass_flops(
        self, image_shape: tuple[int, int, int], images: int, captions: int, classes: int
    ) -> float:
        del captions
        return self.pass_flops(self.opened().module, image_shape, images, classes)

    def pass_flops(
        self, module: Any, image_shape: tuple[int, int, int], images: int, classes: int
    ) -> float:
        """FLOPs of embedding the images and the words of the classes that a run is charged for."""
        if not self.charge:
            return 0.0
        return embedding_flops(module, image_shape, images, classes * len(self.templates))

    def batch_columns(self, module: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {score_file.COLUMN: ("float32", ())}
