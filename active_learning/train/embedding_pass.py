"""The one pass of published two towers over images and captions, for a reference that is stored."""

import dataclasses
import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int64, PyTree

from active_learning import distributed
from active_learning.core.sharding import batch_sharding, replicated
from active_learning.data.captions import Captions
from active_learning.data.features import FeatureTable, PairTables
from active_learning.data.parts import Data, Part
from active_learning.evaluators.embed import Embedder
from active_learning.evaluators.retrieval import retrieval_metrics
from active_learning.metrics import LOG
from active_learning.references import Embedded
from active_learning.train.build import Experiment
from active_learning.train.feature_pass import (
    Bill,
    fill,
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
        if not _compute(embedder, params, tables[id(part.source)], part, requested):
            return None
    own = tables[id(data.train.source)]
    rows = training_rows(trained)
    count = sum(int(_captions(part).counts[_caption_rows(part)].sum()) for part in trained)
    LOG.info(
        "%s: embeddings of %d images and %d captions, %s",
        *(experiment.config.name, len(rows), count, own.image.folder),
    )
    bill = Bill()
    if reference.charge:
        flops = len(rows) * role.module.image_cost(role.view.image_shape).forward
        flops += count * role.module.text_cost().forward
        bill = Bill(flops, len(rows) * (own.image.seconds_per_row + own.text.seconds_per_row))
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
        table = partial(
            FeatureTable.open,
            Path(reference.store),
            ids=part.source.ids,
            key="config.reference.store",
        )
        about = {"data": str(part.source.describe()["hash"]), "model": model}
        about["dtype"] = role.view.dtype
        tokens = np.ascontiguousarray(_captions(part).tokens)
        words = hashlib.sha256(tokens.data).hexdigest()[:16]
        image = about | {
            "view": view_hash(role.view, role.module.image),
            "pixels": pixels_hash(part.source),
        }
        text = about | {"view": "captions", "pixels": words}
        scale, bias = np.exp(np.float32(params["t"])), params.get("b", 0.0)
        return PairTables(
            table(image, width=width),
            table(text, width=width * tokens.shape[1]),
            float(scale),
            float(bias),
        )

    def make_all() -> None:
        for part in parts.values():
            opened(part)

    distributed.run_on_primary(make_all)
    return {key: opened(part) for key, part in parts.items()}


def _captions(part: Part) -> Captions:
    assert part.captions is not None, "the task joins them"
    return part.captions


def _caption_rows(part: Part) -> Int64[np.ndarray, "k"]:
    """Rows of the source whose captions the part has."""
    assert part.caption_of is not None, "the task joins them"
    return np.unique(part.caption_of)


def _compute(
    embedder: Embedder,
    params: PyTree,
    tables: PairTables,
    part: Part,
    requested: Callable[[], bool],
) -> bool:
    """Embeds what is missing of a part; False when it was stopped."""
    captions, rows = _captions(part), _caption_rows(part)

    def texts(at: Int64[np.ndarray, "k"]) -> Float[np.ndarray, "k D"]:
        tokens = captions.tokens[rows[at]]
        flat = embedder.texts(params, tokens.reshape(-1, tokens.shape[2]))
        return flat.reshape(len(at), -1)

    def images(at: Int64[np.ndarray, "k"]) -> Float[np.ndarray, "k D"]:
        return embedder.images(params, part, at)

    return fill(tables.image, part.indices, lambda: images, requested) and fill(
        tables.text, rows, lambda: texts, requested
    )


def _gate_metrics(part: Part, tables: dict[int, PairTables]) -> dict[str, Any]:
    """Retrieval metrics of the reference on the gate, from its embeddings."""
    table, given = tables[id(part.source)], part.caption_of
    assert given is not None
    counts = _captions(part).counts[given]
    owner = np.repeat(np.arange(len(part)), counts)
    place = np.concatenate([np.arange(count) for count in counts])
    images, texts = table.images(part.indices), table.texts(given[owner], place)
    return retrieval_metrics(images, texts, owner)


def _attached(data: Data, tables: dict[int, PairTables]) -> Data:
    """The data whose training batches carry the reference's embeddings."""
    train = data.train
    return dataclasses.replace(
        data, train=dataclasses.replace(train, embeddings=tables[id(train.source)])
    )
