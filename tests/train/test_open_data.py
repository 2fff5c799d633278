"""Evaluation sets of other sources: their classes are those of training, matched by name."""

import dataclasses
import logging

import numpy as np
import pytest

from active_learning.config import ConfigError
from active_learning.data.sources import Arrays, ImageFolder
from active_learning.data.sources.source import DataError
from active_learning.models import ViT
from active_learning.settings import Config, Evaluate
from active_learning.train.open_data import open_data
from tests.data.photos import blob


def folder(root, names, each=4):
    for name in names:
        (root / name).mkdir(parents=True)
        for n in range(each):
            (root / name / f"{n}.png").write_bytes(blob("red", n))
    return ImageFolder(path=str(root), size=16, holdout=0.5)


def opened(section, **also):
    model = ViT(width=8, depth=1, heads=1, patch=4)
    evaluate = Evaluate(sets=("test", *also), also=also)
    return open_data(Config(data=section, learner=model, scorer=model, evaluate=evaluate))


def test_classes_of_another_source_are_matched_by_name(tmp_path, caplog):
    main = folder(tmp_path / "main", ("bird", "cat", "dog"))
    other = folder(tmp_path / "other", ("ant", "dog", "bird"))
    with caplog.at_level(logging.INFO, "active_learning"):
        part = opened(main, other=other).parts["other"]
    # In `other` ant is 0, bird 1 and dog 2.
    assert sorted(part.labels.tolist()) == [0, 0, 2, 2]
    for row, label in zip(part.indices, part.labels, strict=True):
        assert ("bird", "cat", "dog")[label] in part.source.name(int(row))
    assert "left out: 2 of 6 examples, of classes that training does not have (ant)" in caplog.text


def test_without_names_numbers_are_taken_as_they_are(tmp_path):
    for name, top in (("main", 3), ("other", 3), ("more", 5)):
        (tmp_path / name).mkdir()
        for part in ("train", "test"):
            label, image = np.arange(10) % top, np.zeros((10, 8, 8, 3), np.uint8)
            np.savez(tmp_path / name / f"{part}.npz", image=image, label=label)
    main, other, more = (Arrays(str(tmp_path / n)) for n in ("main", "other", "more"))
    parts = opened(main, other=other, more=more).parts
    assert parts["other"].labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert parts["more"].labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_what_cannot_be_judged_is_one_line(tmp_path):
    main = folder(tmp_path / "main", ("cat", "dog"))
    other = folder(tmp_path / "other", ("ant", "bee"))
    for also, error, message in (
        (other, DataError, r"also\.x: all examples are of classes .* does not have \(ant, bee\)"),
        (dataclasses.replace(other, size=8), DataError, "its images are 8x8x3, those of training"),
        (3, ConfigError, r"config\.evaluate\.also\.x=3: expected a source"),
    ):
        with pytest.raises(error, match=message):
            opened(main, x=also)
