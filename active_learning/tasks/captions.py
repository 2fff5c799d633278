"""What image-text pairs add to the data before a run: captions as token ids, and pairs that were exchanged on purpose."""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
from jaxtyping import PyTree

from active_learning.config import ConfigError
from active_learning.cost.ledger import ACCOUNTS
from active_learning.data import captions, tokenizer
from active_learning.data.sources.source import DataError
from active_learning.models.weights import siglip
from active_learning.settings import Config, Pairs


def attach(config: Config, data):
    """`data` whose parts carry captions; the tokenizer's hash and the number of captions that were cut go into its provenance.

    Raises ConfigError for towers that do not fit each other or the tokenizer, DataError for what cannot be read.
    """
    task, (learner, scorer) = config.task, (config.learner, config.scorer)
    for role, module in (("learner", learner), ("scorer", scorer)):
        if not hasattr(module, "text"):
            raise ConfigError(
                f"config.{role}: {type(module).__name__} has no text tower; image-text pairs need a TwoTower"
            )
    if learner.text.context != scorer.text.context:
        raise ConfigError(
            f"config.scorer.text.context={scorer.text.context}: the learner's is {learner.text.context}, both read the same tokens"
        )
    words = {
        id(part.source): captions.texts_of(part.source, task.text) for part in data.parts.values()
    }
    made = _tokenizer(task, words[id(data.train.source)], learner.text.vocab)
    for role, module in (("learner", learner), ("scorer", scorer)):
        _fits(f"config.{role}.text", module.text, made)
    tables = {
        key: captions.tokenize(texts, made, learner.text.context) for key, texts in words.items()
    }
    found = tables[id(data.train.source)]
    parts, whose = {}, np.arange(len(data.train.source))
    for name, part in data.parts.items():
        given = part.indices[
            captions.shuffled(part.source.ids[part.indices], task.exchanged.get(name, 0.0))
        ]
        parts[name] = dataclasses.replace(part, captions=tables[id(part.source)], caption_of=given)
        if part.source is data.train.source:
            whose[part.indices] = given
    if unknown := sorted(set(task.exchanged) - set(parts)):
        raise ConfigError(
            f"config.task.exchanged: no part is named {unknown[0]!r}; parts: {', '.join(parts)}"
        )
    train = dataclasses.replace(data.train, captions=found, caption_of=whose[data.train.indices])
    about = {
        "tokenizer": made.about,
        "captions": int(found.counts.sum()),
        "captions_cut": found.cut,
    }
    return dataclasses.replace(data, train=train, parts=parts, provenance=data.provenance | about)


def _tokenizer(task: Pairs, words: list[list[str]], vocab: int) -> tokenizer.Tokenizer:
    if task.tokenizer:
        return tokenizer.load(task.tokenizer)
    if vocab < 300:
        raise ConfigError(
            f"config.learner.text.vocab={vocab}: a byte-level tokenizer needs 258 and some for words, say 2000"
        )
    return _trained(tuple(text for those in words for text in those), vocab)


@functools.lru_cache(maxsize=2)  # a run and its reference read the same captions
def _trained(texts: tuple[str, ...], vocab: int) -> tokenizer.Tokenizer:
    return tokenizer.of_json(tokenizer.train(texts, vocab))


def _fits(key: str, tower, made: tokenizer.Tokenizer) -> None:
    if made.size > tower.vocab:
        raise ConfigError(f"{key}.vocab={tower.vocab}: the tokenizer has {made.size} tokens")
    if tower.pool == "mean" and tower.pad != made.pad:
        raise ConfigError(f"{key}.pad={tower.pad}: the tokenizer pads with {made.pad}")


def check_reference(folder: Path, data) -> None:
    """ConfigError when the run in `folder` read its captions with another tokenizer than this one does."""
    ours = data.provenance.get("tokenizer")
    theirs = json.loads((folder / "config.json").read_text())["data"].get("tokenizer")
    if ours != theirs:
        raise ConfigError(
            f"config.reference.path={str(folder)!r}: trained with tokenizer {theirs}, here it is {ours}"
        )


def labelled(part, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a part whose captions clearly name one of the words, and the number of that word. DataError when there are none."""
    found = captions.mentioned([part.captions.texts[row] for row in part.indices], classes)
    rows = np.flatnonzero(found >= 0)
    if not len(rows):
        raise DataError(f"config.task.classes={classes}: no captions name them")
    return rows, found[rows]


def published(it, file: Path) -> tuple[dict, PyTree]:
    """(summary, parameters) of a reference whose weights are in an .npz of SigLIP's layout; its training is nobody's bill."""
    key = "config.reference.path"
    if not isinstance(it.config.task, Pairs):
        raise ConfigError(
            f"{key}={str(file)!r}: weights of a two-tower, but config.task is no image-text task"
        )
    params = siglip.load(file, it.scorer, it.scorer_task.image_shape, key)
    return {
        "final": {},
        "flops": dict.fromkeys(ACCOUNTS, 0.0),
        "train_seconds": 0.0,
        "step": 0,
    }, params
