"""Sets of others: original files, TensorFlow Datasets without TensorFlow, Parquet files."""

import gzip
import io
import re
import struct
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from active_learning.config import freeze
from active_learning.data.images import encode_png
from active_learning.data.sources import contents
from active_learning.data.sources.from_path import listings_of, section_of
from active_learning.data.sources.originals import CIFAR, FASHION
from active_learning.data.sources.preparation import Options, prepare
from active_learning.data.sources.source import DataError
from active_learning.data.sources.tfds import Tfds
from active_learning.prepare import main
from configs import cifar10n
from tests.data.photos import COLOURS, blob

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (60, 28, 28), dtype=np.uint8)


def write_idx(folder, n=60):
    for name in ("train", "t10k"):
        images = struct.pack(">IIII", 0x803, n, 28, 28) + GREY[:n].tobytes()
        labels = struct.pack(">II", 0x801, n) + (np.arange(n) % 10).astype(np.uint8).tobytes()
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images, 1))
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels, 1))
    return folder


def test_fashion_mnist_as_a_tfds_set_without_tensorflow(tmp_path, capsys):
    write_idx(tmp_path)
    assert main([str(tmp_path), str(tmp_path / "sets"), "--tfds=fashion_mnist"]) == 0
    assert "configs/tfds.py --config.data.path=" in capsys.readouterr().out
    opened = Tfds(path=str(tmp_path / "sets"), name="fashion_mnist", size=28).open()
    assert opened.train.class_names == FASHION and (len(opened.train), len(opened.test)) == (60, 60)
    assert sorted(opened.train.ids) == list(range(60))
    assert np.array_equal(
        opened.train.gather(np.arange(60))["image"][..., 0], GREY[opened.train.ids]
    )
    assert np.array_equal(opened.train.labels("label"), opened.train.ids % 10)
    again = Tfds(path=str(tmp_path / "sets"), name="fashion_mnist", size=28).open()
    assert again.train.describe() == opened.train.describe()
    import tensorflow_datasets as tfds

    source = tfds.data_source(
        "fashion_mnist", data_dir=str(tmp_path / "sets"), split="test", try_gcs=False
    )
    result = np.flatnonzero(
        (source[0]["image"][..., 0] == GREY).all((1, 2))
    )  # the catalogue's own reader takes it
    assert len(source) == 60 and source[0]["label"] == result[0] % 10
    assert "tensorflow" not in sys.modules
    assert main([str(tmp_path), str(tmp_path / "sets"), "--tfds=fashion_mnist"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main([str(tmp_path), str(tmp_path / "x"), "--tfds=a", "--small=8"]) == 2


def test_images_are_read_once_to_know_them_by_content(tmp_path, monkeypatch):
    write_idx(tmp_path)
    assert main([str(tmp_path), str(tmp_path / "sets"), "--tfds=fashion_mnist"]) == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "CACHED_FROM", 5)
    section = Tfds(path=str(tmp_path / "sets"), name="fashion_mnist")
    train, test = (listing.files for listing in section.listings())
    first, read = contents.digests_of(train, where="here"), []
    assert len(set(first)) == 60 and {train.stamp(k) for k in range(60)}.isdisjoint(
        test.stamp(k) for k in range(60)
    )
    monkeypatch.setattr(type(train), "read", lambda self, row: read.append(row) or b"other")
    again = contents.digests_of(section.listings()[0].files, where="here")
    assert again == first and not read


def test_captions_ids_and_colours_survive_tfds(tmp_path):
    rows = [f"{name}_{n}.png,{name},das {name}" for name in COLOURS for n in range(4)]
    for name in COLOURS:
        for n in range(4):
            (tmp_path / f"{name}_{n}.png").write_bytes(blob(name, n))
    (tmp_path / "t.csv").write_text("path,label,caption\n" + "\n".join(rows))
    assert main([str(tmp_path / "t.csv"), str(tmp_path / "sets"), "--tfds=mine"]) == 0
    train = (
        Tfds(path=str(tmp_path / "sets"), name="mine", size=16, text="caption", holdout=0.25)
        .open()
        .train
    )
    assert train.class_names == ("blue", "green", "red")
    source, _ = listings_of(section_of(str(tmp_path / "t.csv")))
    label_of = dict(zip(source.ids.tolist(), source.columns["label"], strict=True))
    for k in range(len(train)):
        name = label_of[int(train.ids[k])]
        assert train.texts("caption")[k] == f"das {name}"
        assert train.labels("label")[k] == list(COLOURS).index(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"config\.data\.name='': which of the sets in .*\? there are: none"),
        (
            {"name": "cifar10"},
            r"not prepared in .*python -m active_learning\.prepare FOLDER.* --tfds=cifar10",
        ),
        (
            {"name": "coco"},
            r"tfds\.builder\('coco', .*array_record'\)\.download_and_prepare\(\) where TensorFlow",
        ),
    ],
)
def test_a_set_that_is_not_there_is_said_at_once(tmp_path, changes, message):
    began = time.perf_counter()
    with pytest.raises(DataError, match=message) as error:
        Tfds(path=str(tmp_path), **changes).open()
    assert time.perf_counter() - began < 2 and "\n" not in str(error.value)


