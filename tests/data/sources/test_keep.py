"""Decisions applied: prepared in four forms, trained on without writing, with the same content."""

import csv

import numpy as np
import pytest

from active_learning.curation.examples import load
from active_learning.curation.sharing import Sharing
from active_learning.data.sources.arrays import Arrays
from active_learning.data.sources.from_path import listings_of, section_of
from active_learning.data.sources.image_folder import ImageFolder
from active_learning.data.sources.keep import memory_keys
from active_learning.data.sources.tables import Paths
from active_learning.prepare import main
from tests.data.photos import write_folder
from tests.world import write_arrays


def keys_of(root):
    """Key of every training file by its path."""
    from active_learning.data.sources import contents

    train, _ = ImageFolder(path=str(root)).checked_listings()
    names = [train.files.name(row) for row in range(len(train.files))]
    return dict(
        zip(names, contents.content_keys(contents.digests_of(train.files), names), strict=True)
    )


def write_table(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["key", "path", "label", "decision", "new_label"])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


@pytest.fixture
def world(tmp_path):
    """A folder of 4 images a class, and decisions: blue/000 is red, green/001 is dropped."""
    root = write_folder(tmp_path / "photos" / "train", each=4)
    write_folder(tmp_path / "photos" / "test", each=2, first=50)
    keys = keys_of(root)
    decisions = write_table(
        tmp_path / "decisions.csv",
        [
            {"key": keys["blue/000.png"], "decision": "relabel", "new_label": "red"},
            {"key": keys["green/001.png"], "decision": "drop"},
            {"key": keys["green/002.png"], "decision": "keep"},
        ],
    )
    return tmp_path / "photos", decisions


def content(section):
    """Label by name and bytes of each training example, sorted."""
    train, test = listings_of(section)
    known = train.classes("label")
    numbers = known.numbers(train.columns["label"], "")
    rows = [row for row in range(len(train.files)) if row not in train.dropped]
    assert test is None or len(test.files) == 6
    return sorted((known.names[numbers[row]], train.files.read(row)) for row in rows)


def test_training_on_what_is_kept_without_writing(world):
    root, decisions = world
    before = ImageFolder(path=str(root), size=16).open().train
    after = ImageFolder(path=str(root), size=16, keep=decisions).open().train
    assert len(before) == 12 and len(after) == 11
    assert set(after.ids) < set(before.ids)
    label_of = dict(zip(before.ids.tolist(), before.labels("label").tolist(), strict=True))
    changed = [
        i
        for i, label in zip(after.ids.tolist(), after.labels("label").tolist(), strict=True)
        if label_of[i] != label
    ]
    assert len(changed) == 1 and label_of[changed[0]] == 0  # blue that is now red
    only_labels = ImageFolder(path=str(root), size=16, labels=decisions).open().train
    assert len(only_labels) == 12 and only_labels.labels("label").sum() == 12 + 2


def test_the_identity_is_the_content_of_the_decisions_not_their_place(world, tmp_path):
    root, decisions = world

    def described(keep):
        return ImageFolder(path=str(root), size=16, keep=keep).open().train.describe()

    with open(decisions) as file:
        header, *lines = file.read().splitlines()
    elsewhere = tmp_path / "other.csv"
    elsewhere.write_text("\n".join([header, *lines[::-1]]) + "\n")
    assert described(str(elsewhere)) == described(decisions)
    assert described("")["hash"] != described(decisions)["hash"]
    elsewhere.write_text("\n".join([header, lines[1]]) + "\n")
    assert described(str(elsewhere))["hash"] != described(decisions)["hash"]


@pytest.mark.parametrize("kind", ["folder", "webdataset", "parquet", "csv", ""])
def test_the_cleaned_set_in_every_form(world, tmp_path, kind, capsys):
    root, decisions = world
    kept = content(ImageFolder(path=str(root), keep=decisions))
    assert len(kept) == 11
    source = sorted((p, p.stat().st_mtime_ns) for p in root.rglob("*"))
    flags = [f"--as={kind}"] if kind else []
    command = [str(root), str(tmp_path / "out"), f"--keep={decisions}", *flags]
    assert main(command) == 0
    assert "--config=configs/" in capsys.readouterr().out
    assert content(section_of(str(tmp_path / "out"))) == kept
    assert main(command) == 0  # complete: nothing to do
    assert sorted((p, p.stat().st_mtime_ns) for p in root.rglob("*")) == source
    if kind == "folder":
        links = [p for p in (tmp_path / "out").rglob("*.png")]
        assert all(p.is_symlink() for p in links) and len(links) == 17
    ids = set(listings_of(section_of(str(tmp_path / "out")))[0].ids.tolist())
    assert ids == set(ImageFolder(path=str(root), keep=decisions).open().train.ids.tolist())


@pytest.mark.parametrize("kind", ["folder", "webdataset", "csv"])
def test_what_is_left_out_is_counted_in_every_form(tmp_path, kind, capsys):
    root = write_folder(tmp_path / "photos", each=4)
    (root / "red" / "notes.txt").write_text("no image")
    assert main([str(root), str(tmp_path / "out"), f"--as={kind}"]) == 0
    assert "12 examples, 1 left out" in capsys.readouterr().out


