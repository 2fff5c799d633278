"""Record files: what goes in comes out, and damage costs the example it hit."""

import numpy as np
import pytest

from active_learning.data.sources.array_record import ArrayRecords, pack, unpack
from active_learning.data.sources.source import DataError
from active_learning.data.sources.writers import RecordShard, publish
from tests.data.photos import COLOURS, blob


def write(path, count=120, small=True):
    shard = RecordShard(path, small)
    for n in range(count):
        name = list(COLOURS)[n % 3]
        fields = {"id": 1000 + n, "label": n % 3, "caption": f"ein {name}er Fleck, ü"}
        shard.add(fields, blob(name, n), blob("red", n) if small else None)
    publish(shard)
    return path


def test_a_record():
    fields = {"id": -(2**63), "label": 3, "captions": ["a", "ß"], "none": None}
    assert unpack(pack(fields, b"\xff\xd8")) == (fields, b"\xff\xd8")
    assert pack({"id": 1}, b"x") == b'ALR1\x08\x00\x00\x00{"id":1}x'
    whole = pack({"id": 1}, b"")
    for bad in (
        b"",
        b"ALR1",
        b"other bytes",
        whole[:-1],
        whole[:8] + b"[1]12345",
        b"ALR1\xff\xff\xff\xff{}",
    ):
        with pytest.raises(OSError, match="record"):
            unpack(bad)


def test_ids_columns_and_views(tmp_path):
    write(tmp_path / "train-0.array_record", 30)
    opened = ArrayRecords(path=str(tmp_path), size=16, small=8, holdout=0.2, text="caption").open()
    train = opened.train
    assert sorted([*train.ids, *opened.test.ids]) == list(range(1000, 1030))
    assert train.labels("label").tolist() == [(i - 1000) % 3 for i in train.ids]
    color = list(COLOURS)[(train.ids[0] - 1000) % 3]
    assert train.texts("caption")[0] == f"ein {color}er Fleck, ü"
    small = train.gather_small(np.arange(4))["image_small"]
    assert (
        small[..., 0].mean((1, 2)) > small[..., 2].mean((1, 2)) + 60
    ).all()  # the red ones stored as small views
    assert (tmp_path / "train-0.array_record.index.npz").exists()


def test_damage_costs_what_it_hit_and_leaves_the_ids(tmp_path):
    path = write(tmp_path / "x.array_record", small=False)
    content = bytearray(path.read_bytes())
    content[content.index(b'"id":1050')] ^= 1
    path.write_bytes(content)
    source = ArrayRecords(path=str(path), size=16, holdout=0.1).open()
    assert list(source.train.problems.bad) == [f"x.array_record/{(1 << 47) | 50}"]
    assert sorted([*source.train.ids, *source.test.ids]) == [
        n for n in range(1000, 1120) if n != 1050
    ]


def test_files_that_are_none_of_ours(tmp_path):
    path = write(tmp_path / "x.array_record", 5)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DataError, match=r"x\.array_record: no records in it: empty, or truncated"):
        ArrayRecords(path=str(path)).open()
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    writer.write(b"something else")
    writer.close()
    with pytest.raises(DataError, match=r"x\.array_record: none of its 1 records was written by"):
        ArrayRecords(path=str(path)).open()
    with pytest.raises(DataError, match=r"no \.array_record there"):
        ArrayRecords(path=str(tmp_path / "nowhere")).open()
