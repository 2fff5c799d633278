"""Opens the data of a run and splits them by id."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from active_learning.config import ConfigError
from active_learning.data import classes, splits
from active_learning.data.parts import Data, Part
from active_learning.data.rows import Rows, taken
from active_learning.data.sources.source import Source, SourceSection
from active_learning.metrics import LOG
from active_learning.settings import Config


def open_data(config: Config) -> Data:
    """Opens the sources of a config and checks that the parts are disjoint.

    Raises:
      ConfigError: A part that does not exist, is empty, or is both trained and judged on.
      DataError: A file or value that cannot be used.
    """
    section = config.data
    if config.task.text:
        section = section.with_text(config.task.text)
    opened = section.open()
    train, test, split = opened.train, opened.test, config.split
    if config.small_view:
        train, test = train.small_view(), test.small_view()
    indices = _split(config, train)
    _check_names("config.split.train_on", split.train_on, indices)
    _check_names("config.split.labels", split.labels, indices)
    if not split.train_on:
        raise ConfigError("config.split.train_on=(): name at least one part")
    parts = {
        name: _part(train, rows, split.labels.get(name, config.data.label))
        for name, rows in indices.items()
    }
    if taken := {"test", *config.evaluate.also} & set(parts):
        name = min(taken)
        raise ConfigError(f"config.split.parts: {name!r} is the name of an evaluation set")
    parts["test"] = _part(test, test.all_rows(), opened.test_label)
    for name, section in config.evaluate.also.items():
        parts[name] = _extra_set(f"config.evaluate.also.{name}", section, config, train)
    _check_evaluation_sets(config, parts)
    joined = _joined([parts[name] for name in split.train_on])
    if split.fold >= 0:
        joined = joined.select(splits.fold_of(joined.picture_ids) == split.fold)
    return Data(joined, parts, tuple(train.class_names), train.num_classes, train.describe())


def _split(config: Config, train: Source) -> Mapping[str, Rows]:
    """Rows of the training source by the name of their part."""
    split = config.split
    if not split.parts:
        return {"pool": train.all_rows()}
    for name, size in split.parts.items():
        if size > 1 and size != int(size):
            raise ConfigError(
                f"config.split.parts.{name}={size}: expected a fraction below 1 or a whole number"
            )
    sizes = {
        name: int(size if size >= 1 else size * len(train)) for name, size in split.parts.items()
    }

    def make() -> dict[str, np.ndarray]:
        labels = train.labels(config.data.label)
        indices = splits.split(labels, sizes, split.seed, groups=train.picture_ids, ids=train.ids)
        splits.check_disjoint({name: train.ids[rows] for name, rows in indices.items()})
        return indices

    key = f"parts {sorted(sizes.items())} by {config.data.label!r}, seed {split.seed}"
    indices = train.kept(key, make)
    return {name: indices[name] for name in sizes}


def _part(source: Source, rows: Rows, column: str) -> Part:
    clean = source.clean_labels()
    labels = taken(source.labels(column), rows).astype(np.int32, copy=False)
    return Part(source, rows, labels, None if clean is None else taken(clean, rows))


def _joined(parts: list[Part]) -> Part:
    if len(parts) == 1:
        return parts[0]
    clean = [part.clean_labels for part in parts if part.clean_labels is not None]
    return Part(
        parts[0].source,
        np.concatenate([np.asarray(part.indices) for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate(clean) if len(clean) == len(parts) else None,
    )


def _extra_set(key: str, section: Any, config: Config, train: Source) -> Part:
    """The test set of a further source, its labels renumbered by the names of the classes.

    Examples of classes that the training data do not have are left out, with a line in the log.

    Raises:
      ConfigError: It is no source, its images have another size, or no class of it is one of the
        training data's.
      DataError: A file or value that cannot be used.
    """
    if not isinstance(section, SourceSection):
        raise ConfigError(f"{key}={section!r}: expected a source, such as section(ImageFolder)")
    if config.task.text:
        section = section.with_text(config.task.text)
    opened = section.open()
    source = opened.test.small_view() if config.small_view else opened.test
    if source.image_shape != train.image_shape:
        ours, theirs = ("x".join(map(str, s.image_shape)) for s in (train, source))
        raise ConfigError(f"{key}: its images are {theirs}, those of training {ours}")
    part = _part(source, source.all_rows(), opened.test_label)
    ours, theirs = _names(train), _names(source)
    if config.task.text or ours == theirs:
        return part
    labels = classes.matched(part.labels, theirs, ours)
    clean = part.clean_labels
    if clean is not None:
        clean = classes.matched(clean, theirs, ours)
    rows = np.flatnonzero(labels != classes.MISSING)
    if not len(rows):
        raise ConfigError(
            f"{key}: none of its classes ({', '.join(theirs[:5])}, ...) is one of the training "
            f"data's ({', '.join(ours[:5])}, ...)"
        )
    if left := len(labels) - len(rows):
        LOG.warning("%s: %d of %d examples left out: other classes", key, left, len(labels))
    return dataclasses.replace(part, labels=labels, clean_labels=clean).select(rows)


def _names(source: Source) -> tuple[str, ...]:
    """Names of the classes; their numbers where there are none."""
    return tuple(source.class_names) or tuple(str(k) for k in range(source.num_classes))


def _check_evaluation_sets(config: Config, parts: dict[str, Part]) -> None:
    gate = (config.evaluate.gate,) if config.evaluate.gate else ()
    for key, names in (("sets", config.evaluate.sets), ("gate", gate)):
        key = f"config.evaluate.{key}"
        _check_names(key, names, parts)
        for name in names:
            if name in config.split.train_on:
                raise ConfigError(f"{key}: part {name!r} is also trained on")
            if not len(parts[name]):
                raise ConfigError(f"{key}: part {name!r} holds no examples")


def _check_names(key: str, names: Iterable[str], parts: Iterable[str]) -> None:
    for name in names:
        if name not in parts:
            raise ConfigError(f"{key}: no part is named {name!r}; parts: {', '.join(parts)}")
