"""Large sets are opened by one index on the disk: the same examples as from lists in memory."""

import io
import json
import logging
import os

import numpy as np
import pytest
from PIL import Image

from active_learning.data import captions, tokenizer
from active_learning.data.errors import DataError
from active_learning.data.parts import Part
from active_learning.data.rows import AllBut
from active_learning.data.sources import catalog, columns, contents
from active_learning.data.sources.array_record import ArrayRecords
from active_learning.data.sources.columns import Coded, ColumnWriter, Packed, open_column
from active_learning.data.sources.from_path import section_of
from active_learning.data.sources.index import Index
from active_learning.data.sources.preparation import Options, prepare
from active_learning.data.sources.storage import Local
from active_learning.data.sources.webdataset import WebDataset
from active_learning.references import Stored, score_file
from active_learning.settings import Split
from active_learning.train.open_data import open_data
from tests import world
from tests.data.sources.test_webdataset import write_tar

SHARDS, EACH = 4, 12


def _image(n: int) -> bytes:
    pixels = np.random.default_rng(n).integers(0, 255, (16, 16, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_set(folder, ids=None):
    """Tars in which two keys occur twice, a label is missing and a caption is empty."""
    folder.mkdir()
    for shard in range(SHARDS):
        members = {}
        for n in range(shard * EACH, (shard + 1) * EACH):
            about = {"caption": [f"thing {n}", "a thing"][: n % 3]} if n else {}
            if n != 7:
                about["label"] = f"kind {n % 3}"
            if ids is not None and n % ids == 0:
                about["id"] = 1000 + n
            key = f"{n % (SHARDS * EACH - 2):04d}"
            members |= {f"{key}.png": _image(n // 2), f"{key}.json": json.dumps(about).encode()}
        write_tar(folder / f"train-{shard}.tar", members)
    return folder


def opened_both(monkeypatch, **keys):
    """The set opened from lists, by a new catalog, and by one that was there."""
    section = WebDataset(size=16, holdout=0.25, **keys)
    monkeypatch.setattr("active_learning.data.sources.problems.LIMIT", 0.9)
    yield section.open()
    monkeypatch.setattr(catalog, "LARGE", 10)
    yield section.open()
    yield section.open()


def check_same(one, other):
    assert np.array_equal(np.asarray(one.rows), np.asarray(other.rows))
    assert np.array_equal(one.ids, other.ids) and one.class_names == other.class_names
    assert np.array_equal(one.picture_ids, other.picture_ids)
    assert np.array_equal(one.labels("label"), other.labels("label"))
    assert one.text_columns.keys() == other.text_columns.keys()
    for name, values in one.text_columns.items():
        assert list(values) == list(other.text_columns[name])
    at = np.array([3, 0, len(one) - 1])
    assert [one.name(n) for n in at.tolist()] == [other.name(n) for n in at.tolist()]
    assert np.array_equal(one.gather(at)["image"], other.gather(at)["image"])
    (mine,), (theirs,) = one.problems_of(), other.problems_of()
    assert mine.bad == theirs.bad and mine.lines() == theirs.lines()
    assert one.class_counts("label") == other.class_counts("label")


@pytest.mark.parametrize("keys", [{}, {"text": "caption"}, {"clean_label": "label"}])
@pytest.mark.parametrize("ids", [None, 1, 5])
def test_same_examples(tmp_path, monkeypatch, ids, keys):
    path = str(write_set(tmp_path / "set", ids))
    memory, made, again = opened_both(monkeypatch, path=path, **keys)
    assert memory.train.catalog is None and made.train.catalog is not None
    for other in (made, again):
        check_same(memory.train, other.train)
        check_same(memory.test, other.test)
    assert made.train.describe() == again.train.describe()
    assert made.train.describe()["hash"] != made.test.describe()["hash"]
    assert len(memory.train.problems_of()[0].bad) == (17 if keys.get("text") else 1)


def test_prepared_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("active_learning.data.sources.problems.LIMIT", 0.9)
    source, out = section_of(str(write_set(tmp_path / "set"))), tmp_path / "out"
    out.mkdir()
    train, test = source.listings()
    prepare(train, test, out, Options(shard=10, small=8))
    section = ArrayRecords(path=str(out), size=16, small=8)
    memory = section.open()
    monkeypatch.setattr(catalog, "LARGE", 10)
    disk = section.open()
    check_same(memory.train, disk.train)
    seen, at = disk.train.gather_small(np.arange(5)), np.arange(5)
    assert np.array_equal(seen["image_small"], memory.train.gather_small(at)["image_small"])


def test_nothing_for_each_example(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "LARGE", 10)
    path = str(write_set(tmp_path / "set"))
    monkeypatch.setattr("active_learning.data.sources.problems.LIMIT", 0.9)
    source = WebDataset(path=path, size=16).open().train
    assert not source.files.index.places.flags.owndata
    assert isinstance(source.files.index.keys, Coded | Packed)
    assert not source.catalog.ids.flags.owndata
    listing = WebDataset(path=path, size=16).listings()[0]
    assert all(isinstance(values, Coded | Packed) for values in listing.columns.values())


def test_parts_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("active_learning.data.sources.problems.LIMIT", 0.9)
    section = WebDataset(path=str(write_set(tmp_path / "set")), size=16)
    config = world.config(tmp_path, data=section, split=Split(parts={"pool": 20, "gate": 8}))
    config = world.dataclasses.replace(
        config, evaluate=world.dataclasses.replace(config.evaluate, sets=("test",), gate="")
    )
    memory = open_data(config)
    monkeypatch.setattr(catalog, "LARGE", 10)
    made = open_data(config)
    monkeypatch.setattr("active_learning.data.splits.split", None)  # not called again
    again = open_data(config)
    for other in (made, again):
        for name, part in memory.parts.items():
            assert np.array_equal(np.asarray(part.indices), np.asarray(other.parts[name].indices))
            assert np.array_equal(part.labels, other.parts[name].labels)
            assert np.array_equal(part.ids, other.parts[name].ids)
    whole = world.dataclasses.replace(config, split=Split())
    assert isinstance(open_data(whole).train.indices, AllBut)


def test_stored_losses_are_joined_once(tmp_path, monkeypatch):
    monkeypatch.setattr("active_learning.data.sources.problems.LIMIT", 0.9)
    monkeypatch.setattr(catalog, "LARGE", 10)
    replace = world.dataclasses.replace
    section = WebDataset(path=str(write_set(tmp_path / "set")), size=16)
    config = world.config(tmp_path, data=section, split=Split(parts={"pool": 20, "gate": 8}))
    config = replace(config, evaluate=replace(config.evaluate, sets=("test",), gate="gate"))
    data = open_data(config)
    source, file = data.train.source, tmp_path / "scores.npz"
    loss = np.linspace(0, 1, len(source), dtype=np.float32)
    order = np.random.default_rng(0).permutation(len(source))
    about = {"data": data.provenance["hash"], "view": "plain", "model": "m", "ids": "place"}
    columns = (source.ids, source.labels("label"), loss, loss < 0.5)
    score_file.write(file, score_file.Scores(*(column[order] for column in columns), about))
    stored = Stored(path=str(file))
    joined, gate = stored.attach(config, data, "plain")
    monkeypatch.setattr(score_file, "read_checked", None)  # not read again
    again, same = stored.attach(config, open_data(config), "plain")
    for one in (joined, again):
        held = one.train.columns[score_file.COLUMN]
        assert np.array_equal(held, loss[np.asarray(data.train.indices)])
    of_gate = loss[np.asarray(data.parts["gate"].indices)]
    assert gate == same
    assert gate == pytest.approx({"loss": of_gate.mean(), "accuracy": (of_gate < 0.5).mean()})
    with pytest.raises(TypeError):  # another split is joined anew
        stored.attach(replace(config, split=replace(config.split, seed=1)), data, "plain")
    file.write_bytes(b"other")
    with pytest.raises(DataError, match="its sha256 is not the one"):
        stored.attach(config, data, "plain")


def test_captions_are_read_when_drawn(tmp_path, monkeypatch):
    path = str(write_set(tmp_path / "set"))
    memory, disk, _ = (
        one.train for one in opened_both(monkeypatch, path=path, text="caption", label="")
    )
    texts = [captions.texts_of(source, "caption") for source in (memory, disk)]
    assert isinstance(texts[1], captions.OnDisk) and texts[0] == list(texts[1])
    tok = tokenizer.of_json(tokenizer.train([t for row in texts[0] for t in row], 300))
    mine, theirs = (captions.tokenize(one, tok, 8, "content") for one in texts)
    rows, epochs = np.arange(len(memory)), np.arange(len(memory), dtype=np.int32)
    assert theirs.tokens is None and np.array_equal(mine.counts, theirs.counts)
    assert np.array_equal(
        mine.draw(rows, memory.ids, epochs), theirs.draw(rows, memory.ids, epochs)
    )
    assert np.array_equal(mine.of(rows[::2]), theirs.of(rows[::2]))
    assert mine.cut == theirs.cut and mine.context == theirs.context
    assert theirs.content_hash() == captions.tokenize(texts[1], tok, 8, "content").content_hash()
    assert theirs.content_hash() != captions.tokenize(texts[1], tok, 8, "other").content_hash()
    part = Part(disk, disk.all_rows(), disk.labels(""), None, captions=theirs, caption_of=rows)
    assert part.batch(rows[:4], epochs[:4])["tokens"].shape == (4, 8)


def folder_of(path):
    (folder,) = path.glob(".catalog-*")
    return folder


@pytest.mark.parametrize("harm", ["cut", "gone", "about", "starts", "shard"])
def test_a_catalog_that_does_not_fit_is_made_anew(tmp_path, monkeypatch, caplog, harm):
    monkeypatch.setattr("active_learning.data.sources.problems.LIMIT", 0.9)
    monkeypatch.setattr(catalog, "LARGE", 10)
    monkeypatch.setattr(catalog.LOG, "propagate", True)
    path = write_set(tmp_path / "set")
    section = WebDataset(path=str(path), size=16)
    before, folder = section.open().train, folder_of(path)
    if harm == "shard":
        os.utime(path / "train-0.tar", ns=(1, 1))
    elif harm == "gone":
        (folder / "ids").unlink()
    elif harm == "cut":
        blob = (folder / "places").read_bytes()
        (folder / "places").write_bytes(blob[:-8])
    elif harm == "starts":
        (folder / "starts").write_bytes((folder / "starts").read_bytes()[::-1])
    else:
        (folder / "about.json").write_text("{")
    with caplog.at_level(logging.INFO):
        after = section.open().train
    assert np.array_equal(before.ids, after.ids) and "the indices of 4 shards" in caplog.text
    assert folder_of(path) == folder  # nothing is left beside


def test_kept_arrays_that_are_damaged_are_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr("active_learning.data.sources.problems.LIMIT", 0.9)
    monkeypatch.setattr(catalog, "LARGE", 10)
    path = write_set(tmp_path / "set")
    before = WebDataset(path=str(path), size=16).open().train
    files = list(folder_of(path).glob("arrays/*/*.npy"))
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:20])
    assert np.array_equal(WebDataset(path=str(path), size=16).open().train.ids, before.ids)


def test_where_nothing_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr("active_learning.data.sources.problems.LIMIT", 0.9)
    monkeypatch.setattr(catalog, "LARGE", 10)
    path = write_set(tmp_path / "set")
    path.chmod(0o555)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert WebDataset(path=str(path), size=16).open().train.catalog is not None
    assert not list(path.glob(".catalog-*")) and list(tmp_path.glob("cache/*/catalog-*"))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert WebDataset(path=str(path), size=16).open().train.catalog is None
    path.chmod(0o755)


def test_columns(tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "MOST", 4)
    few, many = ColumnWriter(tmp_path, "few"), ColumnWriter(tmp_path, "many")
    few.add_missing(1)
    for piece in (["10", "9"], [9, None], ["10"]):
        few.add(piece)
    for piece in (["a", "b"], ["c", None, "d", "ü\udce4"], [["x", "y"], {"en": 1}, True, 1.5]):
        many.add(piece)
    one = open_column(tmp_path, "few", few.close(), 6)
    assert isinstance(one, Coded) and list(one) == [None, "10", "9", 9, None, "10"]
    assert [one.values.index(v) for v in ("9", "10", None)] == sorted(
        one.values.index(v) for v in ("9", "10", None)
    )
    other = open_column(tmp_path, "many", many.close(), 10)
    assert isinstance(other, Packed) and list(other)[:6] == ["a", "b", "c", None, "d", "ü\udce4"]
    assert list(other)[6:] == [["x", "y"], {"en": 1}, True, 1.5]
    assert other.captions.tolist() == [1, 1, 1, 0, 1, 1, 2, columns.OBJECTS, 1, 1]
    table = np.array([5, 6, 7, 8], np.int32)
    assert one.mapped(table).tolist() == [table[code] for code in one.codes]
    assert one.mapped(np.arange(4, dtype=np.int32)) is one.codes


def test_shards_without_a_column(tmp_path):
    place = np.zeros((1, 2), np.int64)
    indices = [
        Index(["a"], {"x": [1]}, place),
        Index(["b"], {}, place),
        Index(["c"], {"x": [2], "y": ["z"]}, place, {0: "too small"}, {"links": 3}, {"links": []}),
    ]
    for name in "abc":
        (tmp_path / name).write_text(name)
    shards = [Local(str(tmp_path / name)) for name in "abc"]
    one = catalog.open_catalog(shards, "", lambda: indices, "key")
    assert list(one.index.columns["x"]) == [1, None, 2]
    assert list(one.index.columns["y"]) == [None, None, "z"]
    assert list(one.index.keys) == ["a", "b", "c"] and one.index.bad == {2: "too small"}
    assert one.left_out.counts == {"links": 3} and one.repeated == ()
    assert one.ids.tolist() == [contents.hash48(key) for key in "abc"]


def test_the_shard_of_each_example():
    shard = catalog.ShardOf(np.array([0, 3, 3, 5]))
    rows = np.arange(5)
    assert shard[rows].tolist() == [0, 0, 0, 2, 2] and shard[4] == 2 and len(shard) == 5
    assert np.array_equal(contents.ids_by_place(shard[rows]), (shard[rows] << 32) | [0, 1, 2, 0, 1])


def test_ids_that_occur_twice():
    assert catalog.shared(np.array([4, 9, 4, 1, 9, 4])).tolist() == [0, 1, 2, 4, 5]
    assert catalog.shared(np.array([], np.int64)).tolist() == []
