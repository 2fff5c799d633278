"""Row numbers without an array of them: as an array in every way they are used."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from active_learning.data.rows import AllBut, taken


@given(st.integers(1, 40), st.sets(st.integers(0, 39)))
def test_as_an_array(n, without):
    without = {row for row in without if row < n}
    rows, array = AllBut(n, without), np.setdiff1d(np.arange(n), sorted(without))
    assert len(rows) == len(array) and rows.shape == array.shape
    assert np.array_equal(np.asarray(rows), array) and list(rows) == array.tolist()
    assert np.array_equal(rows[:], array) and np.array_equal(rows[1:5:2], array[1:5:2])
    if len(array):
        at = np.arange(-len(array), len(array))
        assert np.array_equal(rows[at], array[at]) and rows[-1] == array[-1]
        assert np.array_equal(rows[array % 2 == 0], array[array % 2 == 0])


def test_beyond_the_end():
    with pytest.raises(IndexError):
        AllBut(5, [2])[4]
    with pytest.raises(IndexError):
        AllBut(5)[np.array([-6])]


def test_all_rows_are_no_copy():
    values = np.arange(4) * 10
    assert taken(values, AllBut(4)) is values
    assert taken(values, AllBut(4, [1])).tolist() == [0, 20, 30]
    assert taken(values, np.array([2, 0])).tolist() == [20, 0]
