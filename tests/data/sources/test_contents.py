"""Ids by content: they survive adding, removing, moving and renaming, for every source."""

import io
import shutil
import tarfile

import numpy as np
import pytest

from active_learning.data.errors import DataError
from active_learning.data.sources import contents
from active_learning.data.sources.arrays import Arrays
from active_learning.data.sources.image_folder import ImageFolder
from active_learning.data.sources.parquet import Parquet
from active_learning.data.sources.webdataset import WebDataset
from active_learning.data.splits import split
from tests.data.photos import blob, write_folder
from tests.world import write_arrays


def names_by_id(section):
    train, _ = section.checked_listings()
    return {int(i): train.files.read(row) for row, i in enumerate(train.ids)}


def test_ids_of_files_survive_adding_removing_moving_and_renaming(tmp_path):
    root = write_folder(tmp_path / "photos", each=4)
    before = names_by_id(ImageFolder(path=str(root)))
    assert len(before) == 12 and all(0 <= i < 1 << 48 for i in before)
    (root / "blue" / "000.png").unlink()
    (root / "blue" / "zzz.png").write_bytes(blob("blue", 77))
    (root / "red" / "003.png").rename(root / "green" / "moved.png")
    shutil.move(root, tmp_path / "elsewhere")
    after = names_by_id(ImageFolder(path=str(tmp_path / "elsewhere")))
    assert len(set(before) - set(after)) == 1 and len(set(after) - set(before)) == 1
    assert all(after[i] == before[i] for i in set(before) & set(after))


def test_copies_are_told_apart_and_unreadable_files_known_by_name(tmp_path):
    keys = contents.content_keys(["aa", "", "aa", "bb"], ["z", "gone", "a", "m"])
    assert keys == ("aa.1", "path-" + contents.digest(b"gone"), "aa", "bb")
    ids = contents.ids_of_keys(keys)
    assert len(set(ids.tolist())) == 4
    np.testing.assert_array_equal(contents.ids_of_keys(keys[::-1]), ids[::-1])


def test_two_keys_of_one_hash_still_get_two_ids(monkeypatch):
    monkeypatch.setattr(contents, "hash48", lambda key: len(key.split("/")))
    ids = contents.ids_of_keys(["b", "a"])
    assert ids.tolist() == [2, 1]  # the later key is hashed again


def write_tar(path, keys):
    with tarfile.open(path, "w") as archive:
        for key in keys:
            for suffix, content in ((".png", blob("red", int(key))), (".cls", b"0")):
                info = tarfile.TarInfo(key + suffix)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def test_ids_of_tars_are_of_keys(tmp_path):
    write_tar(tmp_path / "a.tar", ["001", "002", "003"])
    before = names_by_id(WebDataset(path=str(tmp_path), label="label"))
    write_tar(tmp_path / "b.tar", ["004"])
    write_tar(tmp_path / "a.tar", ["003", "001"])
    (tmp_path / "a.tar").rename(tmp_path / "z.tar")
    for index in tmp_path.glob("*.npz"):
        index.unlink()
    after = names_by_id(WebDataset(path=str(tmp_path), label="label"))
    assert len(after) == 3 and sum(i in before for i in after) == 2
    assert all(after[i] == before[i] for i in set(before) & set(after))
    write_tar(tmp_path / "c.tar", ["004"])  # a key in two shards: the shard tells them apart
    assert len(names_by_id(WebDataset(path=str(tmp_path), label="label"))) == 4


def test_ids_of_parquet_and_arrays_are_a_column_or_the_place(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    def ids(**columns):
        images = [{"bytes": blob("blue", n), "path": None} for n in range(20)]
        table = pa.table({"image": images, "label": [0, 1] * 10} | columns)
        for part in range(2):
            rows = table.slice(10 * part, 10)
            parquet.write_table(rows, tmp_path / f"train-{part}.parquet")
        return sorted(Parquet(path=str(tmp_path)).listings()[0].ids.tolist())

    assert ids() == [shard << 32 | row for shard in range(2) for row in range(10)]
    assert ids(id=[7 * n for n in range(20)]) == list(range(0, 140, 7))
    write_arrays(tmp_path, train=20, test=8)
    assert Arrays(path=str(tmp_path)).open().train.ids.tolist() == list(range(20))
    with np.load(tmp_path / "train.npz") as archive:
        columns = {name: archive[name] for name in archive.files}
    np.savez(tmp_path / "train.npz", **columns, id=np.arange(20) * 7)
    opened = Arrays(path=str(tmp_path)).open()
    assert opened.train.ids.tolist() == list(range(0, 140, 7)) and "id" not in opened.train.columns
    np.savez(tmp_path / "train.npz", **columns, id=np.zeros(20, int))
    with pytest.raises(DataError, match="'id' .* all different"):
        Arrays(path=str(tmp_path)).open()


def test_digests_are_cached_and_a_changed_file_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "CACHED_FROM", 5)
    root = write_folder(tmp_path / "photos", each=4)
    files = ImageFolder(path=str(root)).listings()[0].files
    first = contents.digests_of(files, where="here")
    read = []
    monkeypatch.setattr(type(files), "read", lambda self, row: read.append(row) or b"new")
    assert contents.digests_of(files, where="here") == first and not read
    (root / "blue" / "001.png").write_bytes(b"longer or shorter")
    assert contents.digests_of(files, where="here")[1] == contents.digest(b"new") and read == [1]
    for file in (tmp_path / "cache" / "active_learning").iterdir():
        file.write_bytes(b"damaged")
    read.clear()
    assert len(contents.digests_of(files, where="here")) == len(read) == 12


def test_a_split_keyed_by_ids_keeps_the_order_of_those_that_stay():
    ids = np.array([50, 3, 77, 21, 9, 60, 12, 33])
    labels = np.zeros(8, int)
    whole = split(labels, {"a": 4, "b": 4}, ids=ids)
    turned = split(labels, {"a": 4, "b": 4}, ids=ids[::-1])
    assert {*ids[whole["a"]]} == {*ids[::-1][turned["a"]]}
    np.testing.assert_array_equal(
        split(labels, {"a": 4, "b": 4}, ids=np.arange(8))["a"], split(labels, {"a": 4, "b": 4})["a"]
    )
