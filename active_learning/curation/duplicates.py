"""Copies: exact ones by their bytes, near ones by a perceptual hash that pixels must confirm.

The hash has 128 bits: whether each of 8 x 8 cells is brighter than its right neighbor, and than
the one below. Pairs within a Hamming distance are candidates; resized, recompressed and slightly
cropped copies stay close. Simple pictures share hashes without being copies, so a pair counts
only when the correlation of their 16 x 16 gray images confirms it. Of 100 resized and compressed
copies among 3,000 pictures of CIFAR-10 99 are found with one false pair; on Fashion-MNIST, small
gray silhouettes and the hardest case, 90 without a false pair at the stricter limit of gray
pictures (93 and 46 false ones at 0.985).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8, UInt64

BITS = 20  # of 128: Hamming distance of a candidate
CORRELATION, COLORLESS = (
    0.98,
    0.992,
)  # of the gray images of a near duplicate, and of two gray pictures
GRAY = 16  # side of the gray image


@dataclass(frozen=True, eq=False)
class Prints:
    """What identifies pictures: hashes of their bytes, perceptual hashes, small gray images.

    Attributes:
      digest: Hex digits; "" for an example that cannot be read.
      words: 128 bits as two words.
      gray: Unit vectors of zero mean; zero for a flat picture.
      colorless: Whether all channels are the same.
    """

    digest: np.ndarray
    words: UInt64[np.ndarray, "n 2"]
    gray: Float[np.ndarray, "n g"]
    colorless: Bool[np.ndarray, "n"]


def prints(images: UInt8[np.ndarray, "n H W C"], digests: np.ndarray) -> Prints:
    """Prints of square images of one size, at least 16 px, by blocks."""
    words, grays, colorless = [], [], []
    for start in range(0, len(images), 2048):
        part = images[start : start + 2048]
        light = part.astype(np.float32).mean(axis=-1)
        colorless.append((part == part[..., :1]).all(axis=(1, 2, 3)))
        words.append(_hash(light))
        small = _areas(light, GRAY).reshape(len(light), -1)
        small = small - small.mean(axis=1, keepdims=True)
        norm = np.linalg.norm(small, axis=1, keepdims=True)
        grays.append(np.where(norm > 1e-3, small / np.maximum(norm, 1e-3), 0.0))
    gray = np.concatenate(grays).astype(np.float32)
    return Prints(digests, np.concatenate(words), gray, np.concatenate(colorless))


def _areas(light: Float[np.ndarray, "n H W"], side: int) -> Float[np.ndarray, "n s s"]:
    """Mean of side x side cells of about equal size."""
    for axis in (1, 2):
        edges = np.linspace(0, light.shape[axis], side + 1).round().astype(int)
        sums = np.add.reduceat(light, edges[:-1], axis=axis)
        shape = [1, 1, 1]
        shape[axis] = side
        light = sums / np.diff(edges).reshape(shape)
    return light


def _hash(light: Float[np.ndarray, "n H W"]) -> UInt64[np.ndarray, "n 2"]:
    cells = _areas(light, 9)
    right = cells[:, :8, :8] > cells[:, :8, 1:]
    below = cells[:, :8, :8] > cells[:, 1:, :8]
    bits = np.stack([right.reshape(-1, 64), below.reshape(-1, 64)], axis=1)
    return np.ascontiguousarray(np.packbits(bits, axis=-1)).view(">u8")[..., 0].astype(np.uint64)


def near_pairs(
    one: Prints, other: Prints | None = None, span: range | None = None, block: int = 512
) -> list[tuple[int, int, float]]:
    """Pairs (row of one, row of other, correlation) of near duplicates, exact copies included.

    Args:
      one: Pictures.
      other: Pictures to compare with; None: with each other, then only pairs i < j.
      span: Rows of one that are looked at; None: all.
      block: Rows at a time; memory is block x n words.
    """
    against = one if other is None else other
    columns = np.flatnonzero(against.digest != "")
    out = []
    span = range(len(one.digest)) if span is None else span
    for start in range(span.start, span.stop, block):
        rows = np.arange(start, min(start + block, span.stop))
        rows = rows[one.digest[rows] != ""]
        distance = np.zeros((len(rows), len(columns)), np.uint8)
        for word in range(2):
            mixed = one.words[rows, word][:, None] ^ against.words[columns, word][None]
            distance += np.bitwise_count(mixed).astype(np.uint8)
        left, right = np.nonzero(distance <= BITS)
        left, right = rows[left], columns[right]
        if other is None:
            left, right = left[left < right], right[left < right]
        for at in range(0, len(left), 65536):
            a, b = left[at : at + 65536], right[at : at + 65536]
            close = (one.gray[a] * against.gray[b]).sum(axis=1)
            same = one.digest[a] == against.digest[b]
            least = np.where(one.colorless[a] & against.colorless[b], COLORLESS, CORRELATION)
            kept = np.flatnonzero((close >= least) | same)
            similarity = np.where(same, 1.0, close)[kept]
            out += zip(
                a[kept].tolist(), b[kept].tolist(), np.clip(similarity, 0, 1).tolist(), strict=True
            )
    return out


def groups_of(n: int, pairs: list[tuple[int, int, float]]) -> Int64[np.ndarray, "n"]:
    """For each example the smallest index that pairs lead to."""
    root = np.arange(n)

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = int(root[i])
        return i

    for i, j, _ in pairs:
        a, b = find(i), find(j)
        root[max(a, b)] = min(a, b)
    return np.array([find(i) for i in range(n)], np.int64)
