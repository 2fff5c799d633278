"""The one pass over the images of a run whose reference compares them with words of the classes."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Float, Float32, Int32, Int64, PyTree

from active_learning import distributed
from active_learning.core.sharding import batch_sharding, replicated
from active_learning.data.parts import Part
from active_learning.data.stored_rows import RowTable
from active_learning.data.tokenizer import Tokenizer
from active_learning.evaluators.embed import Embedder
from active_learning.evaluators.zero_shot import class_embeddings
from active_learning.metrics import LOG
from active_learning.models.published import Resolved
from active_learning.references import ZeroShot, score_file
from active_learning.references.row_pass import fill, logit_scalars
from active_learning.settings import Pairs
from active_learning.tasks import View
from active_learning.train.build import Experiment
from active_learning.train.charged import charged_parts, count_rows
from active_learning.train.embedding_pass import image_table
from active_learning.train.feature_pass import Bill
from active_learning.train.known import Known
from active_learning.train.starts import Start

BLOCK = 65_536  # examples whose logits are held at a time


def with_zero_shot(
    experiment: Experiment, requested: Callable[[], bool]
) -> tuple[Experiment, Bill] | None:
    """Joins the loss of each training label by a zero-shot reference.

    Args:
      experiment: One whose reference is of another kind is returned as it is.
      requested: Asked before each piece whether to stop.

    Returns:
      The experiment and what embedding the training images costs this run; None when it was
      stopped.
    """
    reference, data, config = experiment.reference, experiment.data, experiment.config
    if not isinstance(reference, ZeroShot) or not experiment.recipe.policy.reads_reference:
        return experiment, Bill()
    one = _pass_of(experiment, reference)
    charged = [data.parts[name] for name in sorted(charged_parts(config))]
    gate = data.parts[config.evaluate.gate] if config.evaluate.gate else None
    for part in (*charged, *([] if gate is None else [gate])):
        distributed.run_on_primary(lambda part=part: one.make(part))
        images = lambda at, part=part: one.embedder.images(one.params, part.small_view(), at)
        if not fill(
            one.table(part), np.asarray(part.indices), lambda images=images: images, requested
        ):
            return None
    classes = one.classes(reference, reference.words_of(data))
    count, table = count_rows(charged), one.table(data.train)
    losses, hits = label_losses(table, np.asarray(data.train.indices), data.train.labels, classes)
    LOG.info(
        "%s: for %.1f %% of the examples the label is the nearest of the %d class words; "
        "embeddings in %s",
        *(config.name, 100 * hits.mean(), len(classes), table.folder),
    )
    flops = reference.pass_flops(one.module, one.view.image_shape, count, len(classes))
    bill = Bill(flops, count * table.seconds_per_example if reference.charge else 0.0)
    train = data.train.with_column(score_file.COLUMN, losses)
    experiment = dataclasses.replace(
        experiment,
        opened_data=dataclasses.replace(data, train=train),
        known=Known(None if gate is None else _gate_metrics(one.table(gate), gate, classes)),
    )
    return experiment, bill


@dataclass(frozen=True)
class _Pass:
    """Published two towers as functions of images and words."""

    resolved: Resolved
    module: Any
    view: View
    params: PyTree
    embedder: Embedder
    tokens: Tokenizer
    store: Path

    def table(self, part: Part) -> RowTable:
        """The image embeddings of a part's source."""
        hash_ = self.resolved.content_hash()
        return image_table(part.source, self.store, self.module, self.view, hash_)

    def make(self, part: Part) -> None:
        """Begins that table, where there is none."""
        self.table(part)

    def classes(self, reference: ZeroShot, words: Sequence[str]) -> Float[np.ndarray, "C D"]:
        """Embedding of each class times the logit scale."""
        encode = lambda texts: self.tokens.encode(texts, self.module.text.context)[0]
        embedded = class_embeddings(self.embedder, self.params, words, reference.templates, encode)
        return embedded * np.float32(logit_scalars(self.params)[0])


def _pass_of(experiment: Experiment, reference: ZeroShot) -> _Pass:
    resolved, mesh = reference.opened(), experiment.mesh
    start, task = Start(resolved), Pairs()
    view = dataclasses.replace(start.view(experiment.scorer_view), features=0, mesh=None)
    module = task.specialize(resolved.module, view)
    params = start.params(module, view, jax.random.key(0))
    model = task.model(module, view, optax.set_to_zero())
    size = min(experiment.config.evaluate.batch_size, len(experiment.data.train))
    return _Pass(
        resolved,
        module,
        view,
        jax.device_put(params, replicated(mesh)),
        Embedder(model, size, batch_sharding(mesh)),
        reference.tokens(resolved),
        Path(reference.store),
    )


def label_losses(
    table: RowTable,
    rows: Int64[np.ndarray, "n"],
    labels: Int32[np.ndarray, "n"],
    classes: Float[np.ndarray, "C D"],
) -> tuple[Float32[np.ndarray, "n"], np.ndarray]:
    """Cross-entropy of labels by stored image embeddings, and whether the label is the nearest.

    Args:
      table: Of the image embeddings of a source.
      rows: Rows of the source.
      labels: Of these examples.
      classes: Embedding of each class times the logit scale.
    """
    losses, hits = np.empty(len(rows), np.float32), np.empty(len(rows), bool)
    for at in range(0, len(rows), BLOCK):
        block = slice(at, at + BLOCK)
        logits = table.read(rows[block]) @ classes.T
        highest = logits.max(axis=1, keepdims=True)
        total = np.log(np.exp(logits - highest).sum(axis=1)) + highest[:, 0]
        losses[block] = total - logits[np.arange(len(logits)), labels[block]]
        hits[block] = logits.argmax(axis=1) == labels[block]
    return losses, hits


def _gate_metrics(
    table: RowTable, gate: Part, classes: Float[np.ndarray, "C D"]
) -> dict[str, float]:
    losses, hits = label_losses(table, np.asarray(gate.indices), gate.labels, classes)
    return {"accuracy": float(hits.mean()), "loss": float(losses.mean())}
