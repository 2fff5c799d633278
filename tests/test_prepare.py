"""Shards from any source: the same examples with the same ids, the same bytes however it was run,
and what is damaged is left out by name.
"""

import json
import shlex
import subprocess

import numpy as np
import pytest
from PIL import Image

from active_learning.config import from_flags
from active_learning.data import images
from active_learning.data.sources import preparation as module
from active_learning.data.sources.array_record import ArrayRecords
from active_learning.data.sources.from_path import listings_of, section_of
from active_learning.data.sources.image_folder import ImageFolder
from active_learning.data.sources.preparation import Options, prepare
from active_learning.data.sources.source import DataError
from active_learning.data.sources.webdataset import WebDataset
from active_learning.prepare import main
from tests.data.photos import COLOURS, blob, write_folder
from tests.world import write_arrays

KINDS = {"array_record": ArrayRecords, "tar": WebDataset}


def made(source, out, threads=0, **options):
    return prepare(*listings_of(section_of(str(source))), out, Options(**options), threads)


def by_id(source):
    return {int(i): k for k, i in enumerate(source.ids)}


@pytest.mark.parametrize("format", KINDS)
def test_the_same_examples_under_the_same_ids(tmp_path, format):
    root = write_folder(tmp_path / "photos", each=12)
    (root / "yellow").mkdir()  # a class without images keeps its number
    manifest = made(root, tmp_path / "out", format=format, small=8, shard=10, holdout=0.25)
    opened = KINDS[format](path=str(tmp_path / "out"), size=16, small=8).open()
    assert manifest["examples"] == {"train": len(opened.train), "test": len(opened.test)}
    assert len(opened.train) + len(opened.test) == 36 and 0 < len(opened.test) < 36
    assert opened.train.class_names == ("blue", "green", "red", "yellow")
    before = ImageFolder(path=str(root), size=16).open()
    where = {**{i: (before.train, k) for i, k in by_id(before.train).items()}}
    where |= {i: (before.test, k) for i, k in by_id(before.test).items()}
    for source in (opened.train, opened.test):
        for k, i in enumerate(source.ids):
            theirs, row = where[int(i)]
            at = np.array([k])
            assert np.array_equal(
                source.gather(at)["image"], theirs.gather(np.array([row]))["image"]
            )
            assert source.labels("label")[k] == theirs.labels("label")[row]
            small = images.cover(images.decode(theirs.files.read(int(theirs.rows[row]))), 8)
            seen = source.gather_small(at)["image_small"][0]
            assert np.abs(seen.astype(int) - small).mean() < 12  # a JPEG of 8 px
    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "out", capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.count("OK") == len(manifest["sha256"])


@pytest.mark.parametrize("format", KINDS)
def test_the_bytes_depend_on_neither_threads_nor_interruptions(tmp_path, format, monkeypatch):
    root = write_folder(tmp_path / "photos", each=20)
    options = {"format": format, "small": 8, "shard": 15}
    whole = made(root, tmp_path / "one", threads=1, **options)
    assert made(root, tmp_path / "three", threads=3, **options) == whole

    class Stopped(Exception):
        pass

    calls = []

    def publish(shard, do=module.publish):
        calls.append(shard)
        if len(calls) == 3:
            raise Stopped
        do(shard)

    monkeypatch.setattr(module, "publish", publish)
    with pytest.raises(Stopped):
        made(root, tmp_path / "two", **options)
    monkeypatch.undo()
    with (tmp_path / "two" / "prepare.jsonl").open("a") as journal:
        journal.write('{"shard": "half a li')
    first = sorted((tmp_path / "two").glob("train-00000*"))[0]
    written = first.stat().st_mtime_ns
    assert made(root, tmp_path / "two", **options) == whole
    assert first.stat().st_mtime_ns == written  # not made again
    assert (
        not list((tmp_path / "two").glob("*.part"))
        and not (tmp_path / "two" / "prepare.jsonl").exists()
    )
    assert made(root, tmp_path / "two", **options) == whole  # complete: nothing to do
    with pytest.raises(
        DataError, match=r"two: holds another preparation \(plan.options.small: 8 there, 4 here\)"
    ):
        made(root, tmp_path / "two", **{**options, "small": 4})


