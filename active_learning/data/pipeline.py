"""From a position to a batch on the devices: read ahead in a thread, each process its own rows.

What is at a position depends on (seed, position) only, never on the number of threads, processes or batches read ahead.
"""

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Int32, Int64

from active_learning.data.order import Order

AHEAD = 2  # batches that are read (and placed on the devices) before they are asked for


class Loaded(NamedTuple):
    """A batch on the devices; on the host the row numbers within the part, and the epochs, of all its examples."""

    batch: dict[str, jax.Array]
    rows: Int64[np.ndarray, "k"]
    epochs: Int32[np.ndarray, "k"]


@runtime_checkable
class Stream(Protocol):
    """An endless sequence of examples, any position of which is reached at once. Called from one thread at a time."""

    def at(self, position: int, count: int) -> tuple[Int64[np.ndarray, "k"], Int32[np.ndarray, "k"]]:
        """Row numbers and epochs of the `count` examples from `position` on."""
        ...

    def read(self, position: int, count: int, mine: Any) -> dict[str, np.ndarray]:
        """The examples of `at(position, count)` that `mine` (what indexes an array) picks."""
        ...


class Candidates:
    """The examples of a part, epoch after epoch, each in an order of its own."""

    def __init__(self, part, seed: int):
        self.part, self.order = part, Order(len(part), seed)

    def at(self, position: int, count: int) -> tuple[Int64[np.ndarray, "k"], Int32[np.ndarray, "k"]]:
        return self.order.positions(position, count)

    def read(self, position: int, count: int, mine: Any) -> dict[str, np.ndarray]:
        rows, epochs = self.at(position, count)
        return self.part.batch(rows[mine], epochs[mine])


def mine(placement: jax.sharding.Sharding | None, count: int) -> Any:
    """What this process reads of `count` rows: an index of the rows that its devices hold, in their order."""
    if jax.process_count() == 1 or placement is None:
        return slice(None)
    spans = {place[0].indices(count)[:2] for place in placement.addressable_devices_indices_map((count,)).values()}
    return np.concatenate([np.arange(*span) for span in sorted(spans)])


def put(batch: dict[str, np.ndarray], placement: jax.sharding.Sharding | None, count: int) -> dict[str, jax.Array]:
    """The global batch of `count` rows on the devices, of which this process brings those that are `mine`."""
    if jax.process_count() == 1 or placement is None:
        return jax.device_put(batch, placement)
    place = jax.make_array_from_process_local_data
    return {name: place(placement, rows, (count, *rows.shape[1:])) for name, rows in batch.items()}


class Loader:
    """The batches of a stream, one after the other, `ahead` of them read before they are asked for (0: none).

    `position` counts the examples handed out, not those read ahead, and is all there is to save. It may be set: what was read for other
    positions, or at another size, is dropped. `waited`: seconds that `next` had to wait.
    """

    def __init__(self, stream: Stream, placement: jax.sharding.Sharding | None, position: int = 0, ahead: int = AHEAD):
        self.stream, self.placement, self.position, self.ahead = stream, placement, position, ahead
        self.waited = 0.0
        self._thread = ThreadPoolExecutor(1, "loader")
        self._coming: deque[tuple[tuple[int, int], Future]] = deque()  # (position, count), what is there

    def next(self, count: int) -> Loaded:
        """The next `count` examples. Raises what reading them raised."""
        began = time.perf_counter()
        loaded = self.peek(count)
        self.waited += time.perf_counter() - began
        self._coming.popleft()
        self.position += count
        self._fill(count, self.ahead)
        return loaded

    def peek(self, count: int) -> Loaded:
        """What `next(count)` will return; the position stays."""
        self._fill(count, max(1, self.ahead))
        return self._coming[0][1].result()

    def close(self) -> None:
        """Ends the thread; nothing more is read."""
        self._thread.shutdown(cancel_futures=True)

    def _fill(self, count: int, size: int) -> None:
        if self._coming and self._coming[0][0] != (self.position, count):
            for _, future in self._coming:
                future.cancel()
            self._coming.clear()
        for n in range(len(self._coming), size):
            what = (self.position + n * count, count)
            self._coming.append((what, self._thread.submit(self._load, *what)))

    def _load(self, position: int, count: int) -> Loaded:
        batch = self.stream.read(position, count, mine(self.placement, count))
        return Loaded(put(batch, self.placement, count), *self.stream.at(position, count))
