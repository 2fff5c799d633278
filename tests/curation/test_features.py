"""Patch features: the compiled path equals a plain one, and components are half-whitened."""

import numpy as np

from active_learning.curation import features

SETTINGS = features.PatchFeatures(size=16, filters=8, patch=4, stride=3, components=12)


def pictures(n=150, side=16, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, channels)).astype(np.uint8)


def test_responses_by_hand():
    images = pictures(3)
    filters, mean = features.fit_filters(images, SETTINGS, 0)
    result = np.asarray(features._responses(SETTINGS, images, filters, mean))
    expected = np.zeros((3, 2, 2, 16))
    starts = [0, 3, 6, 9, 12]
    for i, image in enumerate(images.astype(np.float64)):
        grid = np.zeros((5, 5, 16))
        for a, r in enumerate(starts):
            for b, c in enumerate(starts):
                patch = image[r : r + 4, c : c + 4].ravel()
                patch = (patch - patch.mean()) / np.sqrt(patch.var() + features.CONTRAST)
                response = (patch - mean) @ filters
                both = np.concatenate([response, -response]) - SETTINGS.threshold
                grid[a, b] = np.maximum(both, 0)
        for a, rows in enumerate((slice(0, 3), slice(3, 5))):
            for b, columns in enumerate((slice(0, 3), slice(3, 5))):
                expected[i, a, b] = grid[rows, columns].mean(axis=(0, 1))
    np.testing.assert_allclose(result, expected.reshape(3, -1), rtol=1e-3, atol=1e-4)


def test_features_are_unit_vectors_and_do_not_depend_on_blocks():
    images = pictures(channels=1)
    result = features.patch_features(images, SETTINGS)
    assert result.shape == (150, 12)
    np.testing.assert_allclose(np.linalg.norm(result, axis=1), 1.0, rtol=1e-5)
    seen = []
    again = features.patch_features(images, SETTINGS, progress=lambda at, n: seen.append((at, n)))
    np.testing.assert_array_equal(result, again)
    assert seen == [(128, 150), (150, 150)]


def test_larger_pictures_are_shrunk_first():
    small = pictures(60)
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    one, two = (features.patch_features(images, SETTINGS) for images in (small, large))
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_compress_halves_the_spread_of_deviations():
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(4000, 1)) @ np.ones((1, 6)) + rng.normal(size=(4000, 6))
    centered = (raw - raw.mean(0)) / raw.std(0)
    result = features.compress(raw.astype(np.float32), 6)
    # Undo the normalization of each row: ratios of components are unchanged by it.
    values = np.linalg.eigvalsh(centered.T @ centered / 4000)[::-1]
    ratio = result[:, 0] / result[:, 1]
    direction = np.linalg.eigh(centered.T @ centered / 4000)[1][:, ::-1]
    plain = centered @ direction
    expected = (plain[:, 0] / plain[:, 1]) * (values[1] / values[0]) ** 0.25
    np.testing.assert_allclose(np.abs(ratio), np.abs(expected), rtol=0.05)
