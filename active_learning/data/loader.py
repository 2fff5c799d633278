"""From a position to a batch on the devices: read ahead in a thread, each process its own rows.

What is at a position depends on (seed, position) only, never on the number of threads, processes or
batches read ahead.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Int32, Int64

PREFETCH = 2  # batches that are read (and placed on the devices) before they are asked for


class LoadedBatch(NamedTuple):
    """A batch on the devices, with the rows and epochs of all its examples on the host.

    `rows` are row numbers within the part.
    """

    batch: dict[str, jax.Array]
    rows: Int64[np.ndarray, "k"]
    epochs: Int32[np.ndarray, "k"]


@runtime_checkable
class Stream(Protocol):
    """An endless sequence of examples of a part.

    Any position is reached at once, from any thread.
    """

    part: Any

    @property
    def end(self) -> float:
        """The first position that is not known yet; nothing is read ahead of it."""
        ...

    def at(
        self, position: int, count: int
    ) -> tuple[Int64[np.ndarray, "k"], Int32[np.ndarray, "k"]]:
        """Row numbers and epochs of the `count` examples from `position` on."""
        ...

    def read(self, position: int, count: int, mine: Any, small: bool) -> dict[str, np.ndarray]:
        """The examples of `at(position, count)` that `mine` picks.

        Args:
          position: Of the first of the `count` examples.
          count: Examples of all processes.
          mine: Indexes an array of `count` rows, see `local_rows`.
          small: Whether to read them in their small view.
        """
        ...


class Candidates:
    """The examples of a part, epoch after epoch, each in an order of its own."""

    end = math.inf

    def __init__(self, part, seed: int):
        self.part, self.order, self._lock = part, part.order(seed), threading.Lock()

    def at(
        self, position: int, count: int
    ) -> tuple[Int64[np.ndarray, "k"], Int32[np.ndarray, "k"]]:
        """Row numbers and epochs of the `count` examples from `position` on."""
        with self._lock:  # an order keeps tables
            return self.order.positions(position, count)

    def read(self, position: int, count: int, mine: Any, small: bool) -> dict[str, np.ndarray]:
        """The examples of `at(position, count)` that `mine` picks."""
        rows, epochs = self.at(position, count)
        if self.part.source.fetches:
            with self._lock:
                later = self.order.ahead(position, count)
            self.part.expect(later[mine], small)
        return self.part.batch(rows[mine], epochs[mine], small)


def local_rows(placement: jax.sharding.Sharding | None, count: int) -> Any:
    """What this process reads of `count` rows.

    Returns:
      An index of the rows that its devices hold, in their order.
    """
    if jax.process_count() == 1 or placement is None:
        return slice(None)
    places = placement.addressable_devices_indices_map((count,)).values()
    spans = {place[0].indices(count)[:2] for place in places if place is not None}
    return np.concatenate([np.arange(*span) for span in sorted(spans)])


def to_global_array(
    batch: dict[str, np.ndarray], placement: jax.sharding.Sharding | None, count: int
) -> dict[str, jax.Array]:
    """The global batch of `count` rows on the devices.

    `batch` holds the rows that this process contributes, see `local_rows`.
    """
    if jax.process_count() == 1 or placement is None:
        return jax.device_put(batch, placement)
    place = jax.make_array_from_process_local_data
    return {name: place(placement, rows, (count, *rows.shape[1:])) for name, rows in batch.items()}


class Loader:
    """The batches of a stream, one after the other.

    Attributes:
      placement: Where batches are put. It may be set: what was read ahead is then dropped.
      ahead: Batches that are read before they are asked for; 0: none.
      position: Examples handed out, not those read ahead; all there is to save. It may be set: what
        was read for other positions, or at another size, is dropped.
      busy: Returns whether the devices are computing.
      stall_seconds: Seconds spent waiting for a batch while the devices were idle.
    """

    def __init__(
        self,
        stream: Stream,
        placement: jax.sharding.Sharding | None,
        position: int = 0,
        ahead: int = PREFETCH,
    ):
        self.stream, self.placement, self.position, self.ahead = stream, placement, position, ahead
        self.stall_seconds = 0.0
        self.busy: Callable[[], bool] = lambda: False
        # Two batches are read at a time: while the last images of one are decoded, the other's keep
        # all decoding threads busy.
        self._ahead = ThreadPoolExecutor(2, "loader-ahead")
        self._second = ThreadPoolExecutor(1, "loader-second")
        # (position, count, small, placement) of a batch, and its future.
        self._coming: deque[tuple[tuple[int, int, bool, Any], Future]] = deque()

    def next(self, count: int, small: bool = False) -> LoadedBatch:
        """The next `count` examples. Raises what reading them raised."""
        self._fill(count, small, max(1, self.ahead))
        loaded = self.wait(self._coming[0][1])
        self._coming.popleft()
        self.position += count
        self._fill(count, small, self.ahead)
        return loaded

    def peek(self, count: int, small: bool = False) -> LoadedBatch:
        """What `next` will return; the position stays, and waiting is not counted."""
        self._fill(count, small, max(1, self.ahead))
        return self._coming[0][1].result()

    def fetch(
        self,
        find: Callable[[], tuple[np.ndarray, np.ndarray]],
        placement: jax.sharding.Sharding | None,
    ) -> Future:
        """Starts reading the full batch of rows that are not known yet.

        Args:
          find: Returns rows of the part, and their epochs; called in a thread of its own.
          placement: Where the batch is put.
        """

        def read() -> dict[str, jax.Array]:
            rows, epochs = find()
            here = local_rows(placement, len(rows))
            batch = self.stream.part.batch(rows[here], epochs[here])
            return to_global_array(batch, placement, len(rows))

        return self._second.submit(read)

    def wait(self, future: Future) -> Any:
        """The future's result; counts the waiting while the devices are not busy."""
        while not future.done():
            busy, began = self.busy(), time.perf_counter()
            wait([future], 1e-3 if busy else None)
            self.stall_seconds += 0.0 if busy else time.perf_counter() - began
        return future.result()

    def close(self) -> None:
        """Ends the threads; nothing more is read."""
        self._ahead.shutdown(cancel_futures=True)
        self._second.shutdown(cancel_futures=True)

    def _fill(self, count: int, small: bool, size: int) -> None:
        where = self.placement
        if self._coming and self._coming[0][0] != (self.position, count, small, where):
            for _, future in self._coming:
                future.cancel()
            self._coming.clear()
        for n in range(len(self._coming), size):
            what = (self.position + n * count, count, small, where)
            if what[0] >= self.stream.end:
                break
            self._coming.append((what, self._ahead.submit(self._load, *what)))

    def _load(self, position: int, count: int, small: bool, placement: Any) -> LoadedBatch:
        batch = self.stream.read(position, count, local_rows(placement, count), small)
        rows, epochs = self.stream.at(position, count)
        return LoadedBatch(to_global_array(batch, placement, count), rows, epochs)
