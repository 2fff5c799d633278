"""Files that are made to do harm: one line within seconds, whatever they declare."""

import gzip
import io
import json
import os
import zipfile

import numpy as np
import pytest

from active_learning.data import limits
from active_learning.data.errors import DataError
from active_learning.data.sources.arrays import Arrays
from active_learning.data.sources.image_folder import ImageFolder
from active_learning.data.sources.originals import read_idx
from active_learning.data.sources.preparation import Options, prepare
from active_learning.data.sources.tables import read_table
from active_learning.data.sources.webdataset import WebDataset
from tests.data.photos import write_folder
from tests.data.sources.test_webdataset import examples, write_tar
from tests.world import write_arrays


def refused(one, message):
    with pytest.raises(DataError, match=message) as error:
        one()
    assert "\n" not in str(error.value)


@pytest.fixture(autouse=True)
def usual_limits():
    yield
    limits.scaled(1)


def test_pipes_and_devices_are_never_waited_for(tmp_path):
    write_folder(tmp_path, each=40)
    os.mkfifo(tmp_path / "red" / "pipe.png")
    os.mkfifo(tmp_path / "red" / "pipe")
    (tmp_path / "red" / "zero.png").symlink_to("/dev/zero")
    source = ImageFolder(path=str(tmp_path), size=16, holdout=0.01).open().train
    assert not source.gather(np.arange(len(source)))["bad"].any()
    assert "left out: 3 entries are no regular files" in source.problems.lines()[0]
    os.mkfifo(tmp_path / "t.csv")
    refused(lambda: ImageFolder(path=str(tmp_path / "t.csv")).open(), "neither a file nor a folder")
    (tmp_path / "u.csv").write_text(
        "path,label\n" + "\n".join(f"red/pipe.png,{n % 2}" for n in range(9))
    )
    refused(lambda: ImageFolder(path=str(tmp_path / "u.csv"), size=0).open(), "not a regular file")


def header(shape) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        out, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return out.getvalue()


@pytest.mark.parametrize("shape", [(10**15, 8, 8, 3), (10**6, 8, 8, 3), (2**62, 4)])
def test_arrays_that_declare_more_than_they_hold(tmp_path, shape):
    write_arrays(tmp_path, 12, 4)
    with zipfile.ZipFile(tmp_path / "train.npz", "w") as archive:
        archive.writestr("image.npy", header(shape) + bytes(100))
    refused(
        lambda: Arrays(path=str(tmp_path)).open(),
        r"train\.npz: not a readable \.npz archive: image\.npy: .*declares",
    )


def test_an_archive_that_decompresses_without_end(tmp_path):
    write_arrays(tmp_path, 12, 4)
    with zipfile.ZipFile(tmp_path / "train.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", header((80_000_000, 1, 1, 1)) + bytes(80_000_000))
    refused(
        lambda: Arrays(path=str(tmp_path)).open(), r"declares 80,000,128 bytes in .*data\.limits"
    )


def test_tables_and_originals_that_decompress_without_end(tmp_path, monkeypatch):
    limits.scaled(1e-3)
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(b" " * (1 << 20)))
    refused(lambda: read_table(tmp_path / "t.jsonl.gz"), "bytes after decompression")
    monkeypatch.setattr("active_learning.data.sources.originals._MOST", 1000)
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"\0\0\x08\x01" + bytes(5000)))
    refused(lambda: read_idx(tmp_path / "x.gz"), "no idx file")


@pytest.mark.parametrize(
    "content", [b"[]", b"{", b"[" * 50_000, b'{"prepare": 2}', b"\xff", b'{"class_names": 3}']
)
def test_manifests_of_any_content(tmp_path, content):
    write_tar(tmp_path / "x.tar", examples(20))
    (tmp_path / "manifest.json").write_bytes(content)
    assert WebDataset(path=str(tmp_path / "x.tar"), size=16).open().train.num_classes == 3
    train, test = ImageFolder(
        path=str(write_folder(tmp_path / "photos", each=4))
    ).checked_listings()
    refused(lambda: prepare(train, test, tmp_path, Options()), r"manifest|another preparation")


def index(tmp_path, **changes):
    """The index of x.tar with changed content."""
    path = tmp_path / "x.tar.index.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    about = json.loads(arrays["text"].tobytes()) | changes.pop("about", {})
    arrays["text"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(path, **(arrays | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"places": np.full((20, 4), 2**62)},
        {"places": np.full((20, 4), -5)},
        {"places": np.zeros((3, 4), np.int64)},
        {"about": {"keys": 7}},
        {"about": {"columns": {"label": [1]}}},
        {"about": {"bad": []}},
    ],
)
def test_a_damaged_index_is_made_anew(tmp_path, changes):
    path = write_tar(tmp_path / "x.tar", examples(20))
    before = WebDataset(path=str(path), size=16).open().train
    index(tmp_path, **changes)
    after = WebDataset(path=str(path), size=16).open().train
    assert after.describe() == before.describe()
    assert not after.gather(np.arange(len(after)))["bad"].any()


def test_a_path_that_cannot_be_written(tmp_path):
    train, test = ImageFolder(
        path=str(write_folder(tmp_path / "photos", each=4))
    ).checked_listings()
    (tmp_path / "file").write_text("")
    refused(lambda: prepare(train, test, tmp_path / "file" / "out", Options()), "cannot be written")
