"""The one pass of published two towers over images and captions, for a reference that is stored."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from active_learning import distributed
from active_learning.core.sharding import batch_sharding, replicated
from active_learning.data.parts import Data, Part
from active_learning.data.stored_rows import PairTables, RowTable, folder_for
from active_learning.evaluators.embed import Embedder
from active_learning.evaluators.retrieval import retrieval_metrics
from active_learning.metrics import LOG
from active_learning.references import Embedded
from active_learning.references.row_pass import caption_rows, embed_pairs, logit_scalars
from active_learning.train.build import Experiment
from active_learning.train.feature_pass import (
    Bill,
    located,
    pixels_hash,
    training_rows,
    view_hash,
    with_features,
)


def with_stored(
    experiment: Experiment, workdir: Path, requested: Callable[[], bool] = lambda: False
) -> tuple[Experiment, Bill] | None:
    """Joins what is computed once by published weights, and computes what is missing of it.

    Args:
      experiment: One whose models and reference read nothing stored is returned as it is.
      workdir: Folder of the run, where it is kept unless the config says otherwise.
      requested: Asked before each piece whether to stop.

    Returns:
      The experiment and what the passes over the training data cost this run, whether they were
      made now or before; None when it was stopped.

    Raises:
      DataError: What is stored is damaged or of other data.
    """
    features = with_features(located(experiment, workdir), requested)
    if features is None:
        return None
    embeddings = _with_embeddings(features[0], requested)
    return None if embeddings is None else (embeddings[0], features[1] + embeddings[1])


def _with_embeddings(
    experiment: Experiment, requested: Callable[[], bool]
) -> tuple[Experiment, Bill] | None:
    reference, data = experiment.reference, experiment.data
    if not isinstance(reference, Embedded) or not experiment.recipe.policy.reads_reference:
        return experiment, Bill()
    assert experiment.starts.reference is not None
    role, names = experiment.reference_role, experiment.config.split.train_on
    params = experiment.starts.reference.params(role.module, role.view, jax.random.key(0))
    params = jax.device_put(params, replicated(experiment.mesh))
    size = min(experiment.config.evaluate.batch_size, len(data.train))
    model = experiment.recipe.model("reference")
    embedder = Embedder(model, size, batch_sharding(experiment.mesh))
    tables = _tables(experiment, reference, params)
    trained, gate = [data.parts[name] for name in names], experiment.config.evaluate.gate
    for part in (*trained, *([data.parts[gate]] if gate else [])):
        if not embed_pairs(embedder, params, part, tables[id(part.source)], requested):
            return None
    own = tables[id(data.train.source)]
    rows = training_rows(trained)
    count = sum(int(_counts(part)[caption_rows(part)].sum()) for part in trained)
    LOG.info(
        "%s: embeddings of %d images and %d captions, %s",
        *(experiment.config.name, len(rows), count, own.image.folder),
    )
    bill = Bill()
    if reference.charge:
        flops = len(rows) * role.module.image_cost(role.view.image_shape).forward
        flops += count * role.module.text_cost().forward
        bill = Bill(
            flops, len(rows) * (own.image.seconds_per_example + own.text.seconds_per_example)
        )
    experiment = dataclasses.replace(
        experiment,
        opened_data=_attached(data, tables),
        stored_gate=_gate_metrics(data.parts[gate], tables) if gate else None,
    )
    return experiment, bill


def _tables(experiment: Experiment, reference: Embedded, params: PyTree) -> dict[int, PairTables]:
    """The tables of each source, by its identity; made by the primary process first."""
    role, start = experiment.reference_role, experiment.starts.reference
    assert start is not None and start.resolved is not None
    model = start.resolved.content_hash()
    parts = {id(part.source): part for part in experiment.data.parts.values()}
    width = role.module.image_out or role.module.image.width

    def opened(part: Part) -> PairTables:
        data = str(part.source.describe()["hash"])
        common = {"data": data, "model": model, "compute": role.view.dtype}
        image = common | {
            "content": "image embeddings",
            "view": view_hash(role.view, role.module.image),
            "pixels": pixels_hash(part.source),
        }
        captions = part.captions
        assert captions is not None, "the task joins them"
        text = common | {"content": "caption embeddings", "captions": captions.content_hash()}

        def table(about: dict[str, str], counts: np.ndarray | None = None) -> RowTable:
            ids, key = part.source.ids, "config.reference.store"
            folder = folder_for(Path(reference.store), about, ids)
            return RowTable.begin(folder, about, ids, width, counts, key=key)

        return PairTables(table(image), table(text, captions.counts), *logit_scalars(params))

    def make_all() -> None:
        for part in parts.values():
            opened(part)

    distributed.run_on_primary(make_all)
    return {key: opened(part) for key, part in parts.items()}


def _counts(part: Part) -> np.ndarray:
    """Captions of each example of a part's source."""
    assert part.captions is not None, "the task joins them"
    return part.captions.counts


def _gate_metrics(part: Part, tables: dict[int, PairTables]) -> dict[str, Any]:
    """Retrieval metrics of the reference on the gate, from its embeddings."""
    table, given = tables[id(part.source)], part.caption_of
    assert given is not None
    counts = _counts(part)[given]
    owner = np.repeat(np.arange(len(part)), counts)
    place = np.concatenate([np.arange(count) for count in counts])
    images, texts = table.image.read(part.indices), table.text.read(given[owner], place)
    return retrieval_metrics(images, texts, owner)


def _attached(data: Data, tables: dict[int, PairTables]) -> Data:
    """The data whose training batches carry the reference's embeddings."""
    train = data.train
    return dataclasses.replace(
        data, train=dataclasses.replace(train, embeddings=tables[id(train.source)])
    )