def write_cifar(folder):
    """An image a batch, of class 0 to 5; their pixels."""
    pixels = RNG.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for n, name in enumerate([*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]):
            content = bytes([n]) + pixels[n].tobytes()
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return pixels


def test_the_lines_that_docs_give_write_cifar_with_human_labels(tmp_path, monkeypatch):
    page = (Path(__file__).resolve().parents[3] / "docs" / "data.md").read_text()
    (code,) = re.findall(r"## CIFAR-10 with human labels.*?```python\n(.*?)```", page, re.S)
    human = {"clean_label": np.arange(5), "worse_label": np.array([0, 1, 7, 8, 9])}
    monkeypatch.setitem(
        sys.modules, "torch", SimpleNamespace(load=lambda path, weights_only: human)
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10n").mkdir()
    (tmp_path / "DIR").mkdir()
    pixels = write_cifar(tmp_path / "DIR")
    exec(code, {})
    monkeypatch.setenv("ACTIVE_LEARNING_DATA", str(tmp_path))
    opened = freeze(cifar10n.get_config()).data.open()
    assert np.array_equal(opened.train.image, pixels[:5].transpose(0, 2, 3, 1))
    assert opened.train.labels("label_worse").tolist() == [0, 1, 7, 8, 9]
    assert opened.train.clean_labels().tolist() == [0, 1, 2, 3, 4] and opened.test.labels(
        "label"
    ).tolist() == [5]
    human["clean_label"] = np.arange(5)[::-1]
    with pytest.raises(AssertionError, match="not in one order"):
        exec(code, {})


def test_cifar_originals(tmp_path):
    pixels = write_cifar(tmp_path)
    opened = section_of(str(tmp_path)).open()
    assert opened.train.class_names == CIFAR and opened.train.labels("label").tolist() == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert (
        np.array_equal(opened.train.image, pixels[:5].transpose(0, 2, 3, 1))
        and len(opened.test) == 1
    )
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(
        (tmp_path / "cifar-10-binary.tar.gz").read_bytes()[:900]
    )
    with pytest.raises(DataError, match=r"not a readable archive|is missing"):
        section_of(str(tmp_path)).open()


def test_idx_files_that_are_damaged(tmp_path):
    file = write_idx(tmp_path) / "train-labels-idx1-ubyte.gz"
    for content in (
        b"",
        b"hello",
        gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x09123"),
        file.read_bytes()[:-9],
    ):
        file.write_bytes(content)
        with pytest.raises(
            DataError, match=r"train-labels-idx1-ubyte\.gz: (not a readable|no idx file)"
        ):
            section_of(str(tmp_path)).open()


def test_parquet_as_hugging_face_writes_it(tmp_path, monkeypatch):
    import json

    import pyarrow as pa
    from pyarrow import parquet

    names = ["zebra", "ant", "bee"]
    features = {
        "img": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": names},
        "texts": {"_type": "Sequence"},
    }
    text = {"huggingface": json.dumps({"info": {"features": features}})}
    images = [encode_png(np.full((9, 9, 3), 5 * n, np.uint8)) for n in range(20)]
    table = pa.table(
        {
            "img": [{"bytes": image, "path": None} for image in images],
            "label": [n % 3 for n in range(20)],
            "texts": [[f"a{n}", "ß"] for n in range(20)],
        }
    ).replace_schema_metadata(text)
    for part in ("train-00000-of-00001", "test-00000-of-00001"):
        parquet.write_table(table, tmp_path / f"{part}.parquet", row_group_size=6)
    train, test = listings_of(section_of(str(tmp_path)))
    assert train.class_names == {"label": tuple(names)} and len(test.files) == 20
    assert [train.files.read(n) for n in (0, 19, 7)] == [images[n] for n in (0, 19, 7)]
    prepare(train, test, tmp_path / "out", Options())
    made = section_of(str(tmp_path / "out")).open()
    assert made.train.class_names == tuple(names) and made.train.texts("texts")[4] == ["a4", "ß"]
    direct = section_of(str(tmp_path)).open()  # small enough to train on as it is
    assert direct.train.texts("texts")[4] == ["a4", "ß"]
    assert set(direct.train.ids) == set(made.train.ids) and len(set(direct.train.ids)) == 20
    monkeypatch.setattr("active_learning.data.sources.parquet.DIRECT", 100)
    with pytest.raises(DataError, match="prepare it first"):
        section_of(str(tmp_path)).open()
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        listings_of(section_of(str(tmp_path)))
