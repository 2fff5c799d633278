"""Power laws and frontiers of the scaling experiment, by hand."""

import numpy as np
import pytest
from scipy import stats

from experiments import scaling_law


def run(arm, size, updates, error, flops):
    reference = None if arm == "uniform" else 0.4
    return {
        "arm": arm,
        "size": size,
        "updates": updates,
        "seed": 0,
        "error": error,
        "total_flops": flops,
        "learner_flops": flops / updates,
        "reference": reference,
    }


def test_a_law_without_noise_is_found_and_its_interval_is_empty():
    flops, updates = np.array([1.0, 2.0, 4.0, 9.0]), np.array([3.0, 1.0, 7.0, 2.0])
    law = scaling_law.power_law([flops, updates], 5.0 * flops**-0.3 * updates**-0.1)
    assert law["factor"] == pytest.approx(5.0) and law["points"] == 4
    assert law["exponents"] == pytest.approx([0.3, 0.1])
    assert law["halves"] == pytest.approx([0.0, 0.0], abs=1e-9)


def test_the_interval_is_that_of_a_straight_line_in_logarithms():
    flops, errors = np.array([1.0, 3.0, 10.0, 40.0, 90.0]), [0.9, 0.7, 0.65, 0.5, 0.47]
    law = scaling_law.power_law([flops], errors)
    line = stats.linregress(-np.log(flops), np.log(errors))
    assert law["exponents"] == pytest.approx([line.slope])
    assert law["halves"] == pytest.approx([stats.t.ppf(0.975, 3) * line.stderr])


def test_too_few_points_or_one_size_have_no_law():
    assert scaling_law.power_law([[1.0, 2.0]], [0.5, 0.4]) is None
    assert scaling_law.power_law([[2.0, 2.0, 2.0]], [0.5, 0.4, 0.3]) is None


def test_the_frontier_holds_what_no_cheaper_run_beats():
    rows = [
        run("uniform", "a", 10, error, flops)
        for error, flops in ((0.5, 4.0), (0.6, 1.0), (0.7, 2.0), (0.4, 9.0), (0.4, 9.5))
    ]
    assert [r["total_flops"] for r in scaling_law.frontier(rows)] == [1.0, 4.0, 9.0]


def test_the_table_compares_the_arms_size_by_size():
    rows = [
        run(arm, "width 8", updates, error * (0.9 if arm == "learnability" else 1.0), flops)
        for arm in scaling_law.ARMS
        for updates, error, flops in ((10, 0.8, 1.0), (20, 0.6, 2.0), (40, 0.5, 4.0))
    ]
    fits = scaling_law.fits(rows)
    text = scaling_law.table({"rows": rows, "fits": fits})
    assert "| width 8 | 20 | 60.0 | 54.0 | 60.0 | 1.00 |" in text
    assert fits["learnability"]["flops_at_middle"] < fits["uniform"]["flops_at_middle"]
    assert fits["uniform"]["middle_error"] == pytest.approx((0.8 * 0.6 * 0.5) ** (1 / 3))
