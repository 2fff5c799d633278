"""Image-text pairs: contrastive learning with the softmax (CLIP) or the sigmoid (SigLIP) loss."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from active_learning import checkpoint
from active_learning.config import ConfigError, setting
from active_learning.core import contrastive, sharding
from active_learning.core.contrastive import Embeddings
from active_learning.core.recipe import Batch, Model
from active_learning.data import captions, tokenizer
from active_learning.data.parts import Data, Part
from active_learning.data.rows import taken
from active_learning.evaluators import Retrieval, image_text
from active_learning.evaluators.retrieval import clip_benchmark_names
from active_learning.tasks.base import SoftLoss, Task, View

# Examples of a set on the disk by whose captions a tokenizer is trained.
_TRAINING = 1 << 18


@dataclass(frozen=True)
class Pairs(Task):
    """The contrastive loss of each pair within its batch.

    l_act = - score_scale * image . text of the pair's own embeddings (ActiveCLIP).
    """

    # 'sigmoid' (SigLIP) or 'softmax' (CLIP, InfoNCE).
    loss: str = setting("sigmoid", one_of=("sigmoid", "softmax"))
    # Pairs in a block of the loss; 0: all at once. Must divide the batch size.
    loss_chunk: int = setting(0, at_least=0, at_most=2**24)
    # Factor of the dot product in l_act; at 1 the sampling would be nearly uniform.
    score_scale: float = setting(10.0, above=0.0, at_most=1e6)
    # Column of the data with a caption, or a list of them.
    text: str = "captions"
    # tokenizer.json, vocab.json, NAME.model or a folder with one; '': a byte-level BPE as large as
    # the text tower's vocabulary, trained on these captions.
    tokenizer: str = ""
    # Pixels normalized by the statistics of the 'data', or to (-1, 1) as published SigLIP models
    # do: 'symmetric'.
    pixel_norm: str = setting("data", one_of=("data", "symmetric"))
    # Fraction of a part's pairs that get another pair's caption, by the name of the part.
    shuffled_captions: Mapping[str, float] = setting({}, at_least=0.0, at_most=1.0)
    # Words: images whose captions mostly name one of them are used for zero-shot and few-shot.
    classes: tuple[str, ...] = ()
    # Prompt templates of zero-shot classification.
    templates: tuple[str, ...] = ("a photo of a {}.", "a {}.", "there is a {} in the picture.")

    primary_metric = "recall"

    def check(self, config: Any) -> None:
        policy, chunk = config.select.policy, self.loss_chunk
        if bad := [t for t in self.templates if "{}" not in t]:
            raise ConfigError(
                f"config.task.templates={bad[0]!r}: has no place '{{}}' for the name of a class"
            )
        if config.augmentation.mixup:
            raise ConfigError(
                f"config.augmentation.mixup={config.augmentation.mixup}: "
                "image-text pairs have no labels to mix"
            )
        if policy.pool_fraction < 1:
            raise ConfigError(
                f"config.select.policy: {policy.name!r} filters by losses of labels, "
                "image-text pairs have none"
            )
        if policy.reuse_forward and not policy.needs_embeddings:
            raise ConfigError(f"config.select.policy: {policy.name!r} reads losses of labels")
        if policy.reads_concepts and not self.classes:
            raise ConfigError(
                f"config.task.classes=(): {policy.name!r} counts the class words that captions "
                "name, so give them"
            )
        if policy.is_joint and self.loss != "sigmoid":
            raise ConfigError(
                f"config.task.loss={self.loss!r}: {policy.name!r} needs 'sigmoid', "
                "the loss that is a sum over pairs"
            )
        if policy.is_joint and config.select.standardize:
            raise ConfigError(
                f"config.select.standardize=True: {policy.name!r} has no single scores"
            )
        if chunk and config.batch_size % chunk:
            raise ConfigError(
                f"config.task.loss_chunk={chunk}: must divide config.batch_size={config.batch_size}"
            )
        for role in ("learner", "scorer"):
            module = getattr(config, role)
            if "text" not in {f.name for f in dataclasses.fields(module)}:
                raise ConfigError(
                    f"config.{role}: {type(module).__name__} has no text tower; "
                    "image-text pairs need a TwoTower"
                )

    def pixel_stats(self, train: Part) -> tuple[tuple[float, ...], tuple[float, ...]]:
        if self.pixel_norm == "symmetric":
            return (0.5,) * 3, (0.5,) * 3
        return super().pixel_stats(train)

    def view_of(
        self,
        config: Any,
        image_shape: tuple[int, int, int],
        num_classes: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> View:
        context = config.learner.text.context
        return View(image_shape, mean, std, context=context, dtype=config.dtype)

    def specialize(self, module: Any, view: View) -> Any:
        dtype = {} if view.dtype == "float32" else {"dtype": view.dtype}
        towers = {
            name: dataclasses.replace(getattr(module, name), **dtype) for name in ("image", "text")
        }
        return dataclasses.replace(module, **towers)

    def model(self, module: Any, view: View, optimizer: optax.GradientTransformation) -> Model:
        """The module as functions; a batch without images or without tokens is embedded in part."""

        def apply(params: PyTree, batch: Batch, train: bool) -> Embeddings:
            image = view.prepare(batch) if batch.keys() & {"image", "image_small"} else None
            return module.apply({"params": params}, image, batch.get("tokens"), train=train)

        def act(outputs: Embeddings, batch: Batch) -> Float[Array, "B"]:
            return self.score_scale * contrastive.negative_dot(outputs.image, outputs.text)

        learn = partial(self._learn_loss, view)
        return Model(apply, learn, act, optimizer, pairwise=True)

    def _learn_loss(self, view: View, outputs: Embeddings, batch: Batch) -> Float[Array, "B"]:
        del batch
        function, scalars = contrastive.sigmoid, (outputs.scale[0], outputs.bias[0])
        if self.loss == "softmax":
            function, scalars = contrastive.info_nce, (outputs.scale[0],)
        sharded = sharding.shard_map_rows(
            partial(function, chunk=self.loss_chunk), view.mesh, rows=2
        )
        return sharded(outputs.image, outputs.text, *scalars)

    def soft_loss(self, view: View, temperature: float) -> SoftLoss:
        function = partial(
            contrastive.soft_info_nce, temperature=temperature, chunk=self.loss_chunk
        )
        sharded = sharding.shard_map_rows(function, view.mesh, rows=4)

        def loss(outputs: Embeddings, teacher: Embeddings) -> Float[Array, "B"]:
            pairs = outputs.image, outputs.text, teacher.image, teacher.text
            return sharded(*pairs, outputs.scale[0], teacher.scale[0])

        return loss

    def example(self, view: View) -> tuple[Array, ...]:
        image = jnp.zeros((1, *view.image_shape), jnp.dtype(view.dtype))
        return image, jnp.zeros((1, view.context), jnp.int32)

    def batch_leaves(self, view: View) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        return super().batch_leaves(view) | {"tokens": (np.dtype(np.int32), (view.context,))}

    def evaluator(
        self, model: Model, view: View, batch_size: int, placement: Any = None
    ) -> Retrieval:
        return Retrieval(model, batch_size, placement)

    def gate_metric(self, metrics: dict[str, float]) -> float:
        """A finer metric than recall."""
        return -metrics["log_rank"]

    def extra_metrics(
        self, experiment: Any, evaluator: Any, params: PyTree, name: str, metrics: dict
    ) -> dict:
        towers = self._towers(experiment, evaluator, params)
        named = clip_benchmark_names(metrics)
        return named | image_text.classification(towers, self, experiment.data, name)

    def flag_metrics(
        self, experiment: Any, evaluator: Any, params: PyTree, args: Any
    ) -> dict[str, Any]:
        if args is None:
            return {}
        towers = self._towers(experiment, evaluator, params, args.features)
        return image_text.evaluate_flags(towers, self, experiment.data, args)

    def _towers(
        self, experiment: Any, evaluator: Any, params: PyTree, features: Path | None = None
    ) -> image_text.Towers:
        encode, size = experiment.data.train.captions.encode, experiment.view.image_shape[0]
        key = checkpoint.params_hash(params)
        return image_text.Towers(evaluator.embed, params, encode, size, key, features)

    def describe(self, data: Data) -> str:
        assert data.train.captions is not None, "attach() joins them"
        about, context = data.provenance, data.train.captions.context
        count, cut = about["captions"], about["captions_cut"]
        return f"{count:,} captions ({cut:,} cut to {context} tokens)"

    def check_reference_texts(self, module: Any, data: Data) -> None:
        assert data.train.captions is not None, "attach() joins them"
        tokenizer.check_tower("config.reference.text", module.text, data.train.captions.tokenizer)

    def check_loaded_reference(self, folder: Path, data: Data) -> None:
        ours = data.provenance.get("tokenizer")
        config = json.loads((Path(folder) / "config.json").read_text())
        theirs = config["data"].get("tokenizer")
        if ours != theirs:
            raise ConfigError(
                f"config.reference.path={str(folder)!r}: trained with tokenizer {theirs}, "
                f"here it is {ours}"
            )

    def attach(self, config: Any, data: Data) -> Data:
        """Joins captions as token ids, and mismatched ones where asked for.

        The tokenizer's hash and the number of captions that were cut go into the provenance.

        Raises:
          ConfigError: Towers that do not fit each other or the tokenizer.
          DataError: Captions that cannot be read.
        """
        learner, scorer = config.learner.text, config.scorer.text
        if learner.context != scorer.context:
            raise ConfigError(
                f"config.scorer.text.context={scorer.context}: the learner's is "
                f"{learner.context}, both read the same tokens"
            )
        sources = {id(part.source): part.source for part in data.parts.values()}
        texts = {key: captions.texts_of(source, self.text) for key, source in sources.items()}
        train_key = id(data.train.source)
        tok = _tokenizer(self, texts[train_key], learner.vocab)
        for role, tower in (("learner", learner), ("scorer", scorer)):
            tokenizer.check_tower(f"config.{role}.text", tower, tok)
        tables = {
            key: captions.tokenize(
                texts[key], tok, learner.context, f"{source.describe()['hash']} {self.text}"
            )
            for key, source in sources.items()
        }
        if unknown := sorted(set(self.shuffled_captions) - set(data.parts)):
            raise ConfigError(
                f"config.task.shuffled_captions: no part is named {unknown[0]!r}; "
                f"parts: {', '.join(data.parts)}"
            )
        parts, caption_of = {}, None
        for name, part in data.parts.items():
            given, table = part.indices, tables[id(part.source)]
            if fraction := self.shuffled_captions.get(name, 0.0):
                ids = taken(part.source.ids, part.indices)
                given = part.indices[captions.shuffled(ids, fraction)]
            parts[name] = dataclasses.replace(part, captions=table, caption_of=given)
            if fraction and part.source is data.train.source:
                if caption_of is None:
                    caption_of = np.arange(len(part.source))
                caption_of[np.asarray(part.indices)] = given
        table = tables[train_key]
        own = data.train.indices
        given = own if caption_of is None else taken(caption_of, own)
        train = dataclasses.replace(data.train, captions=table, caption_of=given)
        about = {
            "tokenizer": tok.about,
            "captions": int(table.counts.sum()),
            "captions_cut": table.cut,
        }
        if config.select.policy.reads_concepts:
            train = train.with_column("concept", _concepts(train, self.classes))
        provenance = data.provenance | about
        return dataclasses.replace(data, train=train, parts=parts, provenance=provenance)


def _concepts(part: Part, names: tuple[str, ...]) -> np.ndarray:
    """The class word that the captions of each row mostly name; one more number for none of them.

    Captions are those of the image, also where a row is trained on with another's.
    """
    assert part.captions is not None  # attached before
    named = captions.mentioned([part.captions.texts[int(row)] for row in part.indices], names)
    return np.where(named < 0, len(names), named).astype(np.int32)


def _tokenizer(task: Pairs, texts: Sequence[list[str]], vocab: int) -> tokenizer.Tokenizer:
    if task.tokenizer:
        return tokenizer.load(task.tokenizer)
    if vocab < 300:
        raise ConfigError(
            f"config.learner.text.vocab={vocab}: a byte-level tokenizer needs 258 tokens and "
            "some for words, say 2000"
        )
    return _trained_tokenizer(tuple(captions.some_of(texts, _TRAINING)), vocab)


@functools.lru_cache(maxsize=2)  # A run and its reference read the same captions.
def _trained_tokenizer(texts: tuple[str, ...], vocab: int) -> tokenizer.Tokenizer:
    return tokenizer.of_json(tokenizer.train(texts, vocab))
