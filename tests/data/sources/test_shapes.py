from dataclasses import replace

import numpy as np
import pytest

from active_learning.data.sources import shapes
from active_learning.data.sources.shapes import CLASSES, Shapes, corrupted_labels, draw, uniform
from active_learning.data.sources.source import DataError

SMALL = Shapes(train=300, test=50)


def test_a_pure_function_of_seed_split_and_index():
    one, more, other = (
        SMALL.open(),
        replace(SMALL, train=1100).open(),
        replace(SMALL, seed=1).open(),
    )
    rows = np.arange(300)
    np.testing.assert_array_equal(
        one.train.gather(rows)["image"], more.train.gather(rows)["image"]
    )  # across chunks
    np.testing.assert_array_equal(one.train.labels("label"), more.train.labels("label")[:300])
    assert (one.train.gather(rows)["image"] != other.train.gather(rows)["image"]).mean() > 0.9
    assert (
        one.train.gather(rows[:50])["image"] != one.test.gather(rows[:50])["image"]
    ).mean() > 0.9
    assert len(np.unique(one.train.gather(rows)["image"].reshape(300, -1), axis=0)) == 300


def test_shares_of_classes_and_corrupted_labels():
    clean = np.repeat(np.arange(10, dtype=np.int32), 4000)
    label = corrupted_labels(clean, uniform(2, 7, np.arange(len(clean))), 0.4)
    assert (label != clean).mean() == pytest.approx(0.4, abs=0.01)  # 4 sigma of 40,000 draws
    for name in range(10):
        drawn = label[(clean == name) & (label != clean)]
        shares = np.bincount(drawn, minlength=10) / len(drawn)
        np.testing.assert_allclose(
            np.delete(shares, name), 1 / 9, atol=0.035
        )  # 4 sigma of 1,600 draws
    opened = replace(SMALL, train=5000).open()
    assert (opened.train.labels("label") != opened.train.clean_labels()).mean() == pytest.approx(
        0.4, abs=0.03
    )
    np.testing.assert_array_equal(
        opened.test.labels("label"), opened.test.clean_labels()
    )  # the test set is clean
    np.testing.assert_allclose(np.bincount(opened.train.clean_labels()) / 5000, 0.1, atol=0.02)


def test_each_class_has_its_own_outline():
    """Unturned and alone, shapes have the areas of plane geometry, and no two classes look
    alike.
    """
    grid = np.linspace(-1.2, 1.2, 400)
    x, y = (a[None] for a in np.meshgrid(grid, grid))
    inside = {name: shapes._shape(np.array([k]), x, y)[0] < 0 for k, name in enumerate(CLASSES)}
    area = {name: cover.mean() * 2.4**2 for name, cover in inside.items()}
    assert area["disc"] == pytest.approx(np.pi * 0.81, rel=0.01)
    for name, n in (("triangle", 3), ("square", 4), ("pentagon", 5), ("hexagon", 6)):
        assert area[name] == pytest.approx(n / 2 * np.sin(2 * np.pi / n), rel=0.01)
    for name, n, inner in (("star 4", 4, 0.42), ("star 5", 5, 0.45), ("star 6", 6, 0.55)):
        assert area[name] == pytest.approx(n * inner * np.sin(np.pi / n), rel=0.02)
    assert area["cross"] == pytest.approx(4 * 0.64 - 0.64**2, rel=0.02)
    for a in CLASSES:
        assert [b for b in CLASSES if (inside[a] ^ inside[b]).mean() < 0.01] == [a]


def test_the_shape_stands_out():
    """In every image the shape's own pixels are brighter than what is around them: it can be
    seen.
    """
    count, size = 200, 32
    classes = np.zeros(count, int)
    u = uniform(64, 3, np.arange(count))
    grain = np.full((count, size, size), 0.5)
    image = draw(classes, u, grain).mean(axis=-1)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    rim, middle = np.hypot(x, y) > 1.2, np.hypot(x, y) < 0.6
    assert np.mean(image[:, middle].mean(1) > image[:, rim].mean(1)) > 0.9


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"size": 8}, r"config\.data\.size=8: must be at least 16"),
        ({"train": 0}, r"config\.data\.train=0"),
        ({"noise": 1.0}, r"config\.data\.noise=1\.0: expected a fraction"),
    ],
)
def test_refusals(change, pattern):
    with pytest.raises(DataError, match=pattern):
        replace(SMALL, **change).open()
