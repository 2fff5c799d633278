"""Which worker a process is, who holds a lock, and which tasks a missing piece asks for."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from active_learning.config import ConfigError
from active_learning.storage import workers
from active_learning.storage.pieces import Pieces, check_all, make_all, signature
from active_learning.storage.workers import Task, task_of


@pytest.mark.parametrize(
    ("text", "environment", "task"),
    [
        ("", {"SLURM_ARRAY_TASK_ID": "3"}, Task()),
        ("0/1", {}, Task()),
        ("2/8", {"SLURM_ARRAY_TASK_ID": "3"}, Task(2, 8)),
        ("finish", {}, Task(finish=True)),
        ("auto/8", {"JOB_COMPLETION_INDEX": "7"}, Task(7, 8)),
        ("auto/8", {"SLURM_ARRAY_TASK_ID": "3"}, Task(3, 8)),
        (
            "auto",
            {
                "SLURM_ARRAY_TASK_ID": "3",
                "SLURM_ARRAY_TASK_MIN": "1",
                "SLURM_ARRAY_TASK_COUNT": "4",
            },
            Task(2, 4),
        ),
        (
            "auto",
            {
                "SLURM_ARRAY_TASK_ID": "6",
                "SLURM_ARRAY_TASK_MIN": "2",
                "SLURM_ARRAY_TASK_STEP": "2",
                "SLURM_ARRAY_TASK_COUNT": "4",
            },
            Task(2, 4),
        ),
        (  # one of 8 that is started again alone
            "auto/8",
            {
                "SLURM_ARRAY_TASK_ID": "3",
                "SLURM_ARRAY_TASK_MIN": "3",
                "SLURM_ARRAY_TASK_COUNT": "1",
            },
            Task(3, 8),
        ),
    ],
)
def test_which_worker_this_is(text, environment, task):
    assert task_of(text, environment) == task


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("8/8", {}, "worker 8 of 8; they are numbered from 0"),
        ("3", {}, "expected I/N, auto, auto/N or finish"),
        ("-1/8", {}, "expected I/N"),
        ("0/0", {}, "worker 0 of 0"),
        ("auto/8", {}, "SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX is not set"),
        ("auto", {"JOB_COMPLETION_INDEX": "7"}, "of how many"),
    ],
)
def test_what_is_no_worker(text, environment, message):
    with pytest.raises(ConfigError, match=f"^--task={text}: .*{message}"):
        task_of(text, environment)


def test_a_worker_that_died_has_no_lock(tmp_path):
    """The process that holds it is killed; nothing has to be removed by hand."""
    code = (
        "import sys, time; from pathlib import Path; from active_learning.storage import workers\n"
        f"with workers.held(Path({str(tmp_path)!r}), workers.Task(1, 3), 'kind'):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"held\n"
    assert workers.at_work(tmp_path, Task(1, 3), "kind")
    assert not workers.at_work(tmp_path, Task(2, 3), "kind")
    with pytest.raises(ConfigError, match=f"^{tmp_path}: process {other.pid} on .* is at work"):
        workers.held(tmp_path, Task(), "kind").__enter__()
    with workers.held(tmp_path, Task(2, 3), "kind"):  # beside it
        assert workers.at_work(tmp_path, Task(2, 3), "kind")
    other.kill()
    other.communicate()
    assert not workers.at_work(tmp_path, Task(1, 3), "kind")
    with workers.held(tmp_path, Task(), "kind"):
        pass
    workers.remove_locks(tmp_path, "kind")
    assert not tmp_path.exists()


def test_a_missing_piece_names_its_task(tmp_path):
    pieces, out = Pieces(tmp_path / "pieces", "mark"), tmp_path / "out"
    names = [f"p{number}" for number in range(7)]
    made = []

    def make(number):
        made.append(number)
        return {"value": np.array(number)}

    for index in (0, 2):
        with workers.held(pieces.folder, Task(index, 3), "kind"):
            make_all(pieces, names, Task(index, 3), make)
            make_all(pieces, names, Task(index, 3), make)  # again: nothing is left to do
    assert made == [0, 3, 6, 2, 5]
    missing = [number for number, name in enumerate(names) if not pieces.has(name)]
    with pytest.raises(ConfigError, match=f"^{out}: 2 of 7 pieces are missing; run --task=1/3 aga"):
        check_all(missing, 7, pieces.folder, "kind", out)
    with (
        workers.held(pieces.folder, Task(0, 2), "kind"),
        pytest.raises(ConfigError, match="piece K \\(from 0\\) is one of task K modulo N"),
    ):
        check_all(missing, 7, pieces.folder, "kind", out)
    make_all(pieces, names, Task(), make, only=[1])
    assert made[5:] == [1] and pieces.get("p1")["value"] == 1
    with pytest.raises(ConfigError, match="p4-mark.npz: gone"):
        pieces.get("p4")
    pieces.remove()
    assert not list(pieces.folder.glob("*.npz")) and os.listdir(pieces.folder)  # locks stay


def test_a_damaged_piece_is_one_line(tmp_path):
    pieces = Pieces(tmp_path, signature(np.arange(3)))
    pieces.path("a").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ConfigError, match=f"^{pieces.path('a')}: damaged .*; delete it"):
        pieces.load("a")


def test_the_scripts_in_the_docs_ask_for_as_many_workers_as_they_start():
    text = (Path(__file__).parents[2] / "docs" / "running.md").read_text()
    section = text.partition("## Several workers")[2].partition("\n## ")[0]
    array = re.search(r"--array=0-(\d+)", section)
    completions = re.search(r"completions: (\d+)", section)
    commands = re.findall(r"active_learning\.(\w+).*--task=(auto/\d+)", section)
    assert {name for name, _ in commands} == {"prepare", "store_scores", "curate"}
    count = int(array[1]) + 1
    for _, text in commands:
        for index in (0, count - 1):
            slurm = {
                "SLURM_ARRAY_TASK_ID": f"{index}",
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_TASK_COUNT": f"{count}",
            }
            assert task_of(text, slurm) == Task(index, count)
        last = int(completions[1]) - 1
        assert task_of(text, {"JOB_COMPLETION_INDEX": f"{last}"}) == Task(last, last + 1)
