"""Evaluation sets of further sources: their classes are matched by name."""

import logging

import numpy as np
import pytest

from active_learning.config import ConfigError
from active_learning.data.sources.arrays import Arrays
from active_learning.data.sources.shapes import Shapes
from active_learning.metrics import LOG
from active_learning.settings import Evaluate, Select, Split
from active_learning.train.open_data import open_data
from tests import world


def write(folder, labels, names):
    """train.npz and test.npz with these labels and names of the classes."""
    folder.mkdir()
    image = np.arange(len(labels) * 192, dtype=np.uint8).reshape(-1, 8, 8, 3)
    for part in ("train", "test"):
        np.savez(
            folder / f"{part}.npz", image=image, label=np.array(labels), class_names=np.array(names)
        )
    return Arrays(path=str(folder))


def opened(tmp_path, theirs, names):
    ours = write(tmp_path / "ours", [0, 1, 2, 0, 1, 2], ["cat", "dog", "eel"])
    also = {"more": write(tmp_path / "theirs", theirs, names)}
    config = world.config(tmp_path, data=ours, split=Split(), select=Select())
    return open_data(
        world.dataclasses.replace(config, evaluate=Evaluate(sets=("test", "more"), also=also))
    )


def test_classes_in_another_order(tmp_path):
    part = opened(tmp_path, [0, 1, 2, 2], ["eel", "cat", "dog"]).parts["more"]
    assert part.labels.tolist() == [2, 0, 1, 1] and part.indices.tolist() == [0, 1, 2, 3]


def test_other_classes_are_left_out_and_counted(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(LOG, "propagate", True)
    with caplog.at_level(logging.WARNING):
        part = opened(tmp_path, [0, 1, 2, 1], ["dog", "fox", "cat"]).parts["more"]
    assert part.labels.tolist() == [1, 0] and part.indices.tolist() == [0, 2]
    assert "config.evaluate.also.more: 2 of 4 examples left out" in caplog.text


def test_no_class_in_common_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"config.evaluate.also.more: none of its classes"):
        opened(tmp_path, [0, 1, 0, 1], ["fox", "gnu"])


@pytest.mark.parametrize(
    ("also", "message"),
    [(3, r"also\.more=3: expected a source"), ("larger", "images are 16x16x3, those of .* 8x8x3")],
)
def test_what_cannot_be_judged_is_one_line(tmp_path, also, message):
    ours = write(tmp_path / "ours", [0, 1, 0, 1], ["cat", "dog"])
    if also == "larger":
        also = Shapes(size=16, train=20, test=20)
    config = world.config(tmp_path, data=ours, split=Split(), select=Select())
    with pytest.raises(ConfigError, match=message):
        open_data(world.dataclasses.replace(config, evaluate=Evaluate(also={"more": also})))
