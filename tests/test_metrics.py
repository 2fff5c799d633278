"""Files of a run: atomic writes, folders that flags name, metrics.jsonl after a kill."""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from active_learning import metrics
from active_learning.config import ConfigError
from active_learning.metrics import StorageError


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "summary.json"
    metrics.write_atomic(path, "old")
    metrics.write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, StorageError), (errno.EIO, StorageError), (errno.EACCES, ConfigError)],
)
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, number, kind):
    path = tmp_path / "summary.json"
    metrics.write_atomic(path, "old")

    def fail(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(kind, match=rf"{path}: .*{os.strerror(number)}"):
        metrics.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]
    assert metrics.exit_code(kind("")) == (3 if kind is StorageError else 2)


def test_a_killed_writer_leaves_the_old_content_or_the_new(tmp_path):
    path = tmp_path / "file"
    path.write_text("0" * 100_000)
    code = (
        "import sys; from pathlib import Path; from active_learning.metrics import write_atomic\n"
        "print('go', flush=True); n = 0\n"
        "while True: n += 1; write_atomic(Path(sys.argv[1]), str(n % 10) * 100_000)"
    )
    for wait in (0.001, 0.013, 0.04):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, cwd=Path.cwd()
        )
        process.stdout.readline()
        try:
            process.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        text = path.read_text()
        assert len(text) == 100_000
        assert len(set(text)) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("s3://bucket/run", "addresses of kind s3:// are not supported"),
        ("gs://bucket/run", "addresses of kind gs:// are not supported"),
        ("gs:/bucket/run", "addresses of kind gs://"),
        ("abc://x", "addresses of kind abc://"),
        ("", "expected the path of a folder"),
        ("a\nb", "expected the path of a folder"),
        ("runs/a[1]", r"with '\[' in its name"),
        ("runs\\a", r"with '\\\\' in its name"),
        ("/proc/run", "cannot be written"),
        ("x" * 300, "cannot be written"),
    ],
)
def test_a_place_that_cannot_be_is_refused_and_nothing_is_made(
    given, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        metrics.checked_folder(given, "--workdir", checkpoints=True)
    assert str(caught.value).startswith("--workdir=")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match=r"--workdir=.*(is a file|Not a directory)"):
            metrics.checked_folder(path, "--workdir")


def test_a_folder_is_returned_and_not_made(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert metrics.checked_folder("~/runs/a", "--workdir") == tmp_path / "runs" / "a"
    assert metrics.checked_folder(f"file://{tmp_path}/a%20b", "--workdir") == tmp_path / "a b"
    assert metrics.checked_folder(tmp_path / "a[b", "OUT") == tmp_path / "a[b"
    assert not list(tmp_path.iterdir())


def test_lines_after_the_checkpoint_are_removed_and_a_half_written_one_is_dropped(tmp_path, caplog):
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step in (1, 2, 3):
            file.write(json.dumps({"step": step, "loss": 0.5}) + "\n")
        file.write('{"step": 2, "flops": {"learner_train": 1.0}')  # ends like a whole object
    logger = logging.getLogger("active_learning")
    logger.addHandler(caplog.handler)
    writer = metrics.Writer(tmp_path, resume_step=2)
    logger.removeHandler(caplog.handler)
    assert "1 unreadable lines are left out" in caplog.text
    writer.write({"step": 3}, {"loss": 0.25})
    writer.close()
    assert rows(tmp_path) == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 0.5},
        {"step": 3, "loss": 0.25},
    ]
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        "step,loss",
        "1,0.5",
        "2,0.5",
        "3,0.25",
    ]


def test_the_final_line_is_not_doubled_by_a_run_killed_before_its_summary(tmp_path):
    for start in (0, 8, 8):
        writer = metrics.Writer(tmp_path, resume_step=start)
        if start == 0:
            writer.write({"step": 8}, {"train/loss": 1.0, "test/accuracy": 0.5})
        writer.write({"step": 8}, {"test_full/accuracy": 0.25})
        writer.close()
    assert rows(tmp_path) == [
        {"step": 8, "train/loss": 1.0, "test/accuracy": 0.5},
        {"step": 8, "test_full/accuracy": 0.25},
    ]


@pytest.mark.parametrize(
    "junk", [b"\xff\xfe{}\n", b"[1]\n", b'{"step": "x"}\n', b'{"step": 1e999}\n', b"[" * 5000]
)
def test_lines_that_are_no_metrics_are_left_out(tmp_path, junk):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "flops": 3}\n' + junk)
    writer = metrics.Writer(tmp_path, resume_step=5)
    writer.close()
    assert rows(tmp_path) == [{"step": 1, "flops": 3}]


def test_a_full_disk_is_a_storage_error(tmp_path, monkeypatch):
    writer = metrics.Writer(tmp_path)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"metrics\.jsonl: No space left on device; free some"):
        writer.write({"step": 1}, {})
    monkeypatch.undo()
    writer.close()


def test_the_watch_counts_training_only(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now[0])
    watch = metrics.Stopwatch(10.0)
    watch.start()
    now[0] = 2.0
    assert watch.elapsed() == 12.0
    with watch.paused():
        now[0] = 7.0
        assert watch.elapsed() == 12.0
        with watch.running():
            now[0] = 8.0
    now[0] = 9.0
    watch.stop()
    assert watch.seconds == watch.elapsed() == 14.0


SUMMARY = {"complete": True, "final": {}, "flops": {}, "step": 3}


def test_a_summary_is_read_back(tmp_path):
    assert metrics.read_summary(tmp_path) is None
    metrics.write_summary(tmp_path, SUMMARY)
    assert metrics.read_summary(tmp_path) == SUMMARY


@pytest.mark.parametrize(
    "content",
    [b"", json.dumps(SUMMARY).encode()[:30], b"[]", b'{"complete": true}', b"\xff", b"[" * 9000],
)
def test_an_unreadable_summary_counts_as_none(tmp_path, content):
    (tmp_path / "summary.json").write_bytes(content)
    assert metrics.read_summary(tmp_path) is None
