"""Batches of one fixed size over a whole set, so that one shape is compiled.

The last batch is padded, and the padding is dropped from the results.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import jax
import numpy as np
from jaxtyping import Int64, PyTree

from active_learning.data.loader import local_rows, to_global_array

_reported: ContextVar[Callable[[], None]] = ContextVar("reported", default=lambda: None)


@contextlib.contextmanager
def reporting(progress: Callable[[], None]) -> Iterator[None]:
    """Calls `progress` after each batch that `map_batches` finishes inside the block."""
    token = _reported.set(progress)
    try:
        yield
    finally:
        _reported.reset(token)


def padded_rows(count: int, size: int) -> Iterator[tuple[Int64[np.ndarray, "size"], int]]:
    """Yield the row numbers of each batch and how many of them are real.

    The last batch repeats row `count - 1` until it holds `size` rows.
    """
    for start in range(0, count, size):
        rows = np.minimum(np.arange(start, start + size, dtype=np.int64), count - 1)
        yield rows, min(size, count - start)


def map_batches(
    function: Callable[[dict[str, jax.Array]], PyTree],
    read: Callable[[Int64[np.ndarray, "size"]], dict[str, np.ndarray]],
    count: int,
    size: int,
    placement: jax.sharding.Sharding | None = None,
) -> Iterator[PyTree]:
    """Apply `function` to rows 0 .. count - 1, batch by batch, and yield its outputs on the host.

    A batch is read while the devices work on the one before, and at most two are held at a time.

    Args:
      function: Compiled function from a batch to a tree of arrays with one entry an example; with
        `placement` its outputs must be replicated, so that every process can read them.
      read: Reads examples by row number into arrays with one entry an example. Each process is
        asked for its own rows only.
      count: Number of examples.
      size: Examples a batch; rounded up to a multiple of the number of devices.
      placement: Sharding of a batch over the devices; None for one device.

    Yields:
      The outputs of each batch as NumPy arrays, without those of the padding.
    """
    devices = 1 if placement is None else placement.num_devices
    size = -(-size // devices) * devices
    here = local_rows(placement, size)
    pending: tuple[PyTree, int] | None = None
    for rows, valid in padded_rows(count, size):
        outputs = function(to_global_array(read(rows[here]), placement, size))
        if pending is not None:
            yield _fetch(*pending)
        pending = outputs, valid
    if pending is not None:
        yield _fetch(*pending)


def _fetch(outputs: PyTree, valid: int) -> PyTree:
    fetched = jax.tree.map(lambda leaf: np.asarray(leaf)[:valid], jax.device_get(outputs))
    _reported.get()()
    return fetched
