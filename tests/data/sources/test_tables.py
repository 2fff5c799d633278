"""Tables of every kind that is read, and the line for those that are not."""

import gzip
import json

import numpy as np
import pytest

from active_learning.data.errors import DataError
from active_learning.data.sources.from_path import FromPath
from active_learning.data.sources.image_folder import ImageFolder
from active_learning.data.sources.tables import read_table
from tests.data.photos import blob

ROWS = [
    {"path": f"{n}.png", "label": ("cat", "dog")[n % 2], "caption": f"a, {n}"} for n in range(20)
]


def write_images(folder, count=20):
    for n in range(count):
        (folder / f"{n}.png").write_bytes(blob("red", n))
    return folder


def separated(mark, header=("path", "label", "caption")):
    rows = [mark.join(header), *(mark.join(f'"{v}"' for v in row.values()) for row in ROWS)]
    return "\n".join(rows).encode()


LINES = "\n".join(map(json.dumps, ROWS)).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", separated(",")),
        ("b.csv", separated(";")),
        ("c.csv", separated("\t")),
        ("d.TSV", separated("\t")),
        ("e.csv", b"\xef\xbb\xbf" + separated(", ", (" path", "label ", "caption"))),
        ("f.csv", separated(",").decode().encode("utf-16")),
        ("g.jsonl", LINES),
        ("h.ndjson", LINES),
        ("i.jsonl.gz", gzip.compress(LINES, mtime=0)),
        ("j.json", json.dumps(ROWS).encode()),
        ("k.csv", separated(",", ("FilePath", "label", "caption"))),
    ],
)
def test_the_same_rows_from_every_kind(tmp_path, name, content):
    (write_images(tmp_path) / name).write_bytes(content)
    result = read_table(tmp_path / name)
    assert list(result.columns["label"]) == [row["label"] for row in ROWS]
    assert list(result.columns["caption"]) == [row["caption"] for row in ROWS]
    assert result.files.read(3) == blob("red", 3)


def test_captions_of_coco_and_the_line_for_its_other_files(tmp_path):
    write_images(tmp_path, 4)
    listed = [{"id": n, "file_name": f"{n}.png"} for n in range(4)]
    text = [{"image_id": n % 4, "caption": f"c{n}"} for n in range(8)]
    (tmp_path / "a.json").write_text(json.dumps({"images": listed, "annotations": text}))
    assert read_table(tmp_path / "a.json").columns["caption"][1] == ["c1", "c5"]
    boxes = [{"image_id": 0, "category_id": 1}]
    (tmp_path / "b.json").write_text(json.dumps({"images": listed, "annotations": boxes}))
    with pytest.raises(DataError, match=r"without captions.*\.jsonl"):
        read_table(tmp_path / "b.json")


def test_paths_of_windows_of_a_folder_below_and_without_suffix(tmp_path):
    write_images(tmp_path / "images") if (tmp_path / "images").mkdir() is None else None
    (tmp_path / "t.csv").write_text("image,label\nimages\\0.png,a\nimages\\1.png,b\n")
    assert read_table(tmp_path / "t.csv").files.read(1) == blob("red", 1)
    (tmp_path / "u.csv").write_text("id_code,label\n0,a\n1,b\n")
    assert read_table(tmp_path / "u.csv").files.read(1) == blob("red", 1)
    (tmp_path / "v.csv").write_text("photo,label\n0.png,a\n")
    assert read_table(tmp_path / "v.csv", image="photo").files.read(0) == blob("red", 0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"photo,label\nx,1\n", "name it by config.data.image"),
        ("a.csv", b"path,label\nhttp://h/x.jpg,1\n", "holds addresses"),
        ("a.csv", b"path,path\nx,1\n", "two columns are named 'path'"),
        ("a.csv", b"path,label\n\xff,1\n", "not UTF-8"),
        ("a.jsonl", b"[" * 100_000, "no JSON"),
        ("a.json", b'{"a": 1}', "tables are read as"),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)[:40], "not a readable gzip"),
    ],
)
def test_one_line_for_what_cannot_be_read(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_table(tmp_path / name)
    assert "\n" not in str(error.value)


def test_an_unquoted_comma_is_counted_and_not_cut(tmp_path):
    (write_images(tmp_path) / "t.csv").write_text("path,caption\n0.png,a, b\n1.png,c\n")
    assert read_table(tmp_path / "t.csv").bad == {
        0: "line 2 has 3 fields, the header 2: quote the text"
    }


def test_rows_of_a_picture_stay_together_by_path_and_by_content(tmp_path):
    write_images(tmp_path, 40)
    (tmp_path / "copy.png").write_bytes(blob("red", 7))
    rows = [f"{n}.png,view {k} of {n}" for n in range(40) for k in range(3)] + ["./copy.png,again"]
    (tmp_path / "t.csv").write_text("image,caption\n" + "\n".join(rows) + "\n")
    opened = FromPath(path=str(tmp_path / "t.csv"), label="", text="caption", size=16).open()
    pictures = [
        {one.texts("caption")[row].split()[-1].replace("again", "7") for row in range(len(one))}
        for one in (opened.train, opened.test)
    ]
    assert not pictures[0] & pictures[1] and 3 <= len(pictures[1]) <= 5
    assert opened.train.picture_ids.dtype == np.int64


def test_a_table_beats_the_folder_of_its_name(tmp_path):
    (tmp_path / "train").mkdir()
    write_images(tmp_path / "train")
    (tmp_path / "train.csv").write_text(
        "image,label\n" + "\n".join(f"{n}.png,{n % 2}" for n in range(20))
    )
    train = ImageFolder(path=str(tmp_path), size=16).open().train
    assert train.class_names == ("0", "1") and not train.gather(np.arange(4))["bad"].any()
    assert "its labels are read from train.csv" in train.problems.lines()[0]


def test_labels_that_say_no_label(tmp_path):
    write_images(tmp_path)
    (tmp_path / "train.csv").write_text(
        "path,label\n" + "\n".join(f"{n}.png,{n % 2}" for n in range(20))
    )
    (tmp_path / "test.csv").write_text("path,label\n0.png,1\n1.png,-1\n")
    test = ImageFolder(path=str(tmp_path), size=16).open().test
    assert (
        len(test) == 1
        and "1 test examples with label -1, which says 'no label'" in test.problems.lines()[0]
    )
    (tmp_path / "test.csv").write_text("path,label\n0.png,-1\n1.png,-1\n")
    opened = ImageFolder(path=str(tmp_path), size=16).open()
    assert len(opened.test) == 2 and "held out instead" in " ".join(opened.train.problems.lines())
