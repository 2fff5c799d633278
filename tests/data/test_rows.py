"""Row numbers without an array of them: as an array in every way they are used."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from active_learning.data import parts
from active_learning.data.rows import AllBut, taken
from active_learning.data.sources import on_disk
from active_learning.data.sources.source import Source


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


def test_sets_beyond_the_tables_of_an_order(monkeypatch):
    labels = (np.arange(5000) % 7).astype(np.int32)
    whole = [on_disk.stand_in(labels, 11, attempt) for attempt in range(20)]
    monkeypatch.setattr(on_disk, "TABLE_LIMIT", 1000)
    monkeypatch.setattr(parts, "TABLE_LIMIT", 1000)
    some = [on_disk.stand_in(labels, 11, attempt) for attempt in range(20)]
    assert all(labels[row] == labels[11] for row in (*whole, *some)) and len(set(some)) > 10
    assert some == [on_disk.stand_in(labels, 11, attempt) for attempt in range(20)]
    rare = np.where(np.arange(5000) == 11, 1, 0).astype(np.int32)
    assert on_disk.stand_in(rare, 11, 0) == 11  # none of those that are tried is alike
    monkeypatch.setattr(on_disk, "_PROBES", 1)
    assert labels[on_disk.stand_in(labels, 11, 3)] == labels[11]
    part = parts.Part(Source(), AllBut(5000), labels, None)
    subset = part.subset(100)
    assert len(np.unique(subset)) == 100 and (np.diff(subset) > 0).all()
    assert np.array_equal(subset, part.subset(100)) and subset.max() > 4500
