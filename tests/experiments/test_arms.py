"""Arms: each run once, whoever runs it; finished runs are packed and found again."""

import contextlib
import json
from dataclasses import replace

import pytest

from active_learning.config import config_hash
from active_learning.core import policies
from active_learning.settings import Select
from experiments import arms
from tests import world


@pytest.fixture
def ran(monkeypatch):
    """Folders in the order in which they were trained; training writes a run's files at once."""
    folders = []

    def run(config, folder):
        folders.append(folder)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(config_hash(config))
        (folder / "metrics.jsonl").write_text(f"{config.seed}\n")
        summary = {"complete": True, "final": {"test_full/accuracy": 0.5}, "flops": {}, "step": 1}
        (folder / "summary.json").write_text(json.dumps(summary))
        return summary

    monkeypatch.setattr(
        arms.loop,
        "run",
        lambda config, folder, guard: arms.read_summary(folder) or run(config, folder),
    )
    return folders


def some(folder):
    base = world.config(folder, select=Select(policy=policies.learnability, ratio=2))
    base = replace(base, reference=replace(base.reference, path="shared"))
    plain = replace(base, name="plain", select=Select(), reference=replace(base.reference, path=""))
    return [arms.Arm(replace(base, name="chosen"), 0.5, (0, 1)), arms.Arm(plain, 1.0, (1,))]


def test_seed_by_seed_after_the_reference_they_share(tmp_path, ran):
    first, every = [list(result) for result in arms.run_all(some(tmp_path), tmp_path)]
    assert [folder.name.split("-")[0] for folder in ran] == [
        "shared",
        "chosen",
        "shared",
        "chosen",
        "plain",
    ]
    assert (len(first), len(every)) == (1, 3)
    assert "chosen-0.50-seed0" in first[0].name


def test_finished_runs_are_packed_and_taken_from_the_pack(tmp_path, ran):
    *_, every = arms.run_all(some(tmp_path), tmp_path / "out", tmp_path / "store")
    saved = [{name: (folder / name).read_text() for name in arms.FILES} for folder in every]
    packed = {file.name: file.read_bytes() for file in (tmp_path / "store").iterdir()}
    assert set(packed) == {f"{folder.name}.json.gz" for folder in every}
    (every[0] / "summary.json").unlink()  # a run that was cut short
    del ran[:]
    *_, again = arms.run_all(some(tmp_path), tmp_path / "out", tmp_path / "store")
    assert (again, ran) == (every, [])
    assert saved == [{name: (folder / name).read_text() for name in arms.FILES} for folder in every]
    assert packed == {file.name: file.read_bytes() for file in (tmp_path / "store").iterdir()}


def test_a_run_that_another_process_trains_comes_last(tmp_path, ran, monkeypatch):
    theirs, *_ = [folder for arm in some(tmp_path) for _, folder in arm.runs(tmp_path)]
    held = contextlib.ExitStack()
    assert held.enter_context(arms.locked(theirs))
    locked = arms.locked

    def until_they_have_finished(folder, wait=False):
        if folder == theirs and wait:
            held.close()
        return locked(folder, wait)

    monkeypatch.setattr(arms, "locked", until_they_have_finished)
    *_, every = arms.run_all(some(tmp_path), tmp_path)
    assert len(every) == 3
    assert every[-1] == ran[-1] == theirs
