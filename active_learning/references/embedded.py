"""A reference of image-text pairs whose embeddings are stored (the paper's foundation dataset)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from active_learning.config import ConfigError, setting
from active_learning.data.stored_rows import REFERENCE_COLUMNS
from active_learning.models.published import Published, open_published
from active_learning.references.base import Reference, WithoutModel
from active_learning.references.loaded import run_for_plan
from active_learning.references.row_pass import embedding_flops


@dataclass(frozen=True)
class Embedded(WithoutModel, Reference):
    """Published two towers that embed every image and every caption once, before the first update.

    The embeddings are stored by id and joined to each batch; no reference runs while the run
    trains, however large it is.
    """

    kind_name = "embedded"

    # Published weights, as in `Published`.
    path: str = ""
    # Folder of the embeddings, which several runs may share; '': WORKDIR/features.
    store: str = setting("", hashed=False)
    # Whether the pass over the training data is on this run's bill.
    charge: bool = True

    def check(self, config: Any) -> None:
        if not self.path:
            raise ConfigError(
                "config.reference.kind='embedded' needs config.reference.path, published weights "
                "of two towers"
            )
        if not config.task.text:
            raise ConfigError(
                "config.reference.kind='embedded' is for image-text pairs; for labels, heads on "
                "stored features are: config.scorer=section(OnFeatures, of=...)"
            )

    def published(self, config: Any) -> Published | None:
        self.check(config)
        return Published(path=self.path)

    def for_plan(self) -> Reference:
        """Itself, or a stand-in where its weights are not there."""
        return self if Path(self.path).exists() else run_for_plan(self.path)

    def planned_pass_flops(
        self, image_shape: tuple[int, int, int], images: int, captions: int, classes: int
    ) -> float:
        del classes
        if not self.charge:
            return 0.0
        module = open_published(Published(path=self.path), True, "config.reference").module
        return embedding_flops(module, image_shape, images, captions)

    def batch_columns(self, module: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
        width = module.image_out or module.image.width
        shapes = (width,), (width,), (), ()
        return {
            name: ("float32", shape) for name, shape in zip(REFERENCE_COLUMNS, shapes, strict=True)
        }
