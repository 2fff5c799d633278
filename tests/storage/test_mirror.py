"""Folders mirrored to a bucket: what a commit is, what the next process finds."""

import json
import logging

import pytest

from active_learning.config import ConfigError
from active_learning.storage import addresses, commits, mirror, runs
from active_learning.storage.commits import Bucket, Commit, Part
from active_learning.storage.errors import StorageError


def write(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def contents(folder) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.fixture
def opened(store, tmp_path):
    """Opens mirrors of one run, each in a local folder of its own."""
    address, _ = store
    mirrors = []

    def open_one(local="a"):
        one = mirror.Mirror(f"{address}/run", tmp_path / local)
        one.open()
        mirrors.append(one)
        return one

    yield open_one
    for one in mirrors:
        one._closing.set()
        one._thread.join()


def test_another_machine_finds_what_was_committed(opened):
    first = opened("a")
    write(first.local, config="{}", checkpoints__3__state="three", chosen__0="ids")
    write(first.local, **{".hidden": "no", "checkpoints__5.orbax-checkpoint-tmp__state": "half"})
    first.close()
    want = {"config": "{}", "checkpoints/3/state": "three", "chosen/0": "ids"}
    assert contents(opened("b").local) == want
    assert sorted(first.bucket.names()) == sorted([*want, "commit.json"])


def test_metrics_are_uploaded_in_segments_and_read_as_one_file(opened):
    one = opened("a")
    path = one.local / "metrics.jsonl"
    for lines in ("1\n", "1\n2\n", "1\n2\n3\n"):
        path.write_text(lines)
        one.sync()
    names = [f"metrics.jsonl.{n:06d}" for n in range(3)]
    assert [one.bucket.get(name) for name in names] == [b"1\n", b"2\n", b"3\n"]
    # A run that continues at update 2 drops the later lines and writes others.
    path.write_text("1\n2\nthree\n")
    one.sync()
    assert contents(opened("b").local) == {"metrics.jsonl": "1\n2\nthree\n"}
    assert one.bucket.get("metrics.jsonl.000002") is None, "no longer listed, and removed"
    path.write_text("other\n")
    one.close()
    assert contents(opened("c").local) == {"metrics.jsonl": "other\n"}


def test_an_upload_that_is_cut_off_leaves_the_former_state(opened, monkeypatch, caplog):
    one = opened("a")
    write(one.local, config="{}", summary="first", checkpoints__3__state="three")
    one.sync()
    write(one.local, summary="second", checkpoints__6__state="six")
    monkeypatch.setattr(Bucket, "write_commit", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        one.sync()
    monkeypatch.undo()
    assert one.bucket.get("summary") == b"second", "an object was replaced"
    caplog.set_level(logging.WARNING, "active_learning")
    other = opened("b")
    # Not six, and neither the summary of a state that was never committed.
    assert contents(other.local) == {"config": "{}", "checkpoints/3/state": "three"}
    assert "run/summary: left out" in caplog.text
    assert other.bucket.get("checkpoints/6/state") is None, "what was left over is removed"
    write(other.local, summary="third")
    other.close()
    assert contents(opened("c").local)["summary"] == "third"


def test_later_work_of_the_same_state_is_kept_and_older_work_is_not(opened):
    first = opened("a")
    write(first.local, config="{}", summary="1")
    first.sync()
    write(first.local, summary="2")  # the process is killed here
    again = opened("a")
    assert contents(again.local) == {"config": "{}", "summary": "2"}
    again.close()
    elsewhere = opened("b")
    write(elsewhere.local, summary="3", more="x")
    elsewhere.close()
    write(again.local, summary="older", stray="y")
    assert contents(opened("a").local) == {"config": "{}", "summary": "3", "more": "x"}


def test_a_run_that_was_removed_from_the_bucket_begins_anew(opened):
    first = opened("a")
    write(first.local, config="{}")
    first.close()
    first.bucket.delete(first.bucket.names())
    assert contents(opened("a").local) == {}


def test_two_processes_that_write_one_run_are_told(opened):
    first, second = opened("a"), opened("b")
    write(first.local, config="1")
    first.sync()
    write(second.local, config="2")
    with pytest.raises(ConfigError, match="run: another process has also written this run"):
        second.sync()
    assert first.bucket.get("config") is not None


def test_one_machine_does_not_stage_a_run_twice(store, tmp_path, monkeypatch):
    address, _ = store
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with (
        runs.writable(f"{address}/run"),
        pytest.raises(ConfigError, match="another process on this machine trains this run"),
        runs.writable(f"{address}/run"),
    ):
        pass


def test_checkpoints_are_uploaded_while_the_run_goes_on(store, tmp_path, monkeypatch):
    address, faults = store
    monkeypatch.setattr(mirror, "LOOK_SECONDS", 0.02)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with (
        pytest.raises(ConfigError, match="403 Forbidden"),
        runs.writable(f"{address}/run") as place,
    ):
        write(place.folder, checkpoints__3__state="three")
        bucket = Bucket(f"{address}/run")
        for _ in range(500):
            if "checkpoints/3/state" in bucket.read_commit().files:
                break
        else:
            pytest.fail("no commit")
        # A folder that no longer reaches the bucket asks the run to stop.
        faults.denied = True
        write(place.folder, checkpoints__6__state="six")
        while not place.failed():
            pass
        faults.denied = False
        assert bucket.read_commit().number == 1
    assert contents(place.folder)["checkpoints/6/state"] == "six", "kept for the same command"
    with runs.writable(f"{address}/run") as place:
        assert sorted(contents(place.folder)) == ["checkpoints/3/state", "checkpoints/6/state"]
    assert bucket.read_commit().number == 2 and not place.folder.exists()


def test_a_run_is_read_with_its_newest_checkpoint_only(store, tmp_path, monkeypatch):
    address, _ = store
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with runs.writable(f"{address}/all/run") as place:
        write(place.folder, **{"config.json": "{}", "metrics.jsonl": "1"})
        for folder in ("", "reference__"):
            write(place.folder, **{f"{folder}checkpoints__{n}__state": str(n) for n in (9, 10)})
    run = runs.readable(f"{address}/all/run/")
    assert run.name == "run" and contents(run) == {
        "config.json": "{}",
        "metrics.jsonl": "1",
        "checkpoints/10/state": "10",
        "reference/checkpoints/10/state": "10",
    }
    inner = runs.readable(f"{address}/all/run/reference")
    assert contents(inner) == {"checkpoints/10/state": "10"}
    assert runs.readable(f"{address}/all/run") == run, "downloaded once"
    reports = runs.readable_reports(f"{address}/all")
    assert contents(reports) == {"run/config.json": "{}", "run/metrics.jsonl": "1"}
    for nothing in (runs.readable, runs.readable_reports):
        with pytest.raises(ConfigError, match=f"{address}/none: no run there"):
            nothing(f"{address}/none")
    assert runs.readable(tmp_path) == tmp_path


def test_results_are_written_to_an_address(store, tmp_path):
    address, _ = store
    for out in (tmp_path, f"{address}/report"):
        with runs.published(out) as folder:
            write(folder, **{"index.html": "page", "more__figure.png": "picture"})
    assert contents(tmp_path) == {"index.html": "page", "more/figure.png": "picture"}
    bucket = Bucket(f"{address}/report")
    assert bucket.get("index.html") == b"page" and bucket.get("more/figure.png") == b"picture"


def test_a_folder_with_other_objects_is_refused(store, opened):
    Bucket(f"{store[0]}/run").put("mine.txt", b"1")
    with pytest.raises(
        ConfigError, match=r"run: holds other objects \(such as mine.txt\) but no run"
    ):
        opened()


def test_markers_that_are_damaged_or_name_files_elsewhere_are_refused():
    good = Commit(3, "ab", {"a/b": (Part("a/b", 1, "00"),)})
    assert Commit.from_bytes(good.to_bytes(), "x") == good
    for name in ("../x", "/x", "a/../../x", "a//b", "C:\\x", ""):
        hostile = json.loads(good.to_bytes())
        hostile["files"] = {name: [["a", 1, "00"]]}
        with pytest.raises(ConfigError, match=r"^x: damaged \(ValueError\)$"):
            Commit.from_bytes(json.dumps(hostile).encode(), "x")
    for content in (b"", b"[]", b"{}", good.to_bytes()[:-9]):
        with pytest.raises(ConfigError, match="^x: damaged"):
            Commit.from_bytes(content, "x")
    with pytest.raises(ConfigError, match="x: format 2, this version reads 1"):
        Commit.from_bytes(good.to_bytes().replace(b'"format": 1', b'"format": 2'), "x")


def test_of_all_steps_the_newest_by_number():
    names = ["c", "checkpoints/9/a", "checkpoints/10/a", "r/checkpoints/2/a", "checkpoints/x"]
    assert commits.without_older_steps(names) == [names[0], *names[2:]]
    assert commits.without_steps(names) == ["c", "checkpoints/x"]


def test_a_bucket_that_does_not_answer_ends_the_start(store, monkeypatch, tmp_path):
    address, faults = store
    monkeypatch.setitem(addresses._RETRY, "max_retries", 0)
    monkeypatch.setattr(addresses, "PATIENCE", 0.3)
    faults.outage(60)
    with pytest.raises(StorageError, match=f"^{address}/run/commit.json: .*gave up"):
        mirror.Mirror(f"{address}/run", tmp_path).open()
