"""Folders and tables of images: what is read, what is refused, and that a bad file costs one
example and always the same one.
"""

import dataclasses
import json

import numpy as np
import pytest

from active_learning.config import ConfigError
from active_learning.data import images
from active_learning.data.loader import Candidates, Loader
from active_learning.data.sources.image_folder import ImageFolder, list_classes
from active_learning.data.sources.source import DataError, Source, channel_stats, join_id
from active_learning.models import ViT
from active_learning.references import Trained
from active_learning.settings import Evaluate, Select, Split
from active_learning.train.build import build
from active_learning.train.loop import run
from active_learning.train.open_data import open_data
from tests import world
from tests.data.photos import COLOURS, blob, picture, write_folder

COLOUR_NAMES = list(COLOURS)


def settings(path, **changes):
    data = {
        key: changes.pop(key)
        for key in list(changes)
        if key in {f.name for f in dataclasses.fields(ImageFolder)}
    }
    changes = {"split": Split(parts={"pool": 0.7, "reference": 0.2, "gate": 0.1}), **changes}
    return world.config(path, data=ImageFolder(path=str(path), **{"size": 16, **data}), **changes)


def test_class_folders(tmp_path):
    write_folder(tmp_path, each=10)
    (tmp_path / "red" / "notes.txt").write_text("not an image")
    opened = ImageFolder(path=str(tmp_path), size=16).open()
    assert isinstance(opened.train, Source)
    assert opened.train.class_names == ("blue", "green", "red")
    assert (len(opened.train), len(opened.test)) == (27, 3)
    assert not set(opened.train.ids) & set(opened.test.ids)
    assert len({*opened.train.ids, *opened.test.ids}) == 30
    names = [opened.train.name(row) for row in range(27)]
    assert [COLOUR_NAMES[k] for k in opened.train.labels("label")] == [
        name.split("/")[0] for name in names
    ]
    assert sorted(opened.test.labels("label")) == [0, 1, 2]
    at = np.array([20, 3])
    seen = opened.train.gather(at)
    for image, row in zip(seen["image"], at, strict=True):
        colour, number = names[row].removesuffix(".png").split("/")
        want = picture(colour, int(number))
        assert np.array_equal(image, images.cover(want, 16))
    assert not seen["bad"].any()


def test_train_and_test_folders_and_the_same_hash_twice(tmp_path):
    write_folder(tmp_path / "train", each=4)
    write_folder(tmp_path / "val", each=2, first=50)
    one, two = (ImageFolder(path=str(tmp_path), size=16).open() for _ in range(2))
    assert (len(one.train), len(one.test)) == (12, 6)
    assert one.train.describe() == two.train.describe()
    (tmp_path / "train" / "red" / "900.png").write_bytes(blob("red", 900))
    assert (
        ImageFolder(path=str(tmp_path), size=16).open().train.describe()["hash"]
        != one.train.describe()["hash"]
    )


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_tables(tmp_path, suffix):
    write_folder(tmp_path / "images", each=4)
    rows = [
        {"path": f"images/{name}/{n:03d}.png", "label": name, "caption": f"a {name}, one"}
        for name in COLOURS
        for n in range(4)
    ]
    if suffix == "jsonl":
        text = "\n".join(json.dumps(row) for row in rows)
    else:
        mark = "," if suffix == "csv" else "\t"
        quoted = lambda v: f'"{v}"'
        text = "\n".join(
            [mark.join(rows[0])] + [mark.join(map(quoted, row.values())) for row in rows]
        )
    (tmp_path / f"set.{suffix}").write_text(text)
    opened = ImageFolder(
        path=str(tmp_path / f"set.{suffix}"), size=16, holdout=0.25, text="caption"
    ).open()
    assert opened.train.class_names == ("blue", "green", "red")
    assert (len(opened.train), len(opened.test)) == (9, 3)
    first = opened.train.class_names[opened.train.labels("label")[0]]
    assert opened.train.texts("caption")[0] == f"a {first}, one"


def test_numbers_that_are_far_apart_become_as_many_classes(tmp_path):
    write_folder(tmp_path / "i", each=4)
    lines = [
        f"i/{name}/{n:03d}.png,{number}"
        for number, name in ((10, "red"), (2, "blue"))
        for n in range(4)
    ]
    (tmp_path / "t.csv").write_text("path,label\n" + "\n".join(lines))
    opened = ImageFolder(path=str(tmp_path / "t.csv"), size=16, holdout=0.25).open()
    assert opened.train.class_names == ("2", "10")
    assert opened.train.class_counts("label") == {"2": 3, "10": 3}


