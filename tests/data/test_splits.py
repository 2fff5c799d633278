import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from active_learning.data.sources.source import DataError
from active_learning.data.splits import check_disjoint, split

LABELS = np.repeat([0, 1, 2, 5], [500, 300, 199, 1])[np.random.default_rng(0).permutation(1000)]


def counts(rows):
    return np.array([(LABELS[rows] == label).sum() for label in (0, 1, 2, 5)])


def test_sizes_are_exact_and_parts_disjoint():
    parts = split(LABELS, {"pool": 541, "reference": 360, "gate": 50, "tune": 17})
    assert {name: len(rows) for name, rows in parts.items()} == {
        "pool": 541,
        "reference": 360,
        "gate": 50,
        "tune": 17,
    }
    assert list(parts) == ["pool", "reference", "gate", "tune"]
    assert len(np.unique(np.concatenate(list(parts.values())))) == 968
    for rows in parts.values():
        assert rows.dtype == np.int64 and (np.diff(rows) > 0).all()


def test_strata_by_largest_remainder():
    np.testing.assert_array_equal(
        counts(split(LABELS, {"a": 100})["a"]), [50, 30, 20, 0]
    )  # of 50, 30, 19.9, 0.1
    np.testing.assert_array_equal(counts(split(LABELS, {"a": 10})["a"]), [5, 3, 2, 0])
    np.testing.assert_array_equal(
        counts(split(LABELS, {"a": 3})["a"]), [1, 1, 1, 0]
    )  # of 1.5, 0.9, 0.6, 0.003: two over
    np.testing.assert_array_equal(counts(split(LABELS, {"a": 1000})["a"]), [500, 300, 199, 1])


@given(st.lists(st.integers(0, 250), min_size=1, max_size=4), st.integers(0, 2**40))
def test_any_sizes(sizes, seed):
    parts = split(LABELS, {str(k): size for k, size in enumerate(sizes)}, seed)
    check_disjoint(parts)
    for size, rows in zip(sizes, parts.values(), strict=True):
        assert len(rows) == size
        assert np.abs(counts(rows) - size * counts(np.arange(1000)) / 1000).max() < 2


def test_the_order_of_the_parts_has_no_influence():
    one, other = split(LABELS, {"a": 100, "b": 200}), split(LABELS, {"b": 200, "a": 100})
    for name in "ab":
        np.testing.assert_array_equal(one[name], other[name])


def test_seeds_draw_other_examples():
    one, same, other = (split(LABELS, {"a": 300}, seed)["a"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert 60 < len(np.intersect1d(one, other)) < 120  # 90 by chance
    assert 400 < one.mean() < 600  # from all over the source


def test_sizes_that_do_not_fit():
    with pytest.raises(
        DataError, match=r"^split: pool=900, gate=101 are 1001 examples, but there are 1000$"
    ):
        split(LABELS, {"pool": 900, "gate": 101})
    with pytest.raises(DataError, match="'gate' has size -1"):
        split(LABELS, {"gate": -1})
    assert len(split(np.zeros(0, np.int32), {"a": 0})["a"]) == 0


def test_a_leak_is_named():
    a, b, c = np.arange(10), np.arange(10, 20), np.arange(18, 30)
    check_disjoint({"a": a, "b": b})
    with pytest.raises(DataError, match=r"^split: parts 'b' and 'c' share 2 ids$"):
        check_disjoint({"a": a, "b": b, "c": c})
    with pytest.raises(DataError, match=r"^split: part 'a' holds 1 ids more than once$"):
        check_disjoint({"a": np.array([1, 2, 1])})
