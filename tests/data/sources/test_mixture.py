"""Several sources as one: ids, classes by name, and a stream in which each has its share wherever
one starts.
"""

import numpy as np
import pytest

from active_learning.config import freeze, section
from active_learning.data.loader import Candidates
from active_learning.data.order import BLOCK, Interleaved
from active_learning.data.sources.arrays import Arrays
from active_learning.data.sources.image_folder import ImageFolder
from active_learning.data.sources.mixture import Mixture
from active_learning.data.sources.source import DataError, Source
from active_learning.settings import Evaluate, Select, Split
from active_learning.train.build import build
from active_learning.train.open_data import open_data
from active_learning.train.overview import problems
from tests import world
from tests.data.photos import blob, write_folder
from tests.world import write_arrays


def write_two(root):
    """`a`: blue, green, red; `b`: other images of green and of a class of its own."""
    write_folder(root / "a", each=10)
    for name in ("green", "yellow"):
        (root / "b" / name).mkdir(parents=True)
        for n in range(10):
            (root / "b" / name / f"{n}.png").write_bytes(blob("green", 100 + n))
    return {name: ImageFolder(path=str(root / name), size=16) for name in ("b", "a")}


def test_ids_classes_and_images(tmp_path):
    sources = write_two(tmp_path)
    opened = Mixture(sources=sources).open()
    train = opened.train
    assert isinstance(train, Source)
    assert train.class_names == ("blue", "green", "red", "yellow") and train.num_classes == 4
    assert (len(train), len(opened.test)) == (27 + 18, 3 + 2)
    one, two = (sources[name].open().train for name in "ab")
    assert np.array_equal(train.ids, [*one.ids, *(two.ids + 2**48)])
    assert np.array_equal(train.labels("label")[27:], np.array([1, 3])[two.labels("label")])
    at = np.array([40, 3, 27])
    seen = train.gather(at)
    assert np.array_equal(seen["image"][1], one.gather(at[1:2])["image"][0])
    assert np.array_equal(seen["image"][[0, 2]], two.gather(at[[0, 2]] - 27)["image"])
    assert not seen["bad"].any()
    description = train.describe()
    assert description["sources"]["b"]["hash"] == two.describe()["hash"] and description[
        "hash"
    ] not in (two.describe()["hash"],)


def test_shares_of_the_stream():
    groups = [np.arange(100), np.arange(100, 107)]
    order = Interleaved(groups, (3.0, 1.0), 5)
    rows, epochs = order.positions(0, 10 * BLOCK)
    assert ((rows.reshape(10, BLOCK) >= 100).sum(1) == BLOCK // 4).all()
    for n, group in enumerate(
        groups
    ):  # each group: its epochs one after the other, every row once in each
        mine = np.isin(rows, group)
        for epoch in range(epochs[mine].max()):
            assert sorted(rows[mine & (epochs == epoch)]) == list(group), (n, epoch)
        assert (np.diff(epochs[mine]) >= 0).all()
    for start, count in ((0, 1), (BLOCK - 1, 2), (777, 3 * BLOCK)):
        again = Interleaved(groups, (3.0, 1.0), 5).positions(start, count)
        assert np.array_equal(again[0], rows[start : start + count])
        assert np.array_equal(again[1], epochs[start : start + count])
    assert (Interleaved(groups, (3.0, 1.0), 6).positions(0, BLOCK)[0] != rows[:BLOCK]).any()
    thirds = Interleaved([np.arange(3)] * 3, (1.0, 1.0, 1.0), 0)
    assert thirds.counts.tolist() == [342, 341, 341]
    for wrong in (([np.arange(3), np.arange(0)], (1.0, 1.0)), (groups, (1e6, 1.0))):
        with pytest.raises(ValueError, match=r"share|n >= 1"):
            Interleaved(*wrong, 0)


def test_the_stream_of_a_part(tmp_path):
    mixture = Mixture(sources=write_two(tmp_path), weights={"a": 1, "b": 3})
    config = world.config(
        tmp_path, data=mixture, split=Split(parts={"pool": 40}), evaluate=Evaluate(gate="")
    )
    part = open_data(config).train
    stream = Candidates(part, 0)
    batch = stream.read(0, BLOCK, slice(None), False)
    assert (batch["id"][:, 0] >> 16 == 1).sum() == BLOCK * 3 // 4
    again = stream.read(500, 50, slice(None), False)
    for name in batch:
        assert np.array_equal(batch[name][500:550], again[name]), name


def test_a_config_and_the_problems_of_all(tmp_path):
    sources = write_two(tmp_path)
    keys = {n: section(ImageFolder, path=s.path, size=16, holdout=0.2) for n, s in sources.items()}
    mixture = freeze(section(Mixture, sources=keys, weights={"a": 1, "b": 0.5}))
    assert mixture.sources["a"] == ImageFolder(path=sources["a"].path, size=16, holdout=0.2)
    config = world.config(
        tmp_path, data=mixture, split=Split(), select=Select(), evaluate=Evaluate(gate="")
    )
    experiment = build(config)
    (tmp_path / "b" / "yellow" / "3.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"b: 1 of 20 examples cannot be used.*yellow/3\.png"):
        for part in (experiment.data.train, experiment.data.parts["test"]):
            part.read(np.arange(len(part)))
    assert [one.total for one in problems(experiment)] == [30, 20]


def test_small_views_of_files_and_arrays_together(tmp_path):
    write_folder(tmp_path / "a", each=4)
    (tmp_path / "b").mkdir()
    write_arrays(tmp_path / "b", 20, 8)
    labels = {"label": "", "clean_label": ""}
    folder = ImageFolder(path=str(tmp_path / "a"), size=8, small=4, **labels)
    mixture = Mixture(
        sources={"a": folder, "b": Arrays(path=str(tmp_path / "b"), small=4)}, label=""
    )
    train = mixture.open().train
    assert mixture.small == train.small == 4 and not train.prepared
    assert train.small_view().image_shape == (4, 4, 3)
    at = np.array([25, 2, 11])
    seen = train.gather_small(at)["image_small"]
    assert np.array_equal(seen, train.small_view().gather(at)["image"])


def test_arrays_with_numbered_classes(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        (tmp_path / name).mkdir()
        write_arrays(tmp_path / name, 20, 8, seed)
    sources = {n: Arrays(path=str(tmp_path / n), clean_label="clean") for n in "ab"}
    train = Mixture(sources=sources).open().train
    assert train.num_classes == 4 and train.class_names == () and len(train.clean_labels()) == 40
    assert (train.clean_labels() != train.labels("label")).any()


@pytest.mark.parametrize(
    ("sources", "weights", "message"),
    [
        ("a", {}, r"config\.data\.sources: 1 sources \(a\)"),
        ("ab", {"a": 1}, r"config\.data\.weights=.*each of a, b"),
        ("ab", {"a": 1, "b": 0}, r"config\.data\.weights"),
        ("ac", {}, r"images of one size .* a \(16, 16, 3\), c \(8, 8, 3\)"),
        ("ad", {}, r"the classes cannot be matched"),
    ],
)
def test_what_does_not_fit(tmp_path, sources, weights, message):
    known = write_two(tmp_path) | {"c": ImageFolder(path=str(tmp_path / "a"), size=8)}
    if "d" in sources:
        write_arrays(tmp_path, 20, 8)
        known["d"] = Arrays(path=str(tmp_path))
        known["a"] = ImageFolder(path=str(tmp_path / "a"), size=8)
    with pytest.raises(DataError, match=message) as error:
        Mixture(sources={n: known[n] for n in sources}, weights=weights).open()
    assert "\n" not in str(error.value)