def test_links_are_made_from_one_reading_of_the_images(tmp_path, monkeypatch, capsys):
    root, read, do = write_folder(tmp_path / "photos", each=4), [], Paths.read
    monkeypatch.setattr(
        Paths, "read", lambda self, row: read.append(self.name(row)) or do(self, row)
    )
    assert main([str(root), str(tmp_path / "out"), "--as=folder"]) == 0
    assert len(read) == len(set(read)) == 12  # for their ids
    assert "--config=configs/folder.py" in capsys.readouterr().out
    rows = [f"{name},a picture" for name in read]
    (root / "t.csv").write_text("\n".join(["path,caption", *rows]))
    assert main([str(root / "t.csv"), str(tmp_path / "pairs"), "--as=csv"]) == 0
    assert "--config=configs/pairs.py" in capsys.readouterr().out


def test_keys_are_those_of_curation(tmp_path):
    root = write_folder(tmp_path / "photos", each=4)
    (root / "red" / "002.png").write_bytes(b"no picture")
    (root / "red" / "003.png").write_bytes((root / "blue" / "000.png").read_bytes())
    keys = keys_of(root)
    sharing = Sharing(tmp_path, tmp_path)
    curated, _ = load(ImageFolder(path=str(root)), sharing)
    assert dict(zip(curated.paths, curated.keys, strict=True)) == keys and len(keys) == 12
    assert curated.digests.tolist().count("") == 1 and keys["red/003.png"].endswith(".1")
    dropped = [{"key": keys["red/002.png"], "decision": "drop"}]
    kept = ImageFolder(path=str(root), size=16, keep=write_table(tmp_path / "d.csv", dropped))
    assert len(kept.open().train) + len(kept.open().test) == 11
    write_arrays(tmp_path, train=30, test=8)
    arrays = Arrays(path=str(tmp_path))
    assert load(arrays, sharing)[0].keys == memory_keys(arrays.open().train)


def test_a_folder_is_finished_after_an_interruption(world, tmp_path, monkeypatch):
    from active_learning.data.sources import taking

    root, decisions = world
    command = [str(root), str(tmp_path / "out"), f"--keep={decisions}", "--as=folder"]
    done = []

    def stop(name, do=taking._component):
        done.append(name)
        if len(done) == 7:
            raise KeyboardInterrupt
        return do(name)

    monkeypatch.setattr(taking, "_component", stop)
    assert main(command) == 130
    monkeypatch.undo()
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert main(command) == 0
    assert content(section_of(str(tmp_path / "out"))) == content(
        ImageFolder(path=str(root), keep=decisions)
    )
    assert main([*command[:2], "--as=folder"]) == 2  # another preparation


def test_a_query_over_scores_keeps_and_relabels(world, tmp_path):
    root, _ = world
    keys = keys_of(root / "train")
    scores = tmp_path / "scores.csv"
    lines = [f"{key},{0.1 * n},green" for n, key in enumerate(keys.values())]
    scores.write_text("key,score,suggested\n" + "\n".join(lines) + "\n")
    kept = ImageFolder(path=str(root), size=16, keep=f"{scores}:score<0.55").open().train
    assert len(kept) == 6
    new = ImageFolder(path=str(root), size=16, labels=f"{scores}:score>0.95").open().train
    assert new.class_counts("label") == {"blue": 4, "green": 6, "red": 2}


def test_decisions_about_arrays(tmp_path):
    write_arrays(tmp_path, train=30, test=8)
    whole = Arrays(path=str(tmp_path)).open().train
    keys = memory_keys(whole)
    label = int(whole.labels("label")[4])
    rows = [
        {"key": keys[2], "decision": "drop"},
        {"key": keys[4], "decision": "relabel", "new_label": str((label + 1) % 4)},
    ]
    decisions = write_table(tmp_path / "d.csv", rows)
    kept = Arrays(path=str(tmp_path), keep=decisions).open().train
    assert kept.ids.tolist() == [0, 1, *range(3, 30)]
    assert kept.labels("label")[3] == (label + 1) % 4
    np.testing.assert_array_equal(kept.image[2], whole.image[3])
    assert kept.describe()["hash"] != whole.describe()["hash"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--keep=nowhere.csv"], "nowhere.csv: no such file"),
        (["--keep={other}"], "none of the 1 keys there is among the 12 examples of"),
        (["--keep={wrong}"], "new label 'purple': no class of"),
        (["--keep={all}"], "leaves out all 12 examples of"),
        (["--labels={scores}:score<1"], "no column 'suggested'"),
        (["--as=csv", "--size=8"], "--as=csv: takes the images as they are"),
        (["--as=parquet", "--small=8"], "Parquet has no place for small views"),
        (["--as=parquet", "--format=tar"], "give only one of them"),
    ],
)
def test_wrong_input_gets_one_line(world, tmp_path, flags, message, capsys):
    root, _ = world
    keys = keys_of(root / "train")
    files = {
        "other": write_table(tmp_path / "other.csv", [{"key": "0" * 16, "decision": "drop"}]),
        "wrong": write_table(
            tmp_path / "wrong.csv",
            [{"key": keys["red/000.png"], "decision": "relabel", "new_label": "purple"}],
        ),
        "all": write_table(
            tmp_path / "all.csv", [{"key": key, "decision": "drop"} for key in keys.values()]
        ),
        "scores": str(tmp_path / "scores.csv"),
    }
    (tmp_path / "scores.csv").write_text(
        "key,score\n" + "".join(f"{key},0.5\n" for key in keys.values())
    )
    formatted = [flag.format(**files) for flag in flags]
    assert main([str(root), str(tmp_path / "out"), *formatted]) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1
