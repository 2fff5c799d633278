"""Scores of suspicion against numbers computed by hand, and the laws they obey."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from active_learning.curation import scores

P = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25], [0.2, 0.2, 0.6]])
LABELS = np.array([0, 0, 1, 2])


def test_self_confidence_and_margin_by_hand():
    np.testing.assert_allclose(scores.self_confidence(P, LABELS), [0.3, 0.9, 0.75, 0.4])
    np.testing.assert_allclose(
        scores.normalized_margin(P, LABELS), [0.25, 0.75, 0.625, 0.3], atol=1e-12
    )


def test_mean_loss_averages_over_models():
    other = np.full_like(P, 1 / 3)
    expected = (-np.log([0.7, 0.1, 0.25, 0.6]) + np.log(3)) / 2
    np.testing.assert_allclose(scores.mean_loss(np.stack([P, other]), LABELS), expected)
    sure = np.array([[[1.0, 0.0]]])
    assert scores.mean_loss(sure, np.array([1])) == pytest.approx(-np.log(scores.FLOOR))


def test_lift_without_sharpening_is_pointwise_mutual_information():
    frequency = P.mean(axis=0)  # 0.375, 0.3125, 0.3125
    expected = np.log(frequency[LABELS]) - np.log([0.7, 0.1, 0.25, 0.6])
    np.testing.assert_allclose(scores.lift(P, LABELS, sharpen=1.0, prior=1.0), expected)
    np.testing.assert_allclose(
        scores.lift(P, LABELS, sharpen=1.0, prior=0.0), -np.log([0.7, 0.1, 0.25, 0.6])
    )
    sharp = scores.lift(P, LABELS, sharpen=2.0, prior=0.0)
    assert sharp[0] == pytest.approx(-np.log(0.49 / (0.49 + 0.04 + 0.01)))


def test_confident_joint_by_hand():
    # Thresholds: class 0 (0.7 + 0.1) / 2 = 0.4, class 1: 0.25, class 2: 0.6.
    np.testing.assert_allclose(scores.class_thresholds(P, LABELS), [0.4, 0.25, 0.6])
    np.testing.assert_array_equal(scores.confident_class(P, LABELS), [0, 1, 0, 2])
    np.testing.assert_array_equal(
        scores.confident_joint(P, LABELS), [[1, 1, 0], [1, 0, 0], [0, 0, 1]]
    )


def test_a_class_without_examples_is_never_confident():
    joint = scores.confident_joint(P, np.array([0, 0, 1, 1]))
    assert joint[:, 2].sum() == 0 and joint[2].sum() == 0
    p = np.array([[0.9, 0.1], [0.2, 0.3]])  # thresholds 0.9 and 0.3
    np.testing.assert_array_equal(scores.confident_class(p, np.array([0, 1])), [0, 1])
    p = np.array([[0.9, 0.1], [0.5, 0.5]])  # thresholds (0.9 + 0.5) / 2 = 0.7 and none
    np.testing.assert_array_equal(scores.confident_class(p, np.array([0, 0])), [0, -1])


def test_area_under_margin_ignores_models_that_did_not_train_on_it():
    margins = np.array([[1.0, np.nan, np.nan], [3.0, -2.0, np.nan]])
    np.testing.assert_allclose(scores.area_under_margin(margins), [-2.0, 2.0, 0.0])
    logits = np.array([[2.0, 5.0, 1.0], [4.0, 0.0, 1.0]])
    np.testing.assert_allclose(scores.margin(logits, np.array([0, 0])), [-3.0, 3.0])


def test_epoch_learned_and_forgetting_by_hand():
    learned = np.array([[0, 1, 1, 0], [1, 0, 1, 0], [0, 0, 1, 0], [1, 1, 1, 0]], bool)
    np.testing.assert_allclose(scores.epoch_learned(learned), [0.75, 0.75, 0.0, 1.0])
    np.testing.assert_array_equal(scores.forgetting(learned), [1, 1, 0, 4])


def test_neighbor_votes_exclude_oneself_and_ones_copies():
    features = np.array([[1.0, 0.0], [1.0, 0.1], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    labels = np.array([0, 1, 0, 2, 2])
    near = scores.neighbor_votes(features, labels, 3, k=1)
    np.testing.assert_allclose(near[0], [1, 0, 0])  # its copy, example 2
    np.testing.assert_allclose(near[3], [0, 0, 1])
    groups = np.array([0, 1, 0, 2, 3])
    apart = scores.neighbor_votes(features, labels, 3, k=1, groups=groups)
    np.testing.assert_allclose(apart[0], [0, 1, 0])
    blocked = scores.neighbor_votes(features, labels, 3, k=3, block=2)
    np.testing.assert_allclose(blocked, scores.neighbor_votes(features, labels, 3, k=3))
    np.testing.assert_allclose(blocked.sum(axis=1), 1.0)


def test_neighbor_weights_fall_with_the_distance():
    features = np.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])  # similarities 0.8 and 0.6
    votes = scores.neighbor_votes(features, np.array([0, 1, 2]), 3, k=2, temperature=0.1)
    expected = 1 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(votes[0], [0, expected, 1 - expected], rtol=1e-5)


def test_ranks_share_ties():
    np.testing.assert_allclose(
        scores.ranks(np.array([5.0, 1.0, 5.0, 9.0])) * 4 + 0.5, [2.5, 1, 2.5, 4]
    )
    one, two = np.array([1.0, 2.0, 3.0]), np.array([30.0, 20.0, 10.0])
    np.testing.assert_allclose(scores.rank_average([one, two]), [0.5] * 3)
    np.testing.assert_allclose(scores.rank_average([one, two], [1.0, 0.0]), scores.ranks(one))
    with pytest.raises(ValueError, match="no scores"):
        scores.rank_average([])


def test_combine_is_the_geometric_mean():
    one, two = np.array([[0.5, 0.5]]), np.array([[0.8, 0.2]])
    np.testing.assert_allclose(scores.combine([one, two]), [[2 / 3, 1 / 3]])
    np.testing.assert_allclose(scores.combine([one, two], [0.0, 1.0]), two)


def test_metrics_by_hand():
    s, positive = np.array([0.9, 0.8, 0.7, 0.1]), np.array([True, False, True, False])
    assert scores.area_under_roc(s, positive) == pytest.approx(3 / 4)
    assert scores.average_precision(s, positive) == pytest.approx((1 + 2 / 3) / 2)
    assert scores.precision_at(s, positive, 0.5) == pytest.approx(0.5)
    assert scores.precision_at(s, positive, 0.01) == 1.0
    assert scores.area_under_roc(np.zeros(4), positive) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="0 negative"):
        scores.area_under_roc(s, np.ones(4, bool))


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=2, max_size=30))
def test_area_under_roc_counts_pairs(pairs):
    s = np.array([float(value) for value, _ in pairs])
    positive = np.array([flag for _, flag in pairs])
    if positive.all() or not positive.any():
        return
    difference = s[positive][:, None] - s[~positive][None]
    expected = ((difference > 0) + 0.5 * (difference == 0)).mean()
    assert scores.area_under_roc(s, positive) == pytest.approx(expected)
