"""Features, fit and scores of a kernel reference, once, before the first update of a run."""

import dataclasses
import hashlib
import io
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Float32, Int64

from active_learning import distributed
from active_learning.core.sharding import batch_sharding, replicated
from active_learning.curation.features import FittedPatches, fit_patches, fitted_features
from active_learning.curation.kernel import (
    KernelSettings,
    Landmarks,
    best_temperature,
    drawn_landmarks,
    softmax,
)
from active_learning.curation.scores import FLOOR, label_probability
from active_learning.data import splits
from active_learning.data.errors import DataError
from active_learning.data.parts import Part
from active_learning.data.stored_rows import AGAIN, RowTable, folder_for, ids_hash
from active_learning.data.transforms import resize
from active_learning.evaluators.batches import map_batches
from active_learning.metrics import LOG, write_atomic
from active_learning.references import Kernel, score_file
from active_learning.references.kernel import ASKED, FOLDS, SAMPLE, SIZES, KernelSize
from active_learning.references.kernel_fit import KernelFit, Read, fit_kernel
from active_learning.references.row_pass import Values, fill
from active_learning.tasks.base import LabelCheck
from active_learning.tasks.labels import check_of
from active_learning.train.build import Experiment
from active_learning.train.charged import charged_parts, count_rows
from active_learning.train.feature_pass import Bill, pixels_hash
from active_learning.train.known import Known

KEY = "config.reference.store"
READ_AT_ONCE = 500  # images of the sample
BLOCK = 65_536  # examples whose outputs are held at a time


def with_kernel(
    experiment: Experiment, requested: Callable[[], bool]
) -> tuple[Experiment, Bill] | None:
    """Joins the loss of each training label by a kernel reference.

    Args:
      experiment: One whose reference is of another kind is returned as it is.
      requested: Asked before each piece whether to stop.

    Returns:
      The experiment and the FLOPs of features, fit and scores that this run is charged for; None
      when it was stopped.
    """
    reference, data, config = experiment.reference, experiment.data, experiment.config
    if not isinstance(reference, Kernel) or not experiment.recipe.policy.reads_reference:
        return experiment, Bill()
    began = time.monotonic()
    one = _pass_of(experiment, reference)
    seconds = time.monotonic() - began
    charged = [data.parts[name] for name in sorted(charged_parts(config))]
    for part in (*charged, *one.judged.values()):
        rows, table = np.asarray(part.indices), one.tables.get(id(part.source))
        if not fill(table, rows, partial(one.described, part), requested):
            return None
    count, facts = count_rows(charged), {}

    def asked() -> dict[str, np.ndarray]:
        losses, said = _asked(one)
        facts.update(said)
        return {"losses": losses}

    losses = distributed.arrays_from_primary(asked)["losses"]
    said = distributed.run_on_primary(lambda: facts)
    LOG.info(
        "%s: reference: %s predicts %.1f %% of the labels it has not seen; features in %s",
        *(config.name, reference.title, 100 * said["hits"], said["folder"]),
    )
    known = Known(
        said["gate"],
        None if said["labels"] is None else LabelCheck.from_dict(said["labels"]),
        said["final"],
        seconds + said["seconds"] + count * said["seconds_per_example"],
    )
    train = data.train.with_column(score_file.COLUMN, losses)
    experiment = dataclasses.replace(
        experiment, opened_data=dataclasses.replace(data, train=train), known=known
    )
    flops = reference.planned_pass_flops(one.image_shape, count, 0, data.num_classes)
    return experiment, Bill(flops)  # The seconds are those of obtaining the reference.