def test_bad_files_are_replaced_alike_in_every_run(tmp_path):
    write_folder(tmp_path, each=70)
    (tmp_path / "red" / "007.png").write_bytes(b"no image at all")
    whole = (tmp_path / "blue" / "011.png").read_bytes()
    (tmp_path / "blue" / "011.png").write_bytes(whole[: len(whole) // 2])

    def stream():
        data = open_data(settings(tmp_path, split=Split(), evaluate=Evaluate(gate="")))
        loader = Loader(Candidates(data.train, 0), None)
        batches = [loader.next(63).batch for _ in range(6)]
        loader.close()
        return data.train.source.problems.bad, [
            {k: np.asarray(v) for k, v in batch.items()} for batch in batches
        ]

    (result, one), (again, two) = stream(), stream()
    assert set(result) <= {"red/007.png", "blue/011.png"} and len(result) >= 1
    assert result == again
    for a, b in zip(one, two, strict=True):
        for name in a:
            assert np.array_equal(a[name], b[name]), name
        assert (a["image"].reshape(63, -1).std(1) > 0).all()
    source = ImageFolder(path=str(tmp_path), size=16).open().train
    name_of = {int(i): source.name(row) for row, i in enumerate(source.ids)}
    seen = [
        (name_of[int(i)], k) for a in one for i, k in zip(join_id(a["id"]), a["label"], strict=True)
    ]
    assert all(name.split("/")[0] == COLOUR_NAMES[k] for name, k in seen)
    assert not {"red/007.png", "blue/011.png"} & {name for name, _ in seen}


def test_more_than_one_percent_stops_the_run_with_names(tmp_path):
    write_folder(tmp_path, each=40)
    for number in range(3):
        (tmp_path / "green" / f"{number:03d}.png").write_bytes(b"damaged")
    with pytest.raises(
        DataError,
        match=r"2 of 120 examples cannot be used, more than 1%; remove or replace them: "
        r"green/00\d.png .*; green/00\d.png",
    ):
        source = ImageFolder(path=str(tmp_path), size=16).open().train
        source.gather(np.arange(len(source)))


def test_channel_stats_leave_out_what_is_bad(tmp_path):
    write_folder(tmp_path, each=40)
    source = ImageFolder(path=str(tmp_path), size=16).open().train
    names = [source.name(row) for row in range(len(source))]
    index = names.index("blue/005.png")
    rest = np.delete(np.arange(len(source)), index)
    want = channel_stats(source, rest)
    (tmp_path / "blue" / "005.png").write_bytes(b"damaged")
    assert channel_stats(source, np.arange(len(source))) == want


def test_an_empty_class_is_reported(tmp_path):
    write_folder(tmp_path, each=4)
    (tmp_path / "yellow").mkdir()
    source = ImageFolder(path=str(tmp_path), size=16, holdout=0.25).open().train
    assert source.num_classes == 4
    assert source.problems.lines() == ["yellow/: class without images"]


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        (None, {}, "no such file or folder"),
        ({}, {}, "no class folders"),
        (
            {"train-00000-of-00001.array_record": "", "manifest.json": "{}", "SHA256SUMS": ""},
            {},
            "shards of `prepare` .train-00000.*use --config=configs/array_record.py --config.data",
        ),
        ({"a-train.tar": ""}, {}, "holds shards .a-train.tar.*--config=configs/webdataset.py"),
        ({"a/x.txt": "text"}, {}, "no examples"),
        ({"train.csv": "path,label\n"}, {}, "no rows"),
        ({"train.csv": "a,label\n1,2\n"}, {}, "no column with the images' paths"),
        ({"train.csv": "path,kind\nx.png,2\n"}, {}, "no column 'label'; there are: kind"),
        ({"train.jsonl": '{"path": "x.png"\n'}, {}, "line 1 is no JSON"),
        ({"train.jsonl": "[1]\n"}, {}, "line 1 is list"),
        ({"train.csv": "path,label\nx.png,\ny.png,1\n"}, {}, "x.png .label '' is not a class"),
        (
            {"train.csv": "path,label\nx.png,7\ny.png,1\n"},
            {"classes": 3},
            "x.png .label '7' is not a class",
        ),
        (
            {"train.csv": "path,label,caption\nx.png,1,\ny.png,1,b\n"},
            {"text": "caption"},
            "x.png .no caption",
        ),
        ({"train.csv": "path,label\nx.png,1\n"}, {"size": 3}, "config.data.size=3"),
        (
            {"train.csv": "path,label\nx.png,1\ny.png,0\n"},
            {"size": 0},
            "none of the images that were tried.*y.png",
        ),
        ({"train.csv": "path,label\nx.png,1\n"}, {"small": 99}, "config.data.small=99"),
        ({"train.csv": "path,label\nx.png,1\n"}, {"holdout": 0.0}, "config.data.holdout"),
    ],
)
def test_one_line_for_what_cannot_be(tmp_path, content, changes, message):
    for name, text in (content or {}).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    path = tmp_path / ("" if content is not None else "nowhere")
    with pytest.raises(DataError, match=message) as error:
        ImageFolder(path=str(path), **changes).open()
    assert "\n" not in str(error.value)


