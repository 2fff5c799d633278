"""Several workers on one folder: the same bytes as one, whoever is killed; others are refused."""

import os

import pytest

from active_learning.config import ConfigError
from active_learning.data.errors import DataError
from active_learning.data.sources import preparation as module
from active_learning.data.sources.from_path import listings_of, section_of
from active_learning.data.sources.preparation import Options, prepare
from active_learning.storage import workers
from active_learning.storage.workers import ALL, Task
from tests.data.photos import write_folder

OPTIONS = Options(small=8, shard=9, holdout=0.1, unusable=0.05)
FINISH = Task(finish=True)


@pytest.fixture
def photos(tmp_path):
    root = write_folder(tmp_path / "photos", each=20)
    (root / "red" / "003.png").write_bytes(b"no image")
    return root


def made(root, out, task=ALL, options=OPTIONS):
    train, test = listings_of(section_of(str(root)))
    return prepare(train, test, out, options, 1, task)


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("count", [3, 4])
def test_workers_write_what_one_writes(photos, tmp_path, count, monkeypatch):
    counts = made(photos, tmp_path / "one")["examples"]
    out = tmp_path / "several"
    calls = []

    def publish(shard, do=module.publish):
        calls.append(shard)
        if len(calls) == 2:
            raise KeyboardInterrupt
        do(shard)

    monkeypatch.setattr(module, "publish", publish)
    with pytest.raises(KeyboardInterrupt):  # killed in its second shard
        made(photos, out, Task(0, count))
    monkeypatch.undo()
    written = {file: file.stat().st_mtime_ns for file in out.glob("*.array_record")}
    for index in range(1, count):
        assert made(photos, out, Task(index, count)) == {}
    with pytest.raises(
        DataError, match=rf"several: \d of 7 shards are missing \(.*\); run --task=0/{count} again"
    ):
        made(photos, out, FINISH)
    made(photos, out, Task(0, count))  # repeated
    made(photos, out, Task(1, count))  # twice
    assert made(photos, out, FINISH)["examples"] == counts
    assert content(out) == content(tmp_path / "one")
    assert all(file.stat().st_mtime_ns == when for file, when in written.items())
    assert made(photos, out, Task(2, count))["examples"] == counts  # complete: nothing to do


def test_another_number_of_workers_continues(photos, tmp_path):
    made(photos, tmp_path / "one")
    out = tmp_path / "several"
    made(photos, out, Task(0, 3))
    made(photos, out, Task(1, 3))
    for index in range(2):
        made(photos, out, Task(index, 2))
    made(photos, out)  # one alone also finishes
    assert content(out) == content(tmp_path / "one")


def test_others_are_refused_by_the_name_of_the_holder(photos, tmp_path):
    out = tmp_path / "out"
    busy = rf"^{out}: process {os.getpid()} on .* since .* is at work on it; wait, or choose"
    with workers.held(out, Task(), "prepare"):
        for task in (Task(), Task(0, 2), FINISH):
            with pytest.raises(ConfigError, match=busy):
                made(photos, out, task)
    with workers.held(out, Task(0, 2), "prepare"):
        for task in (Task(), Task(0, 2), Task(0, 3), FINISH):
            with pytest.raises(ConfigError, match=busy):
                made(photos, out, task)
        assert made(photos, out, Task(1, 2)) == {}
    with pytest.raises(DataError, match="another preparation was begun there"):
        made(photos, out, Task(1, 2), Options(small=4, shard=9))
    made(photos, out)


def test_a_folder_of_something_else_is_left_alone(photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("x")
    with pytest.raises(DataError, match="not empty, and no unfinished preparation"):
        made(photos, tmp_path / "out", Task(0, 2))
    assert os.listdir(tmp_path / "out") == ["letter.txt"]