@dataclass(frozen=True)
class _Pass:
    """Features of the images of a run."""

    experiment: Experiment
    reference: Kernel
    fitted: FittedPatches
    # Features by the identity of their source, on the primary process.
    tables: dict[int, RowTable]

    @property
    def size(self) -> KernelSize:
        return SIZES[self.reference.size]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.experiment.scorer_view.image_shape

    @property
    def judged(self) -> dict[str, Part]:
        """Parts that are evaluated on, by name."""
        evaluate, parts = self.experiment.config.evaluate, self.experiment.data.parts
        names = (*evaluate.sets, *([evaluate.gate] if evaluate.gate else []))
        return {name: parts[name] for name in names}

    @property
    def fitted_to(self) -> Part:
        """The examples whose labels the classifier is fitted to."""
        return _fitted_to(self.experiment, self.reference)

    def fold_of(self, part: Part) -> Int64[np.ndarray, "n"] | None:
        """The fold of training examples, copies of a picture in one; None with a part held out."""
        return None if self.reference.part else splits.fold_of(part.picture_ids, FOLDS)

    def table(self, part: Part) -> RowTable:
        """The features of a part's source."""
        return self.tables[id(part.source)]

    def reader(self, part: Part) -> Read:
        """What reads the features of the examples at some places of a part."""
        table, rows = self.table(part), np.asarray(part.indices)
        return lambda at: table.read(rows[at])

    @cached_property
    def _features(self) -> Callable[[dict[str, Array]], Float[Array, "B d"]]:
        """From a batch to features, on all devices; compiled once for all parts."""
        patches, everywhere = self.size.patches, replicated(self.experiment.mesh)
        features = jax.jit(
            lambda fitted, batch: fitted_features(patches, FittedPatches(*fitted), batch["image"]),
            out_shardings=everywhere,
        )
        return partial(features, jax.device_put(dataclasses.astuple(self.fitted), everywhere))

    def described(self, part: Part) -> Values:
        """What computes the features of the examples at some places of a part."""
        experiment, small = self.experiment, part.small_view()
        size = min(experiment.config.evaluate.batch_size, len(experiment.data.train))

        def values(at: Int64[np.ndarray, "k"]) -> Float[np.ndarray, "k d"]:
            blocks = map_batches(
                self._features,
                lambda places: experiment.scorer_view.read(small, at[places]),
                *(len(at), size, batch_sharding(experiment.mesh)),
            )
            return np.concatenate(list(blocks))

        return values


@dataclass(frozen=True)
class _Judge:
    """The fitted classifiers, as probabilities."""

    one: _Pass
    fit: KernelFit
    # Training examples, and the outputs for them out of fold.
    sample: Part
    asked: Float[np.ndarray, "k C"]
    temperature: float

    @classmethod
    def of(cls, one: _Pass, train: Part) -> "_Judge":
        """Fits them; the temperature is that of the labels of the training data, out of fold."""
        part, ridge, read = one.fitted_to, one.reference.ridge, one.reader(one.fitted_to)
        fold = one.fold_of(part)
        fold = np.zeros(len(part), np.int64) if fold is None else fold
        chosen = drawn_landmarks(part.ids, one.size.landmarks, 0)
        landmarks = Landmarks.of(read(chosen), KernelSettings.width)
        classes = one.experiment.data.num_classes
        fit = fit_kernel(read, part.labels, fold, classes, landmarks, ridge)
        sample = train.select(train.subset(ASKED))
        asked = fit.outputs(one.reader(sample), len(sample), one.fold_of(sample))
        if not np.isfinite(asked).all():
            raise DataError(
                f"config.reference.ridge={ridge}: the kernel's fit to {len(part)} examples is not "
                "finite; give a larger one"
            )
        return cls(one, fit, sample, asked, best_temperature(asked, sample.labels))

    def losses(
        self, part: Part, fold: Int64[np.ndarray, "n"] | None = None
    ) -> tuple[Float32[np.ndarray, "n"], np.ndarray]:
        """Cross-entropy of each label, and whether the label is the likeliest."""
        losses, hits = np.empty(len(part), np.float32), np.empty(len(part), bool)
        for start in range(0, len(part), BLOCK):
            at = np.arange(start, min(start + BLOCK, len(part)))
            block = part.select(at)
            folds = None if fold is None else fold[at]
            outputs = self.fit.outputs(self.one.reader(block), len(at), folds)
            own = label_probability(softmax(outputs / self.temperature), block.labels)
            losses[at] = -np.log(np.maximum(own, FLOOR))
            hits[at] = outputs.argmax(axis=1) == block.labels
        return losses, hits

    def check(self, train: Part) -> LabelCheck | None:
        """What it says about the labels of the training data; None for a single class."""
        labels = self.sample.labels
        if len(np.unique(labels)) < 2:
            return None
        return check_of(softmax(self.asked / self.temperature), labels, train.labels)


