"""Opens the data of a run and splits them by id."""

import dataclasses

import numpy as np

from active_learning.config import ConfigError
from active_learning.data import classes, splits
from active_learning.data.parts import Data, Part
from active_learning.data.sources.disk_section import listed
from active_learning.data.sources.source import DataError, Source, SourceSection
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
    unknown = (set(split.train_on) | set(split.labels)) - set(indices)
    if missing := sorted(unknown):
        raise ConfigError(
            f"config.split: no part is named {missing[0]!r}; parts: {', '.join(indices)}"
        )
    parts = {
        name: _part(train, rows, split.labels.get(name, config.data.label))
        for name, rows in indices.items()
    }
    judged = _part(test, np.arange(len(test)), opened.test_label)
    for name, part in {"test": judged, **_extra_sets(config, train)}.items():
        if name in parts:
            raise ConfigError(f"config.split.parts: {name!r} is the name of an evaluation set")
        parts[name] = part
    _check_evaluation_sets(config, parts)
    joined = _joined([parts[name] for name in split.train_on])
    if split.fold >= 0:
        joined = joined.select(splits.fold_of(joined.picture_ids) == split.fold)
    return Data(joined, parts, tuple(train.class_names), train.num_classes, train.describe())


def _split(config: Config, train: Source) -> dict[str, np.ndarray]:
    """Rows of the training source by the name of their part."""
    split = config.split
    if not split.parts:
        return {"pool": np.arange(len(train))}
    for name, size in split.parts.items():
        if size > 1 and size != int(size):
            raise ConfigError(
                f"config.split.parts.{name}={size}: expected a fraction below 1 or a whole number"
            )
    sizes = {
        name: int(size if size >= 1 else size * len(train)) for name, size in split.parts.items()
    }
    indices = splits.split(
        train.labels(config.data.label), sizes, split.seed, groups=train.picture_ids
    )
    splits.check_disjoint({name: train.ids[rows] for name, rows in indices.items()})
    return indices


def _part(source: Source, rows: np.ndarray, column: str) -> Part:
    clean = source.clean_labels()
    labels = source.labels(column)[rows].astype(np.int32)
    return Part(source, rows, labels, None if clean is None else clean[rows])


def _joined(parts: list[Part]) -> Part:
    clean = [part.clean_labels for part in parts if part.clean_labels is not None]
    return Part(
        parts[0].source,
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate(clean) if len(clean) == len(parts) else None,
    )


def _extra_sets(config: Config, train: Source) -> dict[str, Part]:
    """The test set of each further source in `evaluate.also`, with the classes of training."""
    parts = {}
    for name, section in config.evaluate.also.items():
        key = f"config.evaluate.also.{name}"
        if not isinstance(section, SourceSection):
            raise ConfigError(f"{key}={section!r}: expected a source, such as section(ImageFolder)")
        if config.task.text:
            section = section.with_text(config.task.text)
        opened = section.open()
        source = opened.test.small_view() if config.small_view else opened.test
        if source.image_shape != train.image_shape:
            ours, theirs = ("x".join(map(str, s.image_shape)) for s in (train, source))
            raise DataError(f"{key}: its images are {theirs}, those of training {ours}")
        part = _part(source, np.arange(len(source)), opened.test_label)
        parts[name] = part if config.task.text else _with_classes(part, train, key)
    return parts


def _with_classes(part: Part, train: Source, key: str) -> Part:
    """Numbers the labels of another source as in training, by the names of the classes.

    Without names on both sides numbers are taken as they are. Examples of classes that training
    does not have are left out, with one line.
    """
    theirs, ours = part.source.class_names, train.class_names
    labels, unknown = part.labels, [f"class {k}" for k in range(part.source.num_classes)]
    if theirs and ours:
        labels, unknown = classes.matched(part.labels, theirs, ours), list(theirs)
    known = (labels >= 0) & (labels < train.num_classes)
    clean = part.clean_labels
    if clean is not None and theirs and ours:
        clean = classes.matched(clean, theirs, ours)
    if not known.all():
        foreign = [unknown[k] for k in np.unique(part.labels[~known])]
        told = f"of classes that training does not have ({listed(foreign)})"
        if not known.any():
            raise DataError(f"{key}: all examples are {told}")
        LOG.info("%s: left out: %d of %d examples, %s", key, (~known).sum(), len(known), told)
    return dataclasses.replace(part, labels=labels, clean_labels=clean).select(known)


def _check_evaluation_sets(config: Config, parts: dict[str, Part]) -> None:
    gate = (config.evaluate.gate,) if config.evaluate.gate else ()
    for name in config.evaluate.sets + gate:
        if name not in parts:
            raise ConfigError(
                f"config.evaluate: no part is named {name!r}; parts: {', '.join(parts)}"
            )
        if name in config.split.train_on:
            raise ConfigError(f"config.evaluate: part {name!r} is also trained on")
        if not len(parts[name]):
            raise ConfigError(f"config.evaluate: part {name!r} holds no examples")
