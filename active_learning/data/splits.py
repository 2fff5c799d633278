"""Disjoint parts of a source, stratified by label, with each picture in one part."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Int64, Integer

from active_learning.data.errors import DataError
from active_learning.data.order import hash64


def split(
    labels_for_strata: Integer[np.ndarray, "n"],
    parts: Mapping[str, int],
    seed: int = 0,
    groups: Integer[np.ndarray, "n"] | None = None,
    ids: Integer[np.ndarray, "n"] | None = None,
) -> dict[str, Int64[np.ndarray, "_"]]:
    """Splits examples into disjoint parts, stratified by label.

    In each part every label has its fraction of the examples not yet taken. The result depends on
    the arguments only, on every machine; the order of `parts` has no influence, and examples beyond
    their sum stay unused. Seats are given by largest remainder, ties to the lower label. Linear in
    examples, up to sorting.

    Args:
      labels_for_strata: Label of each example.
      parts: Examples of each part, by name.
      seed: Seed of the draw.
      groups: Examples of one group (rows of one picture) stay together, in the stratum of their
        first row. Sizes are then met on average over strata; without groups of several rows they
        are exact.

      ids: What the draw is keyed by, so that an example keeps its place in the order of its stratum
        when others come or go; None: positions.

    Returns:
      Ascending indices of each part.

    Raises:
      DataError: A size is negative, or there are fewer examples than the parts ask for.
    """
    n = len(labels_for_strata)
    _check_sizes(parts, n)
    first, group = np.arange(n), np.arange(n)
    if groups is not None:
        _, first, group = np.unique(groups, return_index=True, return_inverse=True)
        if len(first) == n:  # no group of several rows: exact sizes
            first, group = np.arange(n), np.arange(n)
    weight = np.bincount(group, minlength=len(first))
    values, stratum = np.unique(labels_for_strata[first], return_inverse=True)
    drawn = first if ids is None else ids[first]
    order = np.lexsort((hash64(seed, drawn), stratum)) if n else first
    middle, counts = _middles(weight[order], stratum[order], len(values))
    if n > 1.1 * len(first):
        # Where a group falls depends on where it starts on its stratum's axis; another start in
        # each stratum keeps small parts from staying empty. A few repeats move few examples.
        offset = hash64(0x0FF5, seed, np.arange(len(values))) % counts.astype(np.uint64)
        at = stratum[order]
        middle = (middle + 2 * offset.astype(np.int64)[at]) % (2 * counts[at])
    used = np.zeros(len(values), np.int64)
    part_of = np.full(len(first), -1)
    for number, name in enumerate(sorted(parts)):
        seats = _largest_remainder(counts - used, parts[name])
        at = stratum[order]
        inside = (middle >= 2 * used[at]) & (middle < 2 * (used + seats)[at])
        part_of[order[inside]] = number
        used += seats
    by_row = part_of[group]
    numbers = {name: number for number, name in enumerate(sorted(parts))}
    return {name: np.flatnonzero(by_row == numbers[name]).astype(np.int64) for name in parts}


def _check_sizes(parts: Mapping[str, int], n: int) -> None:
    for name, size in parts.items():
        if size < 0:
            raise DataError(f"split: part {name!r} has size {size}")
    if (total := sum(parts.values())) > n:
        sizes = ", ".join(f"{name}={size}" for name, size in parts.items())
        raise DataError(f"split: {sizes} are {total} examples, but there are {n}")


def _middles(weight: np.ndarray, stratum: np.ndarray, strata: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns twice the middle of each unit on its stratum's axis, and the rows of each stratum.

    Units are sorted by stratum.
    """
    counts = np.bincount(stratum, weights=weight, minlength=strata).astype(np.int64)
    start = np.cumsum(counts) - counts
    ends = np.cumsum(weight)
    return 2 * ends - weight - 2 * start[stratum], counts


def _largest_remainder(counts: np.ndarray, size: int) -> np.ndarray:
    """`size` seats in proportion to `counts`, in integers; never more than a count."""
    total = max(int(counts.sum()), 1)
    seats = size * counts // total
    remainder = size * counts % total
    seats[np.argsort(-remainder, kind="stable")[: size - int(seats.sum())]] += 1
    return seats


FOLDS = 2


def fold_of(ids: Integer[np.ndarray, "n"], folds: int = FOLDS) -> Int64[np.ndarray, "n"]:
    """Returns the fold of each example, by its id alone (pass `Source.picture_ids`)."""
    return (hash64(0xF01D, ids) % np.uint64(folds)).astype(np.int64)


def held_out(ids: Integer[np.ndarray, "n"], fraction: float) -> Bool[np.ndarray, "n"]:
    """Whether an example is held out, by its id alone: a growing set keeps what it held out."""
    return hash64(0x401D, ids) < np.uint64(round(fraction * 2.0**64))


def check_disjoint(parts: Mapping[str, Integer[np.ndarray, "_"]]) -> None:
    """Raises DataError naming two parts that share ids, or one with an id twice."""
    for name, ids in parts.items():
        if (twice := len(ids) - len(np.unique(ids))) > 0:
            raise DataError(f"split: part {name!r} holds {twice} ids more than once")
    for one, other in combinations(parts, 2):
        if shared := len(np.intersect1d(parts[one], parts[other])):
            raise DataError(f"split: parts {one!r} and {other!r} share {shared} ids")
