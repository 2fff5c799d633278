"""The order of examples as a function of (seed, position).

There is nothing to save but a position, and any position is reached at once.
"""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32, Int64, UInt64

TABLE_LIMIT = 1 << 24  # larger sources are permuted by arithmetic instead of a table
_ROUNDS = 6


def _mix(x: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    """A bijection of 64-bit words (the finalizer of SplitMix64, Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def hash64(*words) -> UInt64[np.ndarray, "*shape"]:
    """Hashes each tuple of integers (broadcast) to a 64-bit word, equally on every machine.

    With all but the last word fixed it is a bijection of the last one, so that sorting by it has no
    ties.
    """
    state = np.zeros((), np.uint64)
    for word in words:
        word = np.asarray(word)
        word = word.astype(np.uint64) if word.dtype != np.uint64 else word
        state = _mix(np.atleast_1d((state + np.uint64(0x9E3779B97F4A7C15)) ^ word))
    return state


def permutation(n: int, *words: int) -> Int64[np.ndarray, "n"]:
    """A pseudo-random permutation of 0 .. n-1 keyed by integers; the same on every machine."""
    return np.argsort(hash64(*words, np.arange(n)), kind="stable")


class Order:
    """Position p of an endless stream over n examples.

    The epoch is p // n, and within it examples follow the permutation of (seed, epoch).

    Tables of at most two epochs are kept up to 2^24 examples; above that nothing is, whatever n.
    """

    def __init__(self, n: int, seed: int):
        if n < 1:
            raise ValueError(f"an order of n={n} examples: n >= 1 is needed")
        self.n, self.seed = n, seed
        self._tables: OrderedDict[int, np.ndarray] = OrderedDict()

    def positions(
        self, start: int, count: int
    ) -> tuple[Int64[np.ndarray, "count"], Int32[np.ndarray, "count"]]:
        """Index and epoch at positions start .. start + count - 1."""
        indices, epochs = np.empty(count, np.int64), np.empty(count, np.int32)
        done = 0
        while done < count:
            epoch, first = divmod(start + done, self.n)
            size = min(count - done, self.n - first)
            indices[done : done + size] = self._of(epoch, first, size)
            epochs[done : done + size] = epoch
            done += size
        return indices, epochs

    def _of(self, epoch: int, first: int, size: int) -> np.ndarray:
        if self.n > TABLE_LIMIT:
            return self._walk(epoch, np.arange(first, first + size, dtype=np.uint64))
        if epoch not in self._tables:
            self._tables[epoch] = permutation(self.n, self.seed, epoch).astype(np.int32)
            if len(self._tables) > 2:
                self._tables.popitem(last=False)
        self._tables.move_to_end(epoch)
        return self._tables[epoch][first : first + size]

    def _walk(self, epoch: int, x: np.ndarray) -> np.ndarray:
        """Permutes the next power of 4 by a Feistel network and cycles until inside n.

        Black and Rogaway 2002.
        """
        half = ((self.n - 1).bit_length() + 1) // 2
        todo = np.arange(len(x))
        while len(todo):
            x[todo] = self._feistel(epoch, x[todo], half)
            todo = todo[x[todo] >= self.n]
        return x.astype(np.int64)

    def _feistel(self, epoch: int, x: np.ndarray, half: int) -> np.ndarray:
        bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
        left, right = x >> bits, x & mask
        for turn in range(_ROUNDS):
            left, right = right, left ^ (hash64(self.seed, epoch, turn, right) & mask)
        return (left << bits) | right


BLOCK = 1024  # positions in which every source of a mixture has exactly its share


class Interleaved:
    """Several groups of rows in one stream, each with a fixed fraction of every BLOCK positions.

    Each has an endless order of its own.

    Shares are rounded to 1 / BLOCK. The epoch of a position is that of its group. Raises ValueError
    for a share that rounds to no place, or a group without rows.
    """

    def __init__(
        self, groups: Sequence[Int64[np.ndarray, "_"]], weights: Sequence[float], seed: int
    ):
        share = np.asarray(weights, np.float64) / np.sum(weights)
        self.counts = np.floor(share * BLOCK).astype(np.int64)
        rest = np.argsort(self.counts - share * BLOCK, kind="stable")[: BLOCK - self.counts.sum()]
        self.counts[rest] += 1
        if not self.counts.all():
            raise ValueError(f"weights {list(weights)}: the smallest share is below 1 in {BLOCK}")
        self.groups, self.seed = groups, seed
        self.orders = [
            Order(len(rows), int(hash64(seed, n)[0] >> np.uint64(1)))
            for n, rows in enumerate(groups)
        ]
        self._blocks: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def positions(
        self, start: int, count: int
    ) -> tuple[Int64[np.ndarray, "count"], Int32[np.ndarray, "count"]]:
        """Row and epoch at positions start .. start + count - 1."""
        first, last = start // BLOCK, (start + count - 1) // BLOCK
        rows, epochs = (
            np.concatenate(parts)
            for parts in zip(*map(self._block, range(first, last + 1)), strict=True)
        )
        begin = start - first * BLOCK
        return rows[begin : begin + count], epochs[begin : begin + count]

    def _block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        if block not in self._blocks:
            drawn = permutation(BLOCK, self.seed, 0x313C, block)
            rows, epochs = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int32)
            for places, order, group in zip(
                np.split(drawn, np.cumsum(self.counts)[:-1]), self.orders, self.groups, strict=True
            ):
                places = np.sort(places)
                index, epochs[places] = order.positions(block * len(places), len(places))
                rows[places] = group[index]
            self._blocks[block] = rows, epochs
            if len(self._blocks) > 64:
                self._blocks.popitem(last=False)
        return self._blocks[block]
