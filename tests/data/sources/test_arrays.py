import numpy as np
import pytest

from active_learning.config import freeze, section
from active_learning.data.sources.arrays import Arrays
from active_learning.data.sources.source import DataError, channel_stats
from tests.data.real import real

IMAGE = np.arange(6 * 4 * 4 * 3, dtype=np.uint8).reshape(6, 4, 4, 3)
LABEL = np.array([0, 1, 2, 0, 1, 2])


def write(folder, train=None, test=None):
    """A small data set; None removes a column."""
    default = {"image": IMAGE, "label": LABEL}
    for part, change in (("train", train), ("test", test)):
        content = {k: v for k, v in (default | (change or {})).items() if v is not None}
        np.savez(folder / f"{part}.npz", **content)
    return Arrays(path=str(folder))


def refused(data, pattern):
    with pytest.raises(DataError, match=pattern) as raised:
        data.open()
    assert "\n" not in str(raised.value)


def test_columns_truth_and_class_names(tmp_path):
    worse = np.array([2, 1, 2, 0, 0, 2])
    write(
        tmp_path,
        {
            "worse": worse,
            "class_names": np.array(["cat", "dog", "elk"]),
            "votes": np.zeros((6, 3), np.int8),
        },
    )
    opened = Arrays(path=str(tmp_path), label="worse").open()
    train, test = opened.train, opened.test
    assert opened.test_label == "label"
    assert (
        train.columns == ("label", "worse")
        and train.num_classes == 3
        and train.class_names == ("cat", "dog", "elk")
    )
    np.testing.assert_array_equal(train.labels("worse"), worse)
    np.testing.assert_array_equal(train.clean_labels(), LABEL)
    np.testing.assert_array_equal(train.gather(np.array([3]))["image"], IMAGE[3:4])
    assert test.num_classes == 3 and test.class_names == train.class_names
    assert (
        train.describe()["file"] == "train.npz"
        and train.describe()["hash"] != test.describe()["hash"]
    )


def test_unknown_truth(tmp_path):
    write(tmp_path)
    opened = Arrays(path=str(tmp_path), clean_label="").open()
    assert opened.train.clean_labels() is None and opened.test_label == "label"


def test_an_unrelated_integer_column_adds_no_class(tmp_path):
    opened = write(tmp_path, {"index": np.arange(6) + 1000}).open()
    assert opened.train.num_classes == 3
    with pytest.raises(DataError, match="'index' has label 1000"):
        opened.train.labels("index")


def test_grey_images_get_a_channel(tmp_path):
    opened = write(tmp_path, {"image": IMAGE[..., 0]}, {"image": IMAGE[..., 0]}).open()
    assert opened.train.image_shape == (4, 4, 1)
    np.testing.assert_array_equal(opened.test.gather(np.arange(6))["image"], IMAGE[..., :1])


def test_where_the_folder_is(tmp_path, monkeypatch):
    monkeypatch.delenv("ACTIVE_LEARNING_DATA", raising=False)
    refused(Arrays(name="toy"), r"config\.data\.path=''.*ACTIVE_LEARNING_DATA is not set")
    (tmp_path / "toy").mkdir()
    write(tmp_path / "toy")
    monkeypatch.setenv("ACTIVE_LEARNING_DATA", str(tmp_path))
    assert len(Arrays(name="toy").open().train) == 6
    refused(Arrays(), "config.data.name is empty")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(Arrays(path="~/toy").open().train) == 6


def test_it_is_a_config_value(tmp_path):
    write(tmp_path)
    assert freeze(section(Arrays, path=str(tmp_path))) == Arrays(path=str(tmp_path))


@pytest.mark.parametrize(
    ("train", "pattern"),
    [
        ({"image": None}, r"train\.npz: no column 'image'; columns there: label"),
        (
            {"label": None, "y": LABEL},
            r"config\.data\.label='label': .*train\.npz has no such column; columns there: y",
        ),
        ({"label": LABEL[:5]}, r"train\.npz: column 'label' has 5 values for 6 images"),
        (
            {"label": LABEL - 1},
            r"train\.npz: column 'label' has label -1 at index 0, outside \[0, 2\)",
        ),
        (
            {"image": IMAGE.astype(np.float32) * 2.5},
            r"train\.npz: 'image' is float32 \(6, 4, 4, 3\), expected uint8",
        ),
        ({"image": IMAGE.reshape(6, -1)}, r"train\.npz: 'image' is uint8 \(6, 48\), expected"),
        (
            {"image": IMAGE[:0], "label": LABEL[:0]},
            r"train\.npz: 'image' is uint8 \(0, 4, 4, 3\), expected",
        ),
        (
            {"image": IMAGE[:, :2]},
            r"test\.npz: images are \(4, 4, 3\), those of train\.npz \(2, 4, 3\)",
        ),
        (
            {"class_names": np.array([1, 2, 3])},
            r"train\.npz: 'class_names' is int64 \(3,\), expected strings",
        ),
        (
            {"class_names": np.array(["a", "b"])},
            r"train\.npz: column 'label' has label 2 at index 2, outside \[0, 2\)",
        ),
        (
            {"label": np.eye(3)[LABEL]},
            r"no such column; columns there: none; no label columns \(n,\): label float64 \(6, 3\)",
        ),
        ({"label": np.array(["a"] * 6)}, r"one class, 'a'; two or more are needed"),
    ],
)
def test_what_is_refused(tmp_path, train, pattern):
    refused(write(tmp_path, train), pattern)


