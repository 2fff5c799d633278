"""Data of the examples: ten classes of points in 16 dimensions, some of their labels corrupted."""

from collections.abc import Iterator

import numpy as np

CLASSES, DIMENSIONS = 10, 16


def points(size: int, corrupted: float = 0.0, seed: int = 0) -> dict[str, np.ndarray]:
    """Points around four centers per class, with labels of which a fraction is drawn at random."""
    centers = np.random.default_rng(0).normal(size=(CLASSES, 4, DIMENSIONS))
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, size)
    x = centers[label, rng.integers(0, 4, size)] + rng.normal(0, 0.6, (size, DIMENSIONS))
    wrong = rng.random(size) < corrupted
    label = np.where(wrong, rng.integers(0, CLASSES, size), label)
    ids = np.stack([np.full(size, seed), np.arange(size)], axis=1)
    return {
        "x": x.astype(np.float32),
        "label": label.astype(np.int32),
        "id": ids.astype(np.uint32),
    }


def batches(data: dict[str, np.ndarray], size: int, count: int) -> Iterator[dict[str, np.ndarray]]:
    """`count` batches of `size` rows in random order, epoch after epoch."""
    rng, rows = np.random.default_rng(0), np.empty(0, int)
    for _ in range(count):
        while len(rows) < size:
            rows = np.concatenate([rows, rng.permutation(len(data["label"]))])
        taken, rows = rows[:size], rows[size:]
        yield {name: values[taken] for name, values in data.items()}
