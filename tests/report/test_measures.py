"""Hand-computed savings."""

import math

import pytest

from active_learning.report import measures


def test_stays_from_ignores_a_first_touch_that_drops_again():
    steps, level = [100, 200, 300, 400, 500], 0.5
    assert measures.first_sustained(steps, [0.1, 0.6, 0.4, 0.5, 0.7], level) == 400
    assert measures.first_sustained(steps, [0.5, 0.5, 0.5, 0.5, 0.5], level) == 100
    assert measures.first_sustained(steps, [0.1, 0.6, 0.7, 0.8, 0.49], level) is None
    assert measures.first_sustained(steps, [0.1, 0.6, math.nan, 0.8, 0.9], level) == 400
    assert measures.first_sustained(steps, [0.9, 0.9, 0.9, 0.9, math.nan], level) is None


def test_beta_curve_is_over_the_baselines_updates():
    assert measures.beta_curve([100, 200, 300, 400], [0.2, 0.5, 0.6, 0.7], 0.5, 800) == 0.25
    assert measures.beta_curve([100, 200], [0.2, 0.4], 0.5, 800) is None


def test_beta_budget_is_the_shortest_budget_that_reaches():
    result = measures.beta_budget({200: 0.3, 400: 0.5, 600: 0.48, 800: 0.6}, 0.5, 800)
    assert (result.beta, result.budget, result.tried, result.enough, result.mark) == (
        0.5,
        400,
        4,
        True,
        "",
    )


def test_beta_budget_with_few_budgets_is_marked():
    assert measures.beta_budget({400: 0.6, 800: 0.7, 1200: 0.8}, 0.5, 800).mark == "3 budgets only"
    one = measures.beta_budget({1000: 0.6}, 0.5, 800)
    assert (one.beta, one.mark, one.enough) == (1.25, "1 budget only", False)


def test_beta_budget_never_reached():
    result = measures.beta_budget({200: 0.1, 400: 0.2, 600: 0.3, 800: 0.4}, 0.5, 800)
    assert (result.beta, result.budget, result.enough) == (None, None, True)


def test_savings():
    assert measures.updates_saved(0.25) == 0.75
    assert measures.updates_saved(1.25) == -0.25
    assert measures.updates_saved(None) is None
    assert measures.total_flops_saved([6.0, 10.0], [10.0, 22.0]) == 0.5
    assert measures.total_flops_saved([20.0], [16.0]) == -0.25
    assert measures.total_flops_saved(None, [16.0]) is None
    assert measures.wall_clock_saved([3.0], [4.0, 8.0]) == 0.5
    assert measures.wall_clock_saved([3.0], [0.0]) is None


def test_savings_on_a_curve():
    steps = [100.0, 200.0, 300.0]
    assert measures.updates_saved_curve(0.25) == 0.75
    assert measures.total_flops_saved_curve(steps, [4.0, 6.0, 8.0], 200, [8.0, 16.0]) == 0.5
    assert measures.wall_clock_saved_curve(steps, [1.0, 2.0, 3.0], 300, [4.0]) == 0.25
    assert measures.total_flops_saved_curve(steps, [4.0, 6.0, 8.0], None, [12.0]) is None


def test_difference_is_paired_when_the_seeds_are_the_same():
    # differences 0.1, 0.2, 0.3: mean 0.2, sd 0.1, error 0.1 / sqrt(3)
    result = measures.difference({1: 0.5, 2: 0.7, 3: 0.9}, {3: 0.6, 2: 0.5, 1: 0.4})
    assert result.paired
    assert result.mean == pytest.approx(0.2)
    assert result.error == pytest.approx(0.1 / math.sqrt(3))


def test_difference_is_paired_over_the_seeds_that_both_have():
    # of seeds 1 and 2: differences 0.1 and 0.3, mean 0.2, sd 0.1 sqrt(2), error 0.1; the other
    # seeds are left out
    result = measures.difference({1: 0.5, 2: 0.8, 9: 0.0}, {0: 0.9, 1: 0.4, 2: 0.5, 3: 0.9})
    assert result.paired
    assert result.mean == pytest.approx(0.2)
    assert result.error == pytest.approx(0.1)


def test_difference_is_welch_otherwise():
    # variances 0.02 (n = 2) and 0.01 (n = 3): sqrt(0.01 + 0.01 / 3); one common seed makes no pair
    one = measures.difference({4: 0.4, 2: 0.6}, {4: 0.2, 5: 0.3, 6: 0.4})
    assert one == measures.difference({1: 0.4, 2: 0.6}, {4: 0.2, 5: 0.3, 6: 0.4})
    result = measures.difference({1: 0.4, 2: 0.6}, {4: 0.2, 5: 0.3, 6: 0.4})
    assert not result.paired
    assert result.mean == pytest.approx(0.2)
    assert result.error == pytest.approx(math.sqrt(0.01 + 0.01 / 3))


def test_one_seed_has_no_spread():
    result = measures.difference({1: 0.5}, {1: 0.4})
    assert result.error is None
    assert result.mean == pytest.approx(0.1)
    assert measures.spread([0.5]) is None
    assert measures.spread([0.4, 0.6]) == pytest.approx(math.sqrt(0.02))


def test_level_rule():
    assert measures.is_valid_comparison(True, 0.49, 0.5) is True
    assert measures.is_valid_comparison(True, 0.5, 0.5) is False
    assert measures.is_valid_comparison(False, None, 0.5) is True
    assert measures.is_valid_comparison(True, None, 0.5) is None
    assert measures.is_valid_comparison(True, 0.4, None) is None


def test_a_row_that_passes_the_rule_by_less_than_the_spread_is_undecided():
    assert measures.is_inconclusive(0.463, 0.465, 0.006)
    assert not measures.is_inconclusive(0.457, 0.465, 0.006)
    assert not measures.is_inconclusive(0.466, 0.465, 0.006)  # does not count
    for unknown in ((None, 0.465, 0.006), (0.463, None, 0.006), (0.463, 0.465, None)):
        assert not measures.is_inconclusive(*unknown)


def test_mean_share_weighs_by_examples():
    # 0.1 over 100 examples, 0.4 over 300
    assert measures.mean_fraction([0.1, 0.4], [100, 400]) == pytest.approx(0.325)
    assert measures.mean_fraction([], []) is None
