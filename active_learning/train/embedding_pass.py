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
from active_learning.references.row_pass import (
    count_captions,
    embed_pairs,
    embedding_flops,
    logit_scalars,
)
from active_learning.tasks import View
from active_learning.train.build import Experiment
from active_learning.train.charged import charged_parts, count_rows
from active_learning.train.feature_pass import Bill, pixels_hash, view_hash
from active_learning.train.known import Known

KEY = "config.reference.store"


def with_embeddings(
    experiment: Experiment, requested: Callable[[], bool]
) -> tuple[Experiment, Bill] | None:
    """Joins the embeddings of a stored reference, and computes those that are missing.

    Args:
      experiment: One whose reference is of another kind is returned as it is.
      requested: Asked before each piece whether to stop.

    Returns:
      The experiment and what the pass over the training data costs this run; None when it was
      stopped.
    """
    reference, data = experiment.reference, experiment.data
    if not isinstance(reference, Embedded) or not experiment.recipe.policy.reads_reference:
        return experiment, Bill()
    assert experiment.starts.reference is not None
    role, names = experiment.reference_role, charged_parts(experiment.config)
    params = experiment.starts.reference.params(role.module, role.view, jax.random.key(0))
    params = jax.device_put(params, replicated(experiment.mesh))
    size = min(experiment.config.evaluate.batch_size, len(data.train))
    model = experiment.recipe.model("reference")
    embedder = Embedder(model, size, batch_sharding(experiment.mesh))
    tables = _tables(experiment, reference, params)
    charged, gate = [data.parts[name] for name in sorted(names)], experiment.config.evaluate.gate
    for part in (*charged, *([data.parts[gate]] if gate else [])):
        if not embed_pairs(embedder, params, part, tables[id(part.source)], requested):
            return None
    tables = {key: pair.reopened() for key, pair in tables.items()}
    own = tables[id(data.train.source)]
    images = count_rows(charged)
    count = count_captions(charged)
    LOG.info(
        "%s: embeddings of %d images and %d captions, %s",
        *(experiment.config.name, images, count, own.image.folder),
    )
    bill = Bill()
    if reference.charge:
        flops = embedding_flops(role.module, role.view.image_shape, images, count)
        bill = Bill(flops, images * (own.image.seconds_per_example + own.text.seconds_per_example))
    experiment = dataclasses.replace(
        experiment,
        opened_data=_attached(data, tables),
        known=Known(gate=_gate_metrics(data.parts[gate], tables) if gate else None),
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
        captions = part.captions
        assert captions is not None, "the task joins them"
        ids = part.source.ids
        about = {
            "content": "caption embeddings",
            "data": str(part.source.describe()["hash"]),
            "model": model,
            "compute": role.view.dtype,
            "captions": captions.content_hash(),
        }
        folder = folder_for(Path(reference.store), about, ids)
        text = RowTable.begin(folder, about, ids, width, captions.counts, key=KEY)
        image = image_table(part.source, Path(reference.store), role.module, role.view, model)
        return PairTables(image, text, *logit_scalars(params))

    def make_all() -> None:
        for part in parts.values():
            opened(part)

    distributed.run_on_primary(make_all)
    return {key: opened(part) for key, part in parts.items()}


def image_table(source: Any, store: Path, module: Any, view: View, model: str) -> RowTable:
    """The table of the image embeddings of a source.

    Args:
      source: The images.
      store: Folder that tables share.
      module: The two-tower model.
      view: What it sees.
      model: Hash of its weights.
    """
    about = {
        "content": "image embeddings",
        "data": str(source.describe()["hash"]),
        "model": model,
        "compute": view.dtype,
        "view": view_hash(view, module.image),
        "pixels": pixels_hash(source),
    }
    width = module.image_out or module.image.width
    folder = folder_for(store, about, source.ids)
    return RowTable.begin(folder, about, source.ids, width, key=KEY)


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
    images, texts = table.image.read(np.asarray(part.indices)), table.text.read(given[owner], place)
    return retrieval_metrics(images, texts, owner)


def _attached(data: Data, tables: dict[int, PairTables]) -> Data:
    """The data whose training batches carry the reference's embeddings."""
    train = data.train
    return dataclasses.replace(
        data, train=dataclasses.replace(train, embeddings=tables[id(train.source)])
    )