def test_what_is_held_out_stays_when_the_set_grows(tmp_path):
    root = write_folder(tmp_path / "photos", each=10)
    rows = [f"{name}/{n:03d}.png,{name}" for name in COLOURS for n in range(10)]
    table = root / "t.csv"
    held = []
    for count in (20, 30):
        table.write_text("path,label\n" + "\n".join(rows[:count]))
        made(table, tmp_path / f"{count}", holdout=0.3)
        held.append(set(ArrayRecords(path=str(tmp_path / f"{count}"), size=16).open().test.ids))
    assert held[0] < held[1] and 0 < len(held[0]) < 20


def test_large_images_shrink_and_others_keep_their_bytes(tmp_path):
    root = write_folder(tmp_path / "photos", each=1)  # 24 x 20 px
    Image.fromarray(np.zeros((60, 90, 3), np.uint8)).save(root / "red" / "large.jpg")
    made(root, tmp_path / "out", size=30)
    files = ArrayRecords(path=str(tmp_path / "out")).listings()[0].files
    assert files.read(0) == blob("blue", 0)
    assert images.decode(files.read(3)).shape == (30, 45, 3)


def test_damaged_images_are_left_out_by_name(tmp_path):
    root = write_folder(tmp_path / "photos", each=70)
    (root / "red" / "007.png").write_bytes(b"no image at all")
    manifest = made(root, tmp_path / "out")
    assert list(manifest["unusable"]) == ["red/007.png"] and manifest["examples"] == {"train": 209}
    for n in range(3):
        (root / "blue" / f"{n:03d}.png").write_bytes(b"")
    with pytest.raises(DataError, match="3 of 210 examples cannot be used, more than 1%"):
        made(root, tmp_path / "other")
    assert len(made(root, tmp_path / "more", unusable=0.05)["unusable"]) == 4


def test_arrays_with_all_their_columns(tmp_path):
    write_arrays(tmp_path, train=30, test=10)
    made(tmp_path, tmp_path / "out")
    opened = ArrayRecords(path=str(tmp_path / "out"), size=8, clean_label="clean").open()
    with np.load(tmp_path / "train.npz") as want:
        assert np.array_equal(opened.train.gather(np.arange(30))["image"], want["image"])
        assert np.array_equal(opened.train.labels("label"), want["label"])
        assert np.array_equal(opened.train.clean_labels(), want["clean"])
    assert len(opened.test) == 10


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections
@pytest.mark.parametrize(
    ("side", "small", "seen"),
    [(300, 64, (224, 64)), (100, 16, (96, 16)), (48, 16, (48, 16)), (48, 48, (48, 0))],
)
@pytest.mark.parametrize("format", KINDS)
def test_the_command_it_ends_with_shows_the_learner_more_than_the_scorers(
    tmp_path, capsys, side, small, seen, format
):
    for name in COLOURS:
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(np.full((side, side + 20, 3), 80, np.uint8)).save(
                tmp_path / "photos" / name / f"{number}.png"
            )
    options = [f"--small={small}", "--size=256", f"--format={format}"]
    assert main([str(tmp_path / "photos"), str(tmp_path / "out"), *options]) == 0
    config, _ = from_flags(shlex.split(capsys.readouterr().out.splitlines()[-1])[3:])
    train = config.data.open().train
    assert (train.size, train.small) == seen
    assert train.size % config.learner.patch == 0 and train.size // config.learner.patch < 16


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections
def test_the_command(tmp_path, capsys):
    root = write_folder(tmp_path / "photos", each=4)
    assert main([str(root), str(tmp_path / "out"), "--small=8"]) == 0
    assert "train 12 examples, 0 left out" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["options"]["small"] == 8
    config = ["--config=configs/folder.py", f"--config.data.path={root}"]
    assert main([str(tmp_path / "two"), *config, "--format=tar"]) == 0
    assert main([str(tmp_path / "three"), *config, "--config.data.limits=0.000001"]) == 2
    assert "more than 268; raise the limit with data.limits" in capsys.readouterr().err
    for arguments, message in (
        ([str(root)], "expected SOURCE OUT"),
        ([str(tmp_path / "nowhere"), str(tmp_path / "x")], "nowhere': no such file or folder"),
        ([str(root), str(root), "--size=20"], "photos: not empty"),
        ([str(root), str(tmp_path / "x"), "--small=3"], "--small=3: expected 4 .. 4096"),
        (
            [str(root), str(tmp_path / "x"), "--format=zip"],
            "--format=zip: expected array_record, tar, parquet",
        ),
        ([str(root), str(tmp_path / "x"), "--holdout=1"], "--holdout=1.0"),
    ):
        capsys.readouterr()
        assert main(arguments) == 2
        printed = capsys.readouterr().err
        assert message in printed and printed.count("\n") == 1
