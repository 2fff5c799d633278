import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from active_learning.data import order
from active_learning.data.order import Order, hash64, permutation


@pytest.fixture(params=["table", "arithmetic"])
def way(request, monkeypatch):
    """Both ways to permute, at sizes where they can be compared."""
    if request.param == "arithmetic":
        monkeypatch.setattr(order, "TABLE_LIMIT", 0)
    return request.param


@pytest.mark.parametrize("n", [1, 2, 3, 7, 16, 17, 100, 1023, 1025])
def test_every_epoch_is_a_permutation(way, n):
    indices, epochs = Order(n, 5).positions(0, 3 * n)
    assert indices.dtype == np.int64 and epochs.dtype == np.int32
    for epoch, row in enumerate(indices.reshape(3, n)):
        np.testing.assert_array_equal(np.sort(row), np.arange(n))
        assert (epochs[epoch * n : (epoch + 1) * n] == epoch).all()


def test_epochs_and_seeds_differ(way):
    n = 500
    one = Order(n, 0).positions(0, 3 * n)[0].reshape(3, n)
    other = Order(n, 1).positions(0, n)[0]
    for a, b in ((one[0], one[1]), (one[1], one[2]), (one[0], other), (one[0], np.arange(n))):
        assert (a == b).mean() < 0.02
    np.testing.assert_array_equal(Order(n, 0).positions(0, n)[0], one[0])


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 60), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 90)), max_size=6))
def test_random_access_is_sequential(n, visits):
    for limit in (1 << 24, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(order, "TABLE_LIMIT", limit)
            indices, epochs = Order(n, 3).positions(0, 500)
            visited = Order(n, 3)
            for start, count in visits:
                some, turns = visited.positions(start, count)
                np.testing.assert_array_equal(some, indices[start : start + count])
                np.testing.assert_array_equal(turns, epochs[start : start + count])


def test_places_are_uniform(way):
    n, epochs = 10, 1500
    indices = Order(n, 2).positions(0, n * epochs)[0].reshape(epochs, n)
    counts = np.stack([np.bincount(column, minlength=n) for column in indices.T])
    expected = epochs / n
    assert ((counts - expected) ** 2 / expected).sum() < 140  # 81 degrees of freedom: p = 5e-5
    follows = np.mean(indices[:, 1:] == (indices[:, :-1] + 1) % n)
    assert follows == pytest.approx(
        1 / (n - 1), abs=0.01
    )  # neighbours stay neighbours no more often than by chance


def test_memory_is_two_tables_or_none():
    tables = Order(1000, 0)
    for epoch in (0, 1, 5, 5, 2):
        tables.positions(epoch * 1000, 10)
    assert list(tables._tables) == [5, 2]
    huge = Order(10**12, 0)
    indices, epochs = huge.positions(3 * 10**12 - 50, 100)
    assert (
        not huge._tables and len(np.unique(indices)) == 100 and (np.unique(epochs) == [2, 3]).all()
    )
    assert (
        indices.min() >= 0
        and indices.max() < 10**12
        and np.abs(indices.mean() / 10**12 - 0.5) < 0.15
    )


def test_no_examples():
    with pytest.raises(ValueError, match="n=0"):
        Order(0, 0)


def test_numbers_are_the_same_everywhere():
    """Golden values: recorded choices and data positions stay meaningful in later versions."""
    assert hash64(0, 1, np.arange(2)).tolist() == [10705738211186751225, 12401259842959014280]
    assert permutation(10, 0, 0).tolist() == [8, 0, 7, 1, 5, 4, 2, 6, 3, 9]
    assert Order(1 << 30, 7).positions(5, 3)[0].tolist() == [644952239, 814905493, 443739248]


def test_hash_is_a_bijection_of_the_last_word_and_depends_on_all():
    assert len(np.unique(hash64(3, np.arange(100000)))) == 100000
    assert hash64(-1, 2)[0] == hash64(2**64 - 1 - 2**64, 2)[0] != hash64(1, 2)[0] != hash64(2, 1)[0]
    assert hash64(np.arange(3)[:, None], np.arange(4)).shape == (3, 4)
    bits = np.unpackbits(hash64(9, np.arange(4096)).view(np.uint8)).reshape(4096, 64).mean(0)
    assert np.abs(bits - 0.5).max() < 0.04  # 5 standard errors


@pytest.mark.parametrize("n", [1, 5, 31, 32, 33, 200, 640])
@pytest.mark.parametrize("size", [1, 32, 100, 10_000])
def test_chunks_are_permuted_and_what_is_in_a_group_is_shuffled(n, size, monkeypatch):
    monkeypatch.setattr(order, "CHUNK", 32)
    stored = np.arange(n)[::-1].copy()
    chunked = order.Chunked(stored, 3, size)
    rows, epochs = chunked.positions(0, 3 * n)
    for epoch in range(3):
        there = slice(epoch * n, (epoch + 1) * n)
        assert np.array_equal(np.sort(rows[there]), np.arange(n))
        assert (epochs[there] == epoch).all()
    for start, count in ((0, 1), (n // 2, n), (2 * n - 1, n // 3 + 1)):
        again = order.Chunked(stored, 3, size)  # any position is reached at once
        assert np.array_equal(again.positions(start, count)[0], rows[start : start + count])


def test_few_chunks_are_needed_at_a_time(monkeypatch):
    monkeypatch.setattr(order, "CHUNK", 32)
    n, size = 64 * 32, 4 * 32
    chunked = order.Chunked(np.arange(n), 0, size)
    rows, _ = chunked.positions(0, n)
    groups = rows.reshape(-1, size) // 32
    assert all(len(np.unique(group)) == 4 for group in groups)
    assert len(np.unique(groups[:, 0])) > 8  # from all over the set
    assert (np.diff(rows.reshape(-1, size)[0]) != 1).mean() > 0.9  # and shuffled
    ahead = chunked.ahead(0, size)
    assert np.array_equal(np.sort(ahead), np.sort(rows[size : 2 * size]))  # the next group's
    assert (np.diff(ahead) == 1).mean() > 0.9  # as they are stored
    other = order.Chunked(np.arange(n), 1, size).positions(0, n)[0]
    assert (rows == other).mean() < 0.02
    assert (rows == chunked.positions(n, n)[0]).mean() < 0.02
