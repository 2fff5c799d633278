"""The best split of chips between scoring and training, by hand."""

import dataclasses

import pytest

from active_learning.core import policies
from active_learning.plan.split import best_split, split_lines
from tests.plan.test_plan import MODEL

# Per example: learner 3000, online 60 of training and 20 of scoring, reference 20; b 8, ratio 10.
TEN = dataclasses.replace(MODEL, ratio=10)


def test_scoring_and_training_by_hand():
    assert TEN.training_update == 8 * (3000 + 60)
    assert TEN.scoring_update == 80 * (20 + 20)


def test_the_slower_half_decides_and_the_batch_limits_the_choice():
    """5 chips: 1 + 4 is the only split that divides 8 twice."""
    split = best_split(TEN, 5)
    assert split is not None
    assert split.actors == 1
    assert split.time == pytest.approx(max(80 * 40 / 1, 8 * 3060 / 4) * 5 / (8 * 3000))
    assert best_split(dataclasses.replace(TEN, batch_size=7), 5) is None


def test_lines():
    lines = "\n".join(split_lines(TEN, 5))
    assert "scoring is 11.6% of an update's FLOPs" in lines
    assert "select.actors=1, 4 train; an update then takes 1.27x" in lines
    assert not list(split_lines(dataclasses.replace(MODEL, policy=policies.uniform), 5))
