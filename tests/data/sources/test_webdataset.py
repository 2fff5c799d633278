"""Tar shards read in place: against tarfile, in every dialect, and one line for what is damaged."""

import io
import json
import logging
import tarfile

import numpy as np
import pytest

from active_learning.data.images import cover
from active_learning.data.sources import webdataset
from active_learning.data.sources.source import DataError
from active_learning.data.sources.storage import Local
from active_learning.data.sources.tar import members as tar_members
from active_learning.data.sources.webdataset import WebDataset
from tests.data.photos import COLOURS, blob, picture


def write_tar(path, files: dict[str, bytes], format=tarfile.USTAR_FORMAT):
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def examples(count: int, first: int = 0, **more) -> dict[str, bytes]:
    out = {}
    for n in range(first, first + count):
        name = list(COLOURS)[n % 3]
        out |= {
            f"{n:04d}.png": blob(name, n),
            f"{n:04d}.cls": str(n % 3).encode(),
            f"{n:04d}.txt": f"a {name}".encode(),
        }
    return out


def write_shards(root):
    root.mkdir(exist_ok=True)
    for shard in range(2):
        write_tar(root / f"train-{shard}.tar", examples(30, 30 * shard))
    write_tar(root / "test-0.tar", examples(9, 100))
    return root


def test_shards(tmp_path):
    opened = WebDataset(path=str(write_shards(tmp_path)), size=16, text="caption").open()
    train = opened.train
    assert (len(train), len(opened.test), train.num_classes) == (60, 9, 3)
    assert len(set(train.ids.tolist())) == 60
    assert train.labels("label").tolist() == [n % 3 for n in range(60)]
    assert train.texts("caption")[31] == "a green"
    seen = train.gather(np.array([59, 0]))["image"]
    for image, n in zip(seen, (59, 0), strict=True):
        assert np.array_equal(image, cover(picture(list(COLOURS)[n % 3], n), 16))


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_of_tarfile(tmp_path, format):
    deep = "/".join(["folder" * 5] * 4)
    names = ["a.jpg", f"{deep}/b.jpg", "ü.txt"] + (
        ["n" * 180 + ".jpg"] if format != tarfile.USTAR_FORMAT else []
    )
    path = write_tar(
        tmp_path / "x.tar",
        {name: name.encode() * (n * 300 + 1) for n, name in enumerate(names)},
        format,
    )
    with tarfile.open(path) as tar:
        want = [(m.name, m.offset_data, m.size) for m in tar]
    assert [(m.name, m.offset, m.size) for m in tar_members(Local(str(path)))] == want


def test_the_index_is_made_once_and_anew_when_the_tar_changes(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(logging.getLogger("active_learning"), "propagate", True)
    path = write_tar(tmp_path / "x.tar", examples(4))
    made = []
    monkeypatch.setattr(
        webdataset,
        "make_index",
        lambda file, make=webdataset.make_index: made.append(file.name) or make(file),
    )
    opened = lambda **keys: WebDataset(path=str(path), size=16, holdout=0.25, **keys).open()
    first = opened()
    assert (tmp_path / "x.tar.index.npz").exists()
    again = opened()
    assert made == [str(path)]
    assert again.train.describe() == first.train.describe()
    assert np.array_equal(
        again.train.gather(np.arange(3))["image"], first.train.gather(np.arange(3))["image"]
    )
    assert not caplog.records
    write_tar(path, examples(5))
    assert len(opened().train) + 1 == 5
    assert [record.getMessage().split(" since")[0] for record in caplog.records] == [
        f"{path}: has changed"
    ]
    (tmp_path / "x.tar.index.npz").write_bytes(b"half a file")
    assert len(opened().train) + 1 == 5
    opened(cache=str(tmp_path / "cache"))
    assert len(list((tmp_path / "cache").glob("*.index.npz"))) == 1
    assert len(made) == 4


def test_a_read_only_folder_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    path = write_tar(tmp_path / "data" / "x.tar", examples(4))
    (tmp_path / "data").chmod(0o555)
    try:
        for _ in range(2):
            assert len(WebDataset(path=str(path), size=16, holdout=0.25).open().train) == 3
        assert [file.name for file in (tmp_path / "data").iterdir()] == ["x.tar"]
        assert len(list((tmp_path / "cache" / "active_learning").iterdir())) == 1
    finally:
        (tmp_path / "data").chmod(0o755)


def test_json_fields_stored_ids_and_small_views(tmp_path):
    files = {}
    for n in range(8):
        files |= {
            f"{n}.png": blob("red", n),
            f"{n}.small.png": blob("blue", n),
            f"{n}.json": json.dumps({"id": 70 + n, "kind": "ab"[n % 2]}).encode(),
        }
    write_tar(tmp_path / "x.tar", files)
    source = (
        WebDataset(path=str(tmp_path / "x.tar"), size=16, small=8, label="kind", holdout=0.25)
        .open()
        .train
    )
    assert source.class_names == ("a", "b")
    assert set(source.ids) <= set(range(70, 78))
    small = source.gather_small(np.array([0]))["image_small"]
    assert np.array_equal(small[0], cover(picture("blue", int(source.ids[0]) - 70), 8))


def test_damaged_tars_are_named(tmp_path):
    path = write_tar(tmp_path / "x.tar", examples(4))
    whole = path.read_bytes()
    for end in (700, 1500):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"x\.tar: truncated"):
            WebDataset(path=str(path)).open()
    path.write_bytes(b"no tar at all" * 100)
    with pytest.raises(DataError, match=r"x\.tar: no tar header at byte 0"):
        WebDataset(path=str(path)).open()
    path.write_bytes(b"")
    with pytest.raises(DataError, match="truncated, or no tar"):
        WebDataset(path=str(path)).open()
    with pytest.raises(DataError, match=r"no \.tar there"):
        WebDataset(path=str(tmp_path / "nowhere")).open()


def test_an_id_twice_is_counted(tmp_path):
    write_tar(
        tmp_path / "x.tar",
        {
            f"{n}.{s}": b
            for n in range(3)
            for s, b in (("png", blob("red", n)), ("json", b'{"id": 7, "label": 0}'))
        },
    )
    with pytest.raises(DataError, match="id 7 occurs more than once"):
        WebDataset(path=str(tmp_path / "x.tar")).open()
