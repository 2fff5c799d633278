"""The one pass of a published model over the data, for scorers that are heads on its features."""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int64, PyTree

from active_learning import distributed
from active_learning.config import ConfigError
from active_learning.core.recipe import Batch
from active_learning.core.sharding import batch_sharding, replicated
from active_learning.data.parts import Data, Part
from active_learning.data.stored_rows import RowTable, folder_for
from active_learning.evaluators.batches import map_batches
from active_learning.metrics import LOG
from active_learning.models.on_features import OnFeatures
from active_learning.models.published import Resolved
from active_learning.references import Embedded, Kernel, ZeroShot
from active_learning.references.row_pass import fill
from active_learning.settings import Config
from active_learning.storage.mirror import FEATURES
from active_learning.tasks import View
from active_learning.train.build import Experiment
from active_learning.train.charged import charged_parts, count_rows, own_runs
from active_learning.train.starts import HeadStart, Start

# Images whose pixels are compared with those that stored features are of.
SAMPLED_IMAGES = 8


@dataclass(frozen=True)
class Bill:
    """What was paid before the first update."""

    flops: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Bill") -> "Bill":
        return Bill(self.flops + other.flops, self.seconds + other.seconds)


@dataclass(frozen=True)
class _Pass:
    """A published model as a function of images."""

    resolved: Resolved
    # What it sees.
    view: View
    batch_size: int
    mesh: Any

    @property
    def module(self) -> Any:
        dtype = {} if self.view.dtype == "float32" else {"dtype": self.view.dtype}
        return dataclasses.replace(self.resolved.module, **dtype)

    def params(self) -> PyTree:
        """Its parameters, read from the file."""
        adapted = self.resolved.adapted(self.resolved.module, self.view.image_shape)
        return jax.device_put(adapted.params(jax.random.key(0)), replicated(self.mesh))

    def compiled(self, params: PyTree) -> Callable[[PyTree, Batch], Float[Array, "B D"]]:
        """(parameters, batch) -> features on all devices, compiled ahead of time."""

        def features(params: PyTree, batch: Batch) -> Float[Array, "B D"]:
            outputs = self.module.apply({"params": params}, self.view.prepare(batch))
            return outputs["features"]

        rows = batch_sharding(self.mesh)
        size = -(-self.batch_size // rows.num_devices) * rows.num_devices
        shape = (size, *self.view.image_shape)
        images = jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=rows)
        whole = jax.jit(features, out_shardings=replicated(self.mesh))
        return whole.lower(params, {"image": images}).compile()


def located(experiment: Experiment, workdir: Path) -> Experiment:
    """The experiment whose stored features, where no folder is given, are in WORKDIR/features.

    A reference that is trained for it finds them there too.

    Raises:
      ConfigError: No folder is given, and processes have no run folder that all see.
    """
    config, store = experiment.config, str(workdir / FEATURES)
    read = {
        "scorer": config.select.policy.uses_scorers,
        "reference": config.select.policy.reads_reference,
    }
    for name, kinds in (("scorer", OnFeatures), ("reference", Embedded | ZeroShot | Kernel)):
        section = getattr(config, name)
        if not isinstance(section, kinds) or section.store:
            continue
        # Features of a kernel reference are read by the first process alone.
        alone = isinstance(section, Kernel)
        if distributed.is_own(workdir) and read[name] and not alone:
            raise ConfigError(
                f"config.{name}.store: several processes of a run in a bucket need a folder that "
                "all see; give one"
            )
        section = dataclasses.replace(section, store=store)
        config = dataclasses.replace(config, **{name: section})
    return dataclasses.replace(experiment, config=config)


def with_features(
    experiment: Experiment, requested: Callable[[], bool] = lambda: False
) -> tuple[Experiment, Bill] | None:
    """Joins stored features to the data, and computes those that are missing.

    Args:
      experiment: Of `located`; one whose models read images is returned as it is.
      requested: Asked before each piece whether to stop.

    Returns:
      The experiment and what the pass over the training data costs this run, whether it was made
      now or before; None when it was stopped.

    Raises:
      DataError: Stored features that are damaged or of other data.
    """
    learner, scorer = experiment.starts.learner, experiment.starts.scorer
    reader = learner if isinstance(learner, HeadStart) else scorer
    if not isinstance(reader, HeadStart) or not (
        reader is learner or experiment.config.select.policy.uses_scorers
    ):
        return experiment, Bill()
    one = _pass_of(experiment, reader)
    tables = _tables(experiment, reader, one)
    charged, judged = _needed_parts(experiment)
    began = time.monotonic()
    for part in (*charged, *judged):
        if not _compute(one, tables[id(part.source)], part, requested):
            return None
    tables = {key: RowTable(table.folder) for key, table in tables.items()}  # As they are now.
    count = count_rows(charged)
    table = tables[id(experiment.data.train.source)]
    LOG.info(
        "%s: features of %d examples from %s weights, computed in %.0f s, stored in %s",
        *(experiment.config.name, count, one.resolved.weights.layout.name),
        *(time.monotonic() - began, table.folder),
    )
    bill = Bill()
    if reader.scorer.charge:
        cost = one.module.cost(one.view.image_shape)
        bill = Bill(count * cost.forward, count * table.seconds_per_example)
    data = _attached(experiment.data, tables, has_images=reader is not learner)
    return dataclasses.replace(experiment, opened_data=data), bill


