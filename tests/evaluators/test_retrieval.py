"""Ranks by hand, ties, blocks against the whole matrix, a perfect and a constant model."""

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


def test_metrics_of_a_perfect_model():
    images = np.eye(20)
    result = retrieval.retrieval_metrics(
        images, np.repeat(images, 2, axis=0), np.repeat(np.arange(20), 2)
    )
    assert result["recall"] == 1.0
    assert result["i2t_median_rank"] == result["t2i_mean_rank"] == 1.0
    assert result["log_rank"] == pytest.approx(np.log(2))
    assert result["per_image"] == [round(float(np.log(2)), 4)] * 20


def test_log_rank_and_recall_by_hand():
    images = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    texts = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, -1.0]])
    result = retrieval.retrieval_metrics(images, texts, np.arange(3))
    # Text ranks: 1; image 1 scores 0.1 below image 0: 2; images 0 and 2 tie at 0 for text 2 and
    # image 1 is last, so its own is one of two: 1.5.
    # Image ranks: image 0: own 1, text 1 scores 1 too: 1.5; image 1: own 0.1 is the best: 1;
    # image 2: own 0, others -1: 1.
    assert result["log_rank"] == pytest.approx(
        (np.log(np.array([2, 3, 2.5])).mean() + np.log(np.array([2.5, 2, 2])).mean()) / 2
    )
    assert result["t2i_r1"] == pytest.approx(1 / 3)
    assert result["i2t_r1"] == pytest.approx(2 / 3)


def test_the_names_of_clip_benchmark_for_five_captions_an_image():
    # Image 0's third caption is nearest to it; image 1's are all behind image 0's but one.
    images = np.eye(2)
    to_first = np.array([0.1, 0.2, 0.9, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.05])
    to_second = np.array([0.9, 0.8, 0.1, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.95])
    texts = np.stack([to_first, to_second], axis=1)
    result = retrieval.retrieval_metrics(images, texts, np.repeat(np.arange(2), 5))
    names = retrieval.clip_benchmark_names(result)
    assert names["text_retrieval_recall@1"] == 1.0  # any of the five counts: 0.9 and 0.95
    # Of the ten texts the right image is first for number 2, ties for number 5 (counted half
    # behind: rank 1.5) and first for number 9.
    assert names["image_retrieval_recall@1"] == pytest.approx(2 / 10)
    assert names["image_retrieval_recall@5"] == names["text_retrieval_recall@10"] == 1.0
    assert len(names) == 6


@pytest.mark.parametrize("block", [1, 97, 1000, 10**6])
def test_blocks_give_the_ranks_of_the_whole_matrix(block):
    rng = np.random.default_rng(0)
    # Small integers: exact products whatever the order of summation, and many ties.
    images = rng.integers(-2, 3, (60, 6)).astype(np.float32)
    owner = np.sort(np.concatenate([np.arange(60), rng.integers(0, 60, 90)]))
    texts = rng.integers(-2, 3, (150, 6)).astype(np.float32)
    result = retrieval.retrieval_metrics(images, texts, owner, block)
    scores = images @ texts.T
    own = owner[None] == np.arange(60)[:, None]
    best = np.where(own, scores, -np.inf).max(axis=1, keepdims=True)
    others = np.where(own, -np.inf, scores)
    ranks = 1 + (others > best).sum(axis=1) + (others == best).sum(axis=1) / 2
    assert result["i2t_mean_rank"] == ranks.mean()
    assert result["i2t_r5"] == np.mean(ranks <= 5)
    ranks = retrieval.text_ranks(scores.T, owner)
    assert result["t2i_mean_rank"] == ranks.mean()
    assert result["t2i_median_rank"] == np.median(ranks)
