"""A reference that is fitted in closed form: a kernel classifier on patches of the images."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from active_learning.config import ConfigError, setting
from active_learning.curation.features import SAMPLED, PatchFeatures
from active_learning.data import splits
from active_learning.data.parts import Data
from active_learning.references import score_file
from active_learning.references.base import Reference, WithoutModel

FOLDS = 5
SAMPLE = 4000  # images that filters and components are fitted to
LEAST = 20  # examples to fit to
ASKED = 10_000  # labels that the temperature and the estimate of wrong ones are taken from
# Fraction of uniform training's FLOPs that `size='auto'` stays below, where a size does.
PRICE = 0.02


@dataclass(frozen=True)
class KernelSize:
    """How much of everything: features of the images, and landmarks of the kernel."""

    patches: PatchFeatures
    landmarks: int


SIZES = {
    "tiny": KernelSize(PatchFeatures(size=12, filters=64, components=128), 256),
    "small": KernelSize(PatchFeatures(size=16, filters=64, components=128), 512),
    "medium": KernelSize(PatchFeatures(size=24, filters=128, components=256), 1024),
    "large": KernelSize(PatchFeatures(size=32, filters=256, components=512), 2048),
}


@dataclass(frozen=True)
class Kernel(WithoutModel, Reference):
    """A kernel classifier on features of image patches, in closed form; nothing is trained.

    Before the first update every image is described once by clusters of its patches, without
    labels (`curation.features`), and a kernel ridge classifier is fitted to the given labels. Each
    example is judged by a classifier that did not see it: of a held-out part, or, with `part=''`,
    of the other folds of the training data, so that nothing has to be held out. No reference runs
    while the run trains.
    """

    kind_name = "kernel"

    # Part of the split that it is fitted to; '': the training data, in FOLDS folds.
    part: str = ""
    # 'tiny', 'small', 'medium', 'large', or 'auto': the largest of at most PRICE of the FLOPs of
    # uniform training.
    size: str = setting("auto", one_of=(*SIZES, "auto"))
    # Added to the kernel's diagonal.
    ridge: float = setting(1.0, above=0.0, at_most=1e6)
    # Folder of the features, which several runs may share; '': WORKDIR/features.
    store: str = setting("", hashed=False)
    # Whether features, fit and scores are on this run's bill.
    charge: bool = True

    def check(self, config: Any) -> None:
        policy = config.select.policy
        if not policy.reads_reference:
            return
        if config.task.text:
            raise ConfigError(
                "config.reference.kind='kernel' scores labels; for image-text pairs use "
                "'embedded' or 'trained'"
            )
        if "reference" in policy.needs and policy.observe is not None:
            raise ConfigError(
                f"config.reference.kind='kernel': policy {policy.name!r} reads more of the "
                "reference than its losses"
            )
        if self.part and self.part in (*config.evaluate.sets, config.evaluate.gate):
            raise ConfigError(
                f"config.reference.part={self.part!r} is also an evaluation set; choose a part "
                "that is not in config.evaluate.sets and not config.evaluate.gate"
            )
        if self.part in config.split.train_on:
            raise ConfigError(
                f"config.reference.part={self.part!r} is trained on; leave it empty to judge each "
                "example by the other folds"
            )

    def held_out(self, config: Any) -> bool:
        del config
        return True

    @property
    def title(self) -> str:
        return f"{self.kind_name} ({self.size})"

    @property
    def fitted_parts(self) -> set[str]:
        return {self.part} - {""}

    def attach(self, config: Any, data: Data, view: str) -> tuple[Data, dict | None]:
        """Checks the part that it is fitted to."""
        del view
        if self.part and self.part not in config.split.parts:
            known = ", ".join(config.split.parts)
            raise ConfigError(
                f"config.reference.part={self.part!r}: no part is named so; parts: {known}"
            )
        fitted = data.parts[self.part] if self.part else data.train
        if len(fitted) < LEAST or len(np.unique(splits.fold_of(fitted.picture_ids, FOLDS))) < 2:
            raise ConfigError(
                f"config.reference.kind='kernel': {len(fitted)} examples to fit to are too few "
                f"(at least {LEAST} pictures that differ)"
            )
        return data, None

    def sized(
        self,
        image_shape: tuple[int, int, int],
        images: Callable[[], int],
        classes: int,
        run_flops: float,
    ) -> tuple["Kernel", float]:
        """Itself with a size instead of 'auto', and what that costs of uniform training.

        Args:
          image_shape: Of the images that it sees.
          images: How many the run is charged for.
          classes: Classes of the data.
          run_flops: FLOPs of the run without selection.
        """
        count, names = images(), list(SIZES) if self.size == "auto" else [self.size]
        prices = {
            name: size_flops(SIZES[name], image_shape, count, classes) / run_flops for name in names
        }
        fits = [name for name in names if prices[name] <= PRICE]
        name = fits[-1] if fits else names[0]
        return dataclasses.replace(self, size=name), prices[name] if self.charge else 0.0

    def planned_pass_flops(
        self, image_shape: tuple[int, int, int], images: int, captions: int, classes: int
    ) -> float:
        del captions
        if not self.charge:
            return 0.0
        return size_flops(SIZES[self.size], image_shape, images, classes)

    def batch_columns(self, module: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {score_file.COLUMN: ("float32", ())}


def size_flops(
    size: KernelSize, image_shape: tuple[int, int, int], images: int, classes: int
) -> float:
    """FLOPs of features, fits and scores, as if all images were fitted to and judged."""
    patches, m = size.patches, size.landmarks
    inputs, filters = patches.patch**2 * image_shape[2], patches.filters
    side = (patches.size - patches.patch) // patches.stride + 1
    responses, d = 8 * filters, patches.components
    describe = side**2 * inputs * filters * 2
    coordinates = 2 * d * m + m**2
    fit = coordinates + 2 * m**2 + 2 * m * classes
    judge = coordinates + 2 * (1 + FOLDS) * m * classes
    each = describe + 2 * d * responses + fit + judge
    sample = min(SAMPLE, images)
    clusters = SAMPLED * inputs * (8 * 2 * filters + 4 * inputs)
    components = sample * (describe + 2 * responses**2) + 10 * responses**3
    solve = m**2 * d * 2 + (1 + FOLDS) * m**3 / 3
    return images * each + min(ASKED, images) * judge + clusters + components + solve