def _pass_of(experiment: Experiment, start: Start) -> _Pass:
    assert start.resolved is not None
    about = start.resolved.about
    view = dataclasses.replace(
        experiment.scorer_view, features=0, mean=about.mean, std=about.std, mesh=None
    )
    size = min(experiment.config.evaluate.batch_size, len(experiment.data.train))
    return _Pass(start.resolved, view, size, experiment.mesh)


def _tables(experiment: Experiment, reader: HeadStart, one: _Pass) -> dict[int, RowTable]:
    """The table of each source, by the source's identity; opened by the primary process first."""
    store = reader.scorer.store or experiment.config.scorer.store
    sources = {id(part.source): part.source for part in experiment.data.parts.values()}
    view = view_hash(one.view, one.module)

    def opened(source: Any) -> RowTable:
        about = {
            "content": "features",
            "data": str(source.describe()["hash"]),
            "model": one.resolved.content_hash(),
            "view": view,
            "compute": one.view.dtype,
            "pixels": pixels_hash(source),
        }
        folder = folder_for(Path(store), about, source.ids)
        return RowTable.begin(folder, about, source.ids, reader.width, key="config.scorer.store")

    def make_all() -> None:
        for source in sources.values():
            opened(source)

    distributed.run_on_primary(make_all)
    return {key: opened(source) for key, source in sources.items()}


def view_hash(view: View, vit: Any) -> str:
    """Hash of what an image is to a model: size, normalization and patches."""
    text = f"{view.image_shape} mean {view.mean} std {view.std} patch {vit.patch}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def pixels_hash(source: Any) -> str:
    """Hash of a few images, since that of data on disk covers names only."""
    rows = np.linspace(0, len(source) - 1, SAMPLED_IMAGES).astype(np.int64)
    images = source.gather(np.unique(rows))["image"]
    return hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()[:16]


def _needed_parts(experiment: Experiment) -> tuple[list[Part], list[Part]]:
    """Parts whose features are read: those charged for, and those for evaluation only."""
    config, parts = experiment.config, experiment.data.parts
    own = own_runs(config)
    names = charged_parts(config)
    judged = {config.evaluate.gate} if config.evaluate.gate else set()
    if own or config.reference.trains_along or not config.select.policy.needs:
        judged |= set(config.evaluate.sets)
    charged = [parts[name] for name in parts if name in names]
    return charged, [parts[name] for name in parts if name in judged - names]


def _compute(one: _Pass, table: RowTable, part: Part, requested: Callable[[], bool]) -> bool:
    """Computes and writes the missing features of a part; False when it was stopped."""

    def prepare() -> Callable[[Int64[np.ndarray, "k"]], Float[np.ndarray, "k D"]]:
        params = one.params()
        features = one.compiled(params)
        return lambda rows: np.concatenate(list(_features_of(one, features, params, part, rows)))

    return fill(table, np.asarray(part.indices), prepare, requested)


def _features_of(
    one: _Pass, features: Callable, params: PyTree, part: Part, rows: Int64[np.ndarray, "k"]
) -> Iterator[Float[np.ndarray, "m D"]]:
    return map_batches(
        lambda batch: features(params, batch),
        lambda at: one.view.read(part, rows[at]),
        len(rows),
        one.batch_size,
        batch_sharding(one.mesh),
    )


def _attached(data: Data, tables: dict[int, RowTable], has_images: bool) -> Data:
    """The data whose batches carry features."""

    def attach(part: Part) -> Part:
        table = tables[id(part.source)]
        return dataclasses.replace(part, features=table, has_images=has_images)

    parts = {name: attach(part) for name, part in data.parts.items()}
    return dataclasses.replace(data, train=attach(data.train), parts=parts)


def feature_flops(
    config: Config, starts: Any, image_shape: tuple[int, int, int], rows: int
) -> float:
    """FLOPs of the pass that a run of this config is charged for; 0 for other scorers.

    Args:
      config: The config, as it was given.
      starts: What `open_models` gave for it.
      image_shape: Of the images.
      rows: Examples that any model is trained on.
    """
    scorer = starts.scorer.feature_scorer
    if scorer is None or not scorer.charge or not config.select.policy.uses_scorers:
        return 0.0
    return rows * starts.scorer.resolved.module.cost(image_shape).forward
