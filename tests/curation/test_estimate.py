"""Estimates of label noise: numbers by hand, and intervals that hold for strong and weak models."""

import numpy as np
import pytest

from active_learning.curation import estimate

CLASSES = 10


def noisy(n, fraction, seed, pairs=False):
    """True and given labels; wrong ones are uniform over the other classes, or always the next."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, CLASSES, n)
    wrong = rng.random(n) < fraction
    step = 1 if pairs else rng.integers(1, CLASSES, n)
    return truth, np.where(wrong, (truth + step) % CLASSES, truth)


def predictions(truth, fraction, strength, seed):
    """Out-of-fold probabilities of a calibrated model.

    It sees scores of unit variance, that of the true class raised by `strength` times the example's
    clarity, and states the posterior of the *given* label.
    """
    rng = np.random.default_rng(seed)
    clarity = strength * rng.gamma(4.0, 0.25, len(truth))
    seen = rng.normal(size=(len(truth), CLASSES))
    seen[np.arange(len(truth)), truth] += clarity
    odds = seen * clarity[:, None]
    clean = np.exp(odds - odds.max(axis=1, keepdims=True))
    clean /= clean.sum(axis=1, keepdims=True)
    return clean * (1 - fraction) + (1 - clean) * fraction / (CLASSES - 1)


@pytest.mark.parametrize("strength", [0.0, 1.2, 2.0, 8.0])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.2, 0.4])
def test_the_interval_contains_the_truth_for_weak_and_strong_models(fraction, strength):
    for seed in range(5):
        truth, given = noisy(8000, fraction, seed)
        p = predictions(truth, fraction, strength, seed + 100)
        result = estimate.corrupted_fraction(estimate.agreement(p, given))
        real = float((given != truth).mean())
        assert result.low <= real <= result.high, (result, real)
        assert result.low <= result.value <= result.high
        if strength == 8.0:
            assert result.high - result.low <= 0.15


def test_a_model_that_knows_nothing_proves_no_noise():
    _, given = noisy(3000, 0.0, 0)
    p = np.random.default_rng(1).dirichlet(np.ones(CLASSES), 3000)
    result = estimate.corrupted_fraction(estimate.agreement(p, given))
    assert result.low == 0.0 and result.high > 0.85


def test_agreement_by_hand():
    p = np.full((20, 2), 0.5)
    p[:, 0] = np.linspace(0.99, 0.51, 20)
    p[:, 1] = 1 - p[:, 0]
    labels = np.array([0, 1] + [0] * 8 + [0] * 8 + [1, 1])
    measured = estimate.agreement(p, labels)
    assert measured.top == 0.5  # the first two of twenty
    assert measured.rest == pytest.approx(0.2) and measured.all == pytest.approx(3 / 20)
    assert measured.chance == pytest.approx(1 - 0.85**2 - 0.15**2)
    with pytest.raises(ValueError, match="1 class"):
        estimate.agreement(p, np.zeros(20, int))


def test_wrong_probability_has_the_mean_and_the_order_that_were_asked_for():
    rng = np.random.default_rng(0)
    p, labels = rng.dirichlet(np.ones(3), 500), rng.integers(0, 3, 500)
    suspicion = rng.random(500)
    wrong = estimate.wrong_probability(p, labels, suspicion, 0.2)
    assert wrong.mean() == pytest.approx(0.2, abs=1e-6)
    assert (np.diff(wrong[np.argsort(suspicion)]) >= 0).all()
    assert estimate.wrong_probability(p, labels, suspicion, 0.0).mean() < 1e-6


def test_confusion_by_hand():
    p = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
    table = estimate.confusion(p, np.array([0, 0]), np.array([0.5, 1.0]))
    expected = [0.5, 0.5 * 0.9 + 0.1, 0.5 * 0.1 + 0.9]
    np.testing.assert_allclose(table[0], expected, atol=1e-6)
    assert table.sum() == pytest.approx(2.0)


def test_cuts_by_hand():
    wrong = np.array([1.0, 0.5, 0.0, 0.0])
    score = np.array([0.9, 0.7, 0.5, 0.1])
    result = estimate.cuts(score, (wrong, wrong / 2, wrong), count=4)
    assert [cut.count for cut in result] == sorted({cut.count for cut in result})
    assert (
        result[0].count == 1 and result[0].precision.value == 1.0 and result[0].precision.low == 0.5
    )
    assert result[-1].count == 4 and result[-1].precision.value == pytest.approx(0.375)
    assert result[-1].recall.value == pytest.approx(1.0) and result[-1].score == 0.1


def test_per_class_finds_the_class_that_is_wrong_and_skips_small_ones():
    rng = np.random.default_rng(3)
    truth, _ = noisy(6000, 0.0, 3)
    given = np.where((truth == 2) & (rng.random(6000) < 0.6), 5, truth)
    p = predictions(truth, 0.02, 6.0, 4)
    names = tuple("abcdefghij")
    result = estimate.per_class(p, given, names)
    for number, one in enumerate(result):
        real = float((truth != given)[given == number].mean())
        assert one.corrupted.low <= real <= one.corrupted.high
        assert one.count == (given == number).sum()
    assert result[5].corrupted.low > 0.1 > result[4].corrupted.value
    few = estimate.per_class(p[:200], np.minimum(given[:200], 1), names)
    assert few[9].count == 0 and few[9].corrupted is None
