"""Copies are found, and pictures that only look alike are not."""

import numpy as np

from active_learning.curation import duplicates
from active_learning.data import images
from active_learning.data.sources.contents import digest


def photos(n, seed=0, side=64):
    """Smooth random pictures."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (n, 8, 8, 3)).astype(np.uint8)
    return np.stack([images.cover(one, side) for one in small])


def made(pictures):
    names = np.array([digest(one.tobytes()) for one in pictures])
    return duplicates.prints(pictures, names)


def test_hash_by_hand():
    bright_left = np.zeros((1, 9, 9, 3), np.uint8)
    bright_left[:] = np.arange(90, 0, -10, dtype=np.uint8)[None, None, :, None]
    words = made(np.repeat(np.repeat(bright_left, 2, 1), 2, 2)).words
    assert words[0, 0] == np.uint64(2**64 - 1) and words[0, 1] == 0


def test_recompressed_resized_and_cropped_copies_are_near():
    pictures = photos(40)
    jpeg = images.decode(images.encode(pictures[3], 70))
    resized = images.cover(images.cover(pictures[7], 40), 64)
    cropped = images.cover(pictures[11][1:63, 1:63], 64)
    brighter = np.clip(pictures[20].astype(int) * 0.9 + 12, 0, 255).astype(np.uint8)
    every = np.concatenate([pictures, np.stack([jpeg, resized, cropped, brighter, pictures[30]])])
    result = duplicates.near_pairs(made(every), block=7)
    assert {(i, j) for i, j, _ in result} == {(3, 40), (7, 41), (11, 42), (20, 43), (30, 44)}
    assert dict(((i, j), c) for i, j, c in result)[30, 44] == 1.0


def test_two_sets_are_compared_with_each_other_only():
    pictures, others = photos(20), photos(20, seed=1)
    others[4] = pictures[9]
    pictures[1] = pictures[2]
    result = duplicates.near_pairs(made(pictures), made(others))
    assert result == [(9, 4, 1.0)]


def test_flat_pictures_are_no_copies_unless_equal():
    flat = np.stack([np.full((32, 32, 3), level, np.uint8) for level in (10, 200, 200)])
    assert [(i, j) for i, j, _ in duplicates.near_pairs(made(flat))] == [(1, 2)]


def test_groups_follow_chains():
    groups = duplicates.groups_of(6, [(1, 2, 1.0), (2, 4, 1.0), (3, 5, 1.0)])
    np.testing.assert_array_equal(groups, [0, 1, 1, 3, 1, 3])
