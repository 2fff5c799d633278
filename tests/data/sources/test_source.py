import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from active_learning.data.sources.source import (
    DataError,
    Memory,
    Source,
    channel_stats,
    join_id,
    split_id,
)


def memory(n=6, **fields):
    image = np.random.default_rng(0).integers(0, 256, (n, 4, 5, 3), dtype=np.uint8)
    return Memory(
        image,
        {"label": np.arange(n) % 3, "clean": np.zeros(n, np.int64)},
        3,
        "clean",
        ("a", "b", "c"),
        **fields,
    )


def test_memory_is_a_source():
    source = memory()
    assert isinstance(source, Source)
    assert (
        len(source) == 6
        and source.image_shape == (4, 5, 3)
        and source.columns == ("label", "clean")
    )
    np.testing.assert_array_equal(source.ids, np.arange(6))
    assert source.ids.dtype == np.int64 and source.labels("label").dtype == np.int32
    np.testing.assert_array_equal(source.labels("label"), [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(source.clean_labels(), np.zeros(6))
    assert Memory(source.image, source.label_columns, 3).clean_labels() is None


def test_gather_copies():
    source = memory()
    rows = np.array([4, 0, 4])
    image = source.gather(rows)["image"]
    np.testing.assert_array_equal(image, source.image[rows])
    image[:] = 0
    assert source.image.any()


def test_labels_that_are_no_class_are_refused():
    with pytest.raises(
        DataError, match=r"^data: no label column 'labels'; there are: label, clean$"
    ):
        memory().labels("labels")
    image = np.zeros((3, 2, 2, 1), np.uint8)
    for bad in (7, -1):
        source = Memory(image, {"label": np.array([0, bad, bad])}, 3, location="there.npz")
        with pytest.raises(
            DataError,
            match=rf"^there.npz: column 'label' has label {bad} at index 1, outside \[0, 3\)$",
        ):
            source.labels("label")


def test_describe_is_json_and_hashes_images_labels_and_names():
    one = memory(about={"kind": "test"})
    description = json.loads(json.dumps(one.describe()))
    assert (
        description["kind"] == "test"
        and description["examples"] == 6
        and description["classes"] == 3
        and description["columns"] == ["label", "clean"]
    )
    image, labels = one.image.copy(), one.label_columns
    assert Memory(image, labels, 3).describe()["hash"] == description["hash"]
    image[5, 3, 4, 2] ^= 1
    changed = [
        Memory(image, labels, 3),
        Memory(one.image, labels | {"label": np.arange(6)[::-1] % 3}, 3),
        Memory(one.image, {"label": labels["label"], "other": labels["clean"]}, 3),
        Memory(one.image.reshape(6, 5, 4, 3), labels, 3),
    ]
    assert len({description["hash"]} | {source.describe()["hash"] for source in changed}) == 5


def test_channel_stats_against_numpy():
    source = memory(2500)
    rows = np.random.default_rng(1).integers(0, 2500, 2300)
    pixels = source.image[rows] / 255
    mean, std = channel_stats(source, rows)
    np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std((0, 1, 2)), rtol=1e-12)
    assert isinstance(mean, tuple) and isinstance(std[0], float)


def test_channel_stats_of_constant_images_and_of_none():
    flat = Memory(np.full((2, 2, 2, 1), 51, np.uint8), {}, 2)
    mean, std = channel_stats(flat, np.arange(2))
    assert mean == pytest.approx((0.2,)) and std == pytest.approx((1 / 255,))
    with pytest.raises(DataError, match="no examples"):
        channel_stats(flat, np.arange(0))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_ids_go_through_two_words(values):
    ids = np.array(values, np.int64)
    words = split_id(ids)
    assert words.shape == (len(ids), 2) and words.dtype == np.uint32
    np.testing.assert_array_equal(join_id(words), ids)


def test_words_of_an_id_are_high_then_low():
    np.testing.assert_array_equal(split_id(np.array([(5 << 48) | 9])), [[5 << 16, 9]])
