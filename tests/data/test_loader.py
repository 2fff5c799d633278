"""The loader: the same examples whatever is read ahead and by how many threads, errors where the
loop is, nothing left behind.
"""

import dataclasses
import threading
import time

import numpy as np
import pytest

from active_learning.data.loader import Candidates, Loader
from active_learning.data.sources.image_folder import ImageFolder
from active_learning.data.sources.source import join_id
from active_learning.train.open_data import open_data
from tests.data.sources.test_image_folder import settings, write_folder


class Numbers:
    """A stream whose example at position p is p; records reads, which fail from `broken` on."""

    part, end = None, np.inf

    def __init__(self, broken: int = 10**9):
        self.broken, self.read_at = broken, []

    def at(self, position, count):
        return np.arange(position, position + count), np.zeros(count, np.int32)

    def read(self, position, count, local_rows, small):
        self.read_at.append((position, count))
        if position >= self.broken:
            raise OSError(f"position {position} is gone")
        return {"x": np.arange(position, position + count)[local_rows]}


def drawn(loader: Loader, counts) -> list[list[int]]:
    out = [np.asarray(loader.next(count).batch["x"]).tolist() for count in counts]
    loader.close()
    return out


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_sizes_may_change_at_any_time_and_positions_follow_each_other(ahead):
    counts = [8, 8, 2, 2, 8, 1, 2]  # the window's end, and whatever else
    taken = drawn(Loader(Numbers(), None, 5, ahead), counts)
    assert np.concatenate(taken).tolist() == list(range(5, 5 + sum(counts)))
    assert [len(batch) for batch in taken] == counts


def test_no_more_is_read_ahead_than_asked_for():
    stream = Numbers()
    loader = Loader(stream, None, ahead=2)
    loader.next(4)
    loader.close()
    assert {(0, 4)} <= set(stream.read_at) <= {(0, 4), (4, 4), (8, 4)}
    lazy = Numbers()
    drawn(Loader(lazy, None, ahead=0), [4, 4])
    assert lazy.read_at == [(0, 4), (4, 4)]


def test_the_position_is_of_what_was_handed_out_and_can_be_set_back():
    loader = Loader(Numbers(), None)
    loader.peek(4)
    assert loader.position == 0
    loader.next(4)
    assert loader.position == 4
    loader.position = 2
    assert drawn(loader, [3]) == [[2, 3, 4]]


def test_an_error_in_the_thread_is_raised_where_its_batch_is_asked_for():
    loader = Loader(Numbers(broken=8), None, ahead=3)
    loader.next(4), loader.next(4)
    with pytest.raises(OSError, match="position 8 is gone"):
        loader.next(4)
    loader.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_waiting_is_counted():
    class Slow(Numbers):
        def read(self, *what):
            until = time.perf_counter() + 0.05
            while (
                time.perf_counter() < until
            ):  # a sleep alone ends early by the clock that measures
                time.sleep(0.001)
            return super().read(*what)

    loader = Loader(Slow(), None, ahead=0)
    drawn(loader, [1, 1])
    assert 0.1 <= loader.stall_seconds < 1
    ready = Loader(Slow(), None, ahead=1)
    ready.peek(1)
    drawn(ready, [1])
    assert ready.stall_seconds < 0.04


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("folder")
    write_folder(root, each=40)
    return root


def test_the_same_ids_and_pixels_with_any_number_of_threads(folder):
    def batches(threads, ahead):
        config = settings(folder)
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, threads=threads))
        assert isinstance(config.data, ImageFolder)
        loader = Loader(Candidates(open_data(config).train, 3), None, ahead=ahead)
        out = [{k: np.asarray(v) for k, v in loader.next(20).batch.items()} for _ in range(5)]
        loader.close()
        return out

    plain = batches(threads=1, ahead=0)
    for other in (batches(threads=2, ahead=2), batches(threads=0, ahead=1)):
        for a, b in zip(plain, other, strict=True):
            assert join_id(a["id"]).tolist() == join_id(b["id"]).tolist()
            np.testing.assert_array_equal(a["image"], b["image"])
