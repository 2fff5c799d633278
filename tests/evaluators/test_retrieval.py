"""Ranks by hand, ties, and both ways of a perfect and a constant model."""

import numpy as np
import pytest

from active_learning.evaluators import retrieval

OWNER = np.array([0, 0, 1, 1])


def test_ranks_of_two_images_and_four_texts_by_hand():
    texts_by_images = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.6], [0.3, 0.4]])  # text j, image i
    np.testing.assert_array_equal(retrieval.text_ranks(texts_by_images, OWNER), [1, 2, 2, 1])
    # image 0: best own 0.9, nothing of others above; image 1: best own 0.6, one other (0.8) above
    np.testing.assert_array_equal(retrieval.image_ranks(texts_by_images.T, OWNER), [1, 2])


def test_a_constant_model_is_at_chance_and_not_at_the_top():
    same = np.zeros((100, 200))
    owner = np.repeat(np.arange(100), 2)
    assert retrieval.image_ranks(same, owner).tolist() == [1 + 198 / 2] * 100
    assert retrieval.text_ranks(same.T, owner).tolist() == [1 + 99 / 2] * 200


def test_figures_of_a_perfect_model():
    images = np.eye(20)
    found = retrieval.figures(images, np.repeat(images, 2, axis=0), np.repeat(np.arange(20), 2))
    assert found["recall"] == 1.0
    assert found["i2t_median_rank"] == found["t2i_mean_rank"] == 1.0
    assert found["log_rank"] == pytest.approx(np.log(2))
    assert found["per_image"] == [round(float(np.log(2)), 4)] * 20


def test_log_rank_and_recall_by_hand():
    images = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    texts = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, -1.0]])
    found = retrieval.figures(images, texts, np.arange(3))
    # text ranks: 1; image 1 scores 0.1 below image 0: 2; images 0 and 2 tie at 0 for text 2, image 1 is last: own is one of two: 1.5
    # image ranks: image 0: own 1, text 1 scores 1 too: 1.5; image 1: own 0.1 best: 1; image 2: own 0, others -1: 1
    assert found["log_rank"] == pytest.approx(
        (np.log(np.array([2, 3, 2.5])).mean() + np.log(np.array([2.5, 2, 2])).mean()) / 2
    )
    assert found["t2i_r1"] == pytest.approx(1 / 3)
    assert found["i2t_r1"] == pytest.approx(2 / 3)