def test_what_is_refused_of_the_test_set(tmp_path):
    refused(
        write(tmp_path, test={"label": LABEL + 1}),
        r"test\.npz: column 'label' has label 3 at index 2, outside \[0, 3\)",
    )
    refused(
        write(tmp_path, test={"label": None}),
        r"test\.npz: no column 'label' to judge by; columns there: none",
    )


def test_unreadable_files(tmp_path):
    refused(Arrays(path=str(tmp_path)), r"train\.npz: no such file")
    write(tmp_path, {"label": np.array([{}] * 6, object)})
    refused(Arrays(path=str(tmp_path)), r"train\.npz: not a readable \.npz archive")
    content = (tmp_path / "test.npz").read_bytes()
    for broken in (b"", b"hello", content[:-30]):
        (tmp_path / "train.npz").write_bytes(broken)
        refused(Arrays(path=str(tmp_path)), r"train\.npz: not a readable \.npz archive")


def write_mapped(folder, n=5000):
    """Folders of .npy files, more images than are sampled."""
    image = np.random.default_rng(0).integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    for part in ("train", "test"):
        (folder / part).mkdir()
        np.save(folder / part / "image.npy", image)
        np.save(folder / part / "label.npy", np.arange(n) % 3)
        np.save(folder / part / "class_names.npy", np.array(["cat", "dog", "elk"]))
    return image


def test_mapped_arrays_stay_on_disk(tmp_path):
    image = write_mapped(tmp_path)
    train = Arrays(path=str(tmp_path)).open().train
    assert isinstance(train.image, np.memmap) and train.class_names == ("cat", "dog", "elk")
    seen = train.gather(np.array([4999, 0, 7]))["image"]
    assert type(seen) is np.ndarray and np.array_equal(seen, image[[4999, 0, 7]])
    assert train.stats_sample == 2048
    one = train.describe()["hash"]
    for index, same in (
        (0, False),
        (4999, False),
        (1, True),
    ):  # a sample: the second image is not in it
        changed = image.copy()
        changed[index] ^= 1
        np.save(tmp_path / "train" / "image.npy", changed)
        assert (Arrays(path=str(tmp_path)).open().train.describe()["hash"] == one) == same


def test_mapped_arrays_that_cannot_be_read(tmp_path):
    write_mapped(tmp_path, 30)
    file = tmp_path / "train" / "image.npy"
    file.write_bytes(file.read_bytes()[:-9])
    refused(Arrays(path=str(tmp_path)), r"train: not a readable folder of \.npy files")
    np.save(file, np.array([{}], object))
    refused(Arrays(path=str(tmp_path)), r"train: not a readable folder of \.npy files")
    write = np.zeros((30, 4, 4, 3), np.uint8)
    np.save(file, write)
    (tmp_path / "test" / "image.npy").unlink()
    refused(Arrays(path=str(tmp_path)), r"test: no such file, or no image\.npy in it")


def test_cifar10n():
    opened = real("cifar10n", label="label_worse").open()
    train, test = opened.train, opened.test
    assert (len(train), len(test), train.num_classes, train.image_shape) == (
        50000,
        10000,
        10,
        (32, 32, 3),
    )
    assert {"label", "label_worse", "label_aggre", "label_random1"} <= set(
        train.columns
    ) and "votes" not in test.columns
    assert (train.labels("label_worse") != train.clean_labels()).mean() == pytest.approx(
        0.4021, abs=1e-3
    )  # Wei et al. 2022, Table 1
    mean, std = channel_stats(train, np.arange(50000))
    assert mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-4)  # the figures everybody copies
    assert std == pytest.approx((0.2470, 0.2435, 0.2616), abs=1e-4)


def test_fashion_mnist():
    opened = real("fashion_mnist").open()
    assert opened.train.image_shape == (28, 28, 1) and len(opened.train) == 60000
    mean, std = channel_stats(opened.train, np.arange(60000))
    assert mean == pytest.approx((0.2860,), abs=1e-4) and std == pytest.approx((0.3530,), abs=1e-4)