def _asked(one: _Pass) -> tuple[Float32[np.ndarray, "n"], dict[str, Any]]:
    """Fits the reference; the loss of each training label, and what else it says, as JSON."""
    began, evaluate = time.monotonic(), one.experiment.config.evaluate
    train = one.experiment.data.train
    judge, table = _Judge.of(one, train), one.table(train)
    losses, hits = judge.losses(train, one.fold_of(train))
    check = judge.check(train)
    seconds, metrics = time.monotonic() - began, {}
    for name, part in one.judged.items():
        theirs, right = judge.losses(part)
        metrics[name] = {"accuracy": float(right.mean()), "loss": float(theirs.mean())}
    return losses, {
        "hits": float(hits.mean()),
        "labels": None if check is None else check.as_dict(),
        "gate": metrics.get(evaluate.gate),
        "final": {f"{name}_full/accuracy": metrics[name]["accuracy"] for name in evaluate.sets},
        "seconds": seconds,
        "seconds_per_example": table.seconds_per_example,
        "folder": str(table.folder),
    }


def _pass_of(experiment: Experiment, reference: Kernel) -> _Pass:
    """The tables of all sources, opened by the primary process."""
    fitted = _patches(experiment, reference)
    width, tables = fitted.components.shape[1], {}

    def open_tables() -> None:
        identity = _identity(experiment, reference)
        for source in {id(p.source): p.source for p in experiment.data.parts.values()}.values():
            about = {
                "content": "patch features",
                "data": str(source.describe()["hash"]),
                "model": identity,
                "view": "{}x{}x{}".format(*experiment.scorer_view.image_shape),
                "pixels": pixels_hash(source),
            }
            folder = folder_for(Path(reference.store), about, source.ids)
            tables[id(source)] = RowTable.begin(
                folder, about, source.ids, width, dtype="bfloat16", key=KEY
            )

    distributed.run_on_primary(open_tables)
    return _Pass(experiment, reference, fitted, tables)


def _fitted_to(experiment: Experiment, reference: Kernel) -> Part:
    data = experiment.data
    return data.parts[reference.part] if reference.part else data.train


def _identity(experiment: Experiment, reference: Kernel) -> str:
    """Hash of what decides the features of an image."""
    part = _fitted_to(experiment, reference)
    about = part.source.describe()["hash"], ids_hash(np.asarray(part.ids))
    shape = experiment.scorer_view.image_shape
    text = f"{SIZES[reference.size].patches} {about} {shape} {SAMPLE}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _patches(experiment: Experiment, reference: Kernel) -> FittedPatches:
    """Filters and components of a few images, fitted once for all runs that share the folder."""
    names = [field.name for field in dataclasses.fields(FittedPatches)]

    def read_or_make() -> dict[str, np.ndarray]:
        path = Path(reference.store) / f"patches-{_identity(experiment, reference)}.npz"
        if not path.exists():
            make(path)
        return _read(path, names)

    def make(path: Path) -> None:
        part = _fitted_to(experiment, reference).small_view()
        settings = SIZES[reference.size].patches
        at = drawn_landmarks(part.ids, SAMPLE, 1)
        blocks = np.array_split(at, -(-len(at) // READ_AT_ONCE))
        images = [np.asarray(resize(part.images(rows), settings.size)) for rows in blocks]
        fitted, content = fit_patches(np.concatenate(images), settings), io.BytesIO()
        np.savez(content, **{name: getattr(fitted, name) for name in names})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, content.getvalue())
        except OSError as error:
            raise DataError(
                f"{KEY}={reference.store!r}: cannot be written ({error.strerror})"
            ) from error

    return FittedPatches(**distributed.arrays_from_primary(read_or_make))


def _read(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read ({error}); {AGAIN}") from error