def test_the_loop_runs_on_a_folder_and_resumes_exactly(tmp_path):
    write_folder(tmp_path / "data", each=60)
    (tmp_path / "data" / "red" / "007.png").write_bytes(b"no image at all")
    config = settings(
        tmp_path / "data", batch_size=8, reference=Trained(total="4 steps", batch_size=8)
    )
    config = dataclasses.replace(
        config, total="6 steps", select=dataclasses.replace(config.select, ratio=2)
    )
    whole = run(config, tmp_path / "whole")
    assert whole["complete"]
    part = run(config, tmp_path / "parts", world.StopAfter(8))
    assert not part["complete"]
    resumed = run(config, tmp_path / "parts")
    assert resumed["final"] == whole["final"]
    lines = [
        json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["data/bad_examples"] for line in lines if "data/bad_examples" in line][-1] == 1


def test_the_size_is_found_from_the_images(tmp_path):
    write_folder(tmp_path, each=10)  # 24 x 20 px
    opened = ImageFolder(path=str(tmp_path), size=0).open()
    assert opened.train.image_shape == opened.test.image_shape == (16, 16, 3)
    large = np.zeros((100, 130, 3), np.uint8)
    for number in range(30):
        (tmp_path / "red" / f"{number:03d}.jpg").write_bytes(images.encode(large))
    assert ImageFolder(path=str(tmp_path), size=0).open().train.image_shape == (64, 64, 3)


def test_a_size_that_the_patch_does_not_divide_is_one_line(tmp_path):
    write_folder(tmp_path, each=40)
    config = settings(
        tmp_path, size=20, select=Select(), evaluate=Evaluate(gate=""), learner=ViT(patch=8)
    )
    with pytest.raises(
        ConfigError, match=r"^config\.learner: patch 8 does not divide the 20 x 20 image$"
    ):
        build(config)


def test_a_folder_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    write_folder(tmp_path, each=2)

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", refused)
    with pytest.raises(DataError, match=f"^{tmp_path}: no permission to read it$"):
        ImageFolder(path=str(tmp_path)).open()


def test_without_labels(tmp_path):
    write_folder(tmp_path, each=10)
    opened = ImageFolder(path=str(tmp_path), size=16, label="").open()
    assert (
        opened.train.columns,
        opened.train.num_classes,
        len(opened.train),
        len(opened.test),
    ) == ((), 0, 27, 3)


def test_what_is_found_is_in_the_run(tmp_path):
    write_folder(tmp_path, each=40)
    experiment = build(settings(tmp_path, select=Select(), evaluate=Evaluate(gate="")))
    assert experiment.view.num_classes == 3
    assert experiment.view.image_shape == (16, 16, 3)
    assert np.allclose(experiment.view.mean, np.mean(list(COLOURS.values()), 0) / 255, atol=0.02)


def test_a_link_to_a_folder_above_is_left_out_and_counted(tmp_path):
    write_folder(tmp_path, each=4)
    (tmp_path / "blue" / "again").symlink_to(tmp_path)
    (tmp_path / "blue" / "more").symlink_to(tmp_path / "green")
    listing = list_classes(tmp_path)
    assert len(listing.files) == 16  # through `more` the green ones are blue as well
    lines = listing.left_out.lines()
    assert len(lines) == 1 and "links lead to a folder that they are in: blue/again" in lines[0]
