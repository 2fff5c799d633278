"""Folders as they are published, and what is found in them that is no data."""

import numpy as np
import pytest

from active_learning.data.errors import DataError
from active_learning.data.sources.image_folder import ImageFolder
from active_learning.data.sources.layouts import part_of, part_of_shard
from tests.data.photos import blob, write_folder


def opened(path):
    return ImageFolder(path=str(path), size=16).open()


@pytest.mark.parametrize(
    ("name", "part"),
    [("Train", "train"), ("training_set", "train"), ("TEST", "test"), ("val2017", "val"),
     ("Testing", "test"), ("strain", ""), ("trains", ""), ("valley", ""), ("train data", "train")],
)  # fmt: skip
def test_names_of_parts(name, part):
    assert part_of(name) == part


def test_names_of_shards():
    assert [part_of_shard(n) for n in ("train-00000-of-2.tar", "set-val-1.tar", "00000.tar")] == [
        "train",
        "val",
        "",
    ]


@pytest.mark.parametrize(
    ("train", "test"), [("Train", "Test"), ("TRAIN", "VAL"), ("training", "testing")]
)
def test_parts_in_any_spelling_and_one_folder_further_down(tmp_path, train, test):
    write_folder(tmp_path / "archive" / train, each=4)
    write_folder(tmp_path / "archive" / test, each=2)
    (tmp_path / "__MACOSX").mkdir()
    result = opened(tmp_path)
    assert (len(result.train), len(result.test), result.train.num_classes) == (12, 6, 3)


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "car", "train"):
        (tmp_path / name).mkdir()
        for n in range(5):
            (tmp_path / name / f"{n}.png").write_bytes(blob("red", n + 10 * len(name)))
    assert opened(tmp_path).train.class_names == ("bus", "car", "train")


@pytest.mark.parametrize("names", [("seg_train", "seg_test"), ("only",)])
def test_parts_and_single_folders_are_no_classes(tmp_path, names):
    for name in names:
        (tmp_path / name).mkdir()
        for n in range(5):
            (tmp_path / name / f"{n}.png").write_bytes(blob("red", n))
    with pytest.raises(
        DataError, match=r"would be a class, but looks like a part|one class, 'only'"
    ):
        opened(tmp_path)


def test_what_is_left_out_is_counted_by_kind(tmp_path):
    write_folder(tmp_path, each=5)
    for n in range(3):
        (tmp_path / "red" / f"{n}.heic2").write_bytes(b"x")
        (tmp_path / "red" / f"{n}.txt").write_text("x")
        (tmp_path / "red" / f"{n:032x}").write_bytes(
            blob("red", 50 + n)
        )  # an image without a suffix
    (tmp_path / "red" / "b.jfif").write_bytes(blob("red", 60, "JPEG"))
    (tmp_path / "red" / "._b.png").write_bytes(b"x")
    result = opened(tmp_path)
    assert len(result.train) + len(result.test) == 19
    lines = " ".join(result.train.problems.lines())
    assert "3 files are .txt" in lines and "3 files are .heic2" in lines


def test_runs_and_prepared_shards_in_the_data_are_no_classes(tmp_path):
    write_folder(tmp_path, each=5)
    before = opened(tmp_path).train.describe()["hash"]
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "prepare.jsonl").write_text("")
    result = opened(tmp_path)
    assert result.train.describe()["hash"] == before
    assert "written by this program: out, run" in result.train.problems.lines()[0]


def test_numbered_folders_are_in_numerical_order(tmp_path):
    for n in (10, 2, 1):
        (tmp_path / str(n)).mkdir()
        for k in range(4):
            (tmp_path / str(n) / f"{k}.png").write_bytes(blob("red", 10 * n + k))
    result = opened(tmp_path).train
    assert result.class_names == ("1", "2", "10")
    assert set(np.unique(result.labels("label"))) == {0, 1, 2}


def test_a_file_name_that_is_not_utf8(tmp_path):
    write_folder(tmp_path, each=4)
    import os

    with open(os.path.join(os.fsencode(tmp_path), b"red", b"caf\xe9.png"), "wb") as file:
        file.write(blob("red", 99))
    result = opened(tmp_path)
    assert len(result.train) + len(result.test) == 13 and result.train.describe()["hash"]
