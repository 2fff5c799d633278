"""The order of examples as a function of (seed, position).

There is nothing to save but a position, and any position is reached at once.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int32, Int64, UInt64

from active_learning.data.rows import Rows

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

    def ahead(self, start: int, count: int) -> Int64[np.ndarray, "count"]:
        """Indices that are worth fetching when start .. start + count - 1 are read."""
        return self.positions(start + READ_AHEAD, count)[0]

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


CHUNK = 256  # neighboring rows that a `Chunked` order keeps together until they are shuffled
READ_AHEAD = 2048  # positions that are named before they are read, where everything is shuffled


class Chunked:
    """Like `Order`, but only examples of one group of chunks are shuffled with each other.

    An epoch permutes chunks of CHUNK rows that are stored next to each other. Every `size` rows of
    these are a group, whose examples are permuted. So a reader needs two groups at hand, the one
    that is read and the next. Which example is at a position depends on (seed, position) alone.

    Args:
      stored: Rows in the order in which they are stored.
      seed: Decides the order.
      size: Rows of a group, rounded to whole chunks.
    """

    def __init__(self, stored: Rows, seed: int, size: int):
        self.stored, self.seed, self.n = stored, seed, len(stored)
        self.chunks = -(-self.n // CHUNK)
        self.per_group = min(self.chunks, max(1, round(size / CHUNK)))
        # By epoch: chunks in its order, and where among them the last, which may be short, is.
        self._tables: OrderedDict[int, tuple[np.ndarray, int]] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def positions(
        self, start: int, count: int
    ) -> tuple[Int64[np.ndarray, "count"], Int32[np.ndarray, "count"]]:
        """Row and epoch at positions start .. start + count - 1."""
        return self._collect(start, count, self._shuffled)

    def ahead(self, start: int, count: int) -> Int64[np.ndarray, "count"]:
        """Rows that are worth fetching when start .. start + count - 1 are read.

        They are the same fraction of the next group, in the order in which they are stored.
        """
        return self._collect(start + self.per_group * CHUNK, count, self._rows)[0]

    def _collect(self, start: int, count: int, rows_of: Callable[[int, int], np.ndarray]):
        rows, epochs = np.empty(count, np.int64), np.empty(count, np.int32)
        done = 0
        while done < count:
            epoch, first = divmod(start + done, self.n)
            group, begin = self._group_at(epoch, first)
            of = rows_of(epoch, group)[first - begin :][: count - done]
            rows[done : done + len(of)], epochs[done : done + len(of)] = of, epoch
            done += len(of)
        return rows, epochs

    def _order(self, epoch: int) -> tuple[np.ndarray, int]:
        """Chunks in the order of an epoch, and the place of the last one."""
        if epoch not in self._tables:
            order = permutation(self.chunks, self.seed, 0xC4C5, epoch)
            self._tables[epoch] = order, int(np.flatnonzero(order == self.chunks - 1)[0])
            if len(self._tables) > 2:
                self._tables.popitem(last=False)
        return self._tables[epoch]

    def _group_at(self, epoch: int, position: int) -> tuple[int, int]:
        """The group at a position of an epoch, and where it begins: one chunk may be short."""
        short = self.chunks * CHUNK - self.n
        _, last = self._order(epoch)

        def begin(group: int) -> int:
            return group * self.per_group * CHUNK - short * (last < group * self.per_group)

        group = position // (self.per_group * CHUNK)
        if (group + 1) * self.per_group < self.chunks and begin(group + 1) <= position:
            group += 1
        return group, begin(group)

    def _rows(self, epoch: int, group: int) -> np.ndarray:
        """The rows of a group, chunk by chunk."""
        first = group * self.per_group
        starts = self._order(epoch)[0][first : first + self.per_group] * CHUNK
        places = (starts[:, None] + np.arange(CHUNK)).reshape(-1)
        return self.stored[places[places < self.n]]

    def _shuffled(self, epoch: int, group: int) -> np.ndarray:
        if (epoch, group) not in self._groups:
            rows = self._rows(epoch, group)
            self._groups[epoch, group] = rows[permutation(len(rows), self.seed, epoch, group)]
            if len(self._groups) > 3:
                self._groups.popitem(last=False)
        return self._groups[epoch, group]


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

    def ahead(self, start: int, count: int) -> Int64[np.ndarray, "count"]:
        """Rows that are worth fetching when start .. start + count - 1 are read."""
        return self.positions(start + READ_AHEAD, count)[0]

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
