"""Concepts of pairs: the class word that captions name, a column of every batch that is scored."""

import dataclasses

import jax
import numpy as np
import pytest

from active_learning.config import ConfigError
from active_learning.core import policies
from active_learning.settings import Select
from active_learning.train.build import build
from tests import pairs_world


def test_every_candidate_carries_the_word_that_its_captions_name(tmp_path):
    config = pairs_world.config(
        pairs_world.write_tars(tmp_path),
        select=Select(policy=policies.concept_balanced_learnability, ratio=2),
    )
    with pytest.raises(ConfigError, match=r"config.task.classes=\(\): .*counts the class words"):
        build(config, jax.devices()[:1])
    words = ("red", "green", "blue")  # grey is named by none
    config = dataclasses.replace(config, task=dataclasses.replace(config.task, classes=words))
    experiment = build(config, jax.devices()[:1])
    loader = experiment.loader(0)
    batch = loader.next(32)
    loader.close()
    part = experiment.data.train
    texts = [part.captions.texts[row] for row in part.indices[batch.rows]]
    result = ["".join(text) for text in texts]
    expected = [next((n for n, w in enumerate(words) if w in text), 3) for text in result]
    np.testing.assert_array_equal(batch.batch["concept"], expected)
    assert set(expected) == {0, 1, 2, 3}
