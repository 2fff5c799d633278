"""Disjoint parts of a source, stratified by label, and the check that nothing leaked from one into another."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Int64, Integer

from active_learning.data.order import hash64
from active_learning.data.sources.source import DataError


def split(
    labels_for_strata: Integer[np.ndarray, "n"], parts: Mapping[str, int], seed: int = 0
) -> dict[str, Int64[np.ndarray, "_"]]:
    """Disjoint parts of exactly the given sizes; in each, every label's share is that among the examples not yet taken.

    Seats are given by largest remainder, ties to the lower label. Indices ascend; the order of `parts` has no influence, and what is
    over stays unused. Depends on (labels, parts, seed) only, on every machine. Raises DataError when the sizes do not fit.
    """
    n = len(labels_for_strata)
    for name, size in parts.items():
        if size < 0:
            raise DataError(f"split: part {name!r} has size {size}")
    if (total := sum(parts.values())) > n:
        sizes = ", ".join(f"{name}={size}" for name, size in parts.items())
        raise DataError(f"split: {sizes} are {total} examples, but there are {n}")
    draw = np.argsort(hash64(seed, np.arange(n)), kind="stable")
    strata = [draw[labels_for_strata[draw] == label] for label in np.unique(labels_for_strata)]
    used = np.zeros(len(strata), np.int64)
    out = {}
    for name in sorted(parts):
        seats = _largest_remainder(np.array([len(s) for s in strata], np.int64) - used, parts[name])
        rows = [s[u : u + k] for s, u, k in zip(strata, used, seats, strict=True)]
        out[name] = np.sort(np.concatenate([*rows, np.zeros(0, np.int64)]).astype(np.int64))
        used += seats
    return {name: out[name] for name in parts}


def _largest_remainder(counts: np.ndarray, size: int) -> np.ndarray:
    """`size` seats in proportion to `counts`, in integers; never more than a count."""
    total = max(int(counts.sum()), 1)
    seats = size * counts // total
    remainder = size * counts % total
    seats[np.argsort(-remainder, kind="stable")[: size - int(seats.sum())]] += 1
    return seats


FOLDS = 2


def fold_of(ids: Integer[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    """The half, 0 or 1, that an example belongs to: a function of its id alone."""
    return (hash64(0xF01D, ids) % np.uint64(FOLDS)).astype(np.int64)


def held_out(ids: Integer[np.ndarray, "n"], share: float) -> Bool[np.ndarray, "n"]:
    """Whether an example is held out: a function of its id alone, so that a set that grows keeps what it held out."""
    return hash64(0x401D, ids) < np.uint64(round(share * 2.0**64))


def check_disjoint(parts: Mapping[str, Integer[np.ndarray, "_"]]) -> None:
    """Raises DataError naming the first two parts that share ids, and how many; ids twice in one part count as a leak too."""
    for name, ids in parts.items():
        if (twice := len(ids) - len(np.unique(ids))) > 0:
            raise DataError(f"split: part {name!r} holds {twice} ids more than once")
    for one, other in combinations(parts, 2):
        if shared := len(np.intersect1d(parts[one], parts[other])):
            raise DataError(f"split: parts {one!r} and {other!r} share {shared} ids")
