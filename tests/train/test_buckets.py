"""Whole runs in a bucket: killed, continued elsewhere, evaluated, reported and read by other runs,
with a tenth of the requests failing; the ids are those of a local run.
"""

import dataclasses
import json
import time

import jax
import numpy as np
import pytest

from active_learning import checkpoint, curate, evaluate, export, store_scores
from active_learning.config import ConfigError
from active_learning.references import Loaded
from active_learning.report import __main__ as report
from active_learning.storage import addresses, mirror
from active_learning.storage.commits import Bucket
from active_learning.storage.errors import StorageError
from active_learning.storage.runs import readable, staging_folder
from active_learning.train import choices, loop
from active_learning.train.build import build, first_state
from active_learning.train.signals import PreemptionGuard
from tests import world

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax")


class Killed(BaseException):
    """The end of a process, which nothing in it handles."""


class KillAfterUpload(world.StopAfter):
    """Kills the run, in the update after its first checkpoint, once that is in the bucket."""

    def __init__(self, address: str):
        self.step = staging_folder(address) / "checkpoints" / "6"
        self.bucket = Bucket(address)

    @property
    def requested(self) -> bool:
        if not self.step.exists():
            return False
        for _ in range(3000):
            if any(name.startswith("checkpoints/6/") for name in self.bucket.read_commit().files):
                raise Killed
            time.sleep(0.01)
        pytest.fail("the checkpoint was not uploaded")


@pytest.fixture
def small_steps(monkeypatch, tmp_path):
    """Checkpoints are written before the run goes on, and looked for all the time."""
    save = checkpoint.Checkpoints.save

    def save_and_wait(self, *args):
        save(self, *args)
        self._manager.wait_until_finished()

    monkeypatch.setattr(checkpoint.Checkpoints, "save", save_and_wait)
    monkeypatch.setattr(mirror, "LOOK_SECONDS", 0.02)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """(config, the finished run in a local folder)."""
    folder = tmp_path_factory.mktemp("local")
    config = world.config(world.write_arrays(folder))
    loop.run(config, folder / "run")
    return config, folder / "run"


def ids(run) -> np.ndarray:
    """All recorded ids; what a killed run wrote twice counts once."""
    rows: list = []
    for file in sorted((run / "chosen").glob("*.npy")):
        rows[int(file.stem) :] = list(np.load(file))
    return np.stack(rows)


def steps(run) -> list[tuple]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line.get("test/accuracy")) for line in lines]


@pytest.mark.parametrize("store", ["gs", "s3"], indirect=True)
def test_a_whole_run_in_a_bucket_is_the_local_one(
    store, local, small_steps, tmp_path, monkeypatch, capsys
):
    (bucket, faults), (config, straight) = store, local
    address = f"{bucket}/experiments/run"
    faults.fraction = 0.1
    with pytest.raises(Killed):
        loop.run(config, address, KillAfterUpload(address))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    summary = loop.run(config, address)
    assert summary["complete"] and not staging_folder(address).exists()
    assert faults.injected > 3

    run = readable(address)
    np.testing.assert_array_equal(ids(run), ids(straight))
    assert steps(run) == steps(straight)
    for ours, theirs in zip(choices.read_counts(run), choices.read_counts(straight), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    models = (checkpoint.load_params(one, "learner") for one in (run, straight))
    jax.tree.map(np.testing.assert_array_equal, *models)

    capsys.readouterr()
    assert evaluate.main([address]) == 0
    assert json.loads(capsys.readouterr().out)["test"]["accuracy"] == pytest.approx(
        summary["final"]["test_full/accuracy"]
    )
    assert report.main([f"{bucket}/experiments", "--out", f"{bucket}/report"]) == 0
    page = Bucket(f"{bucket}/report")
    assert json.loads(page.get("report.json"))["step_seconds"] is None
    assert b"learnability" in page.get("index.html")
    assert export.main([address, str(tmp_path / "weights")]) == 0
    assert store_scores.main([address]) == 2
    assert "a run in a bucket needs --out=FILE" in capsys.readouterr().err
    assert store_scores.main([address, "--out", str(tmp_path / "scores.npz")]) == 0
    _, args = curate.parse([str(tmp_path), str(tmp_path / "out"), "--run", address])
    options = curate.options_of(args)
    assert options.run == run


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_runs_in_a_bucket_serve_other_runs(store, local, tmp_path, monkeypatch):
    address, (config, straight) = f"{store[0]}/shared", local
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with mirror.mirrored(address, tmp_path / "staged") as staged:
        for path in straight.rglob("*"):
            if path.is_file():
                copy = staged.local / path.relative_to(straight)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
    # As a loaded reference, and as a trained one that is complete.
    own = dataclasses.replace(config.reference, path=f"{address}/reference")
    for reference in (own, Loaded(path=f"{address}/reference")):
        changed = dataclasses.replace(config, reference=reference)
        loop.run(changed, tmp_path / reference.kind_name)
        np.testing.assert_array_equal(ids(tmp_path / reference.kind_name), ids(straight))
    experiment = build(dataclasses.replace(config, init_from=address))
    params = checkpoint.load_params(straight)
    first = first_state(experiment, checkpoint.load_params(straight, "reference"))
    jax.tree.map(np.testing.assert_array_equal, first.learner.params, params)


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_an_outage_that_does_not_end_is_3_and_the_run_continues(
    store, local, small_steps, monkeypatch
):
    (bucket, faults), (config, straight) = store, local
    address = f"{bucket}/run"
    monkeypatch.setattr(addresses, "PATIENCE", 0.5)
    monkeypatch.setitem(addresses._RETRY, "max_retries", 0)

    class Outage(PreemptionGuard):
        """Cuts the bucket off at the first checkpoint, and waits until the next upload fails."""

        @property
        def requested(self) -> bool:
            if (staging / "checkpoints" / "6").exists():
                faults.outage(60)
                late = staging / "late" / "checkpoints" / "1"
                late.mkdir(parents=True, exist_ok=True)
                (late / "state").touch()
                deadline = time.monotonic() + 30
                while not self._failed() and time.monotonic() < deadline:
                    time.sleep(0.01)
            return super().requested

    staging = staging_folder(address)
    with monkeypatch.context() as patch, pytest.raises(StorageError, match=f"^{address}/.*gave up"):
        patch.setattr(loop, "PreemptionGuard", Outage)
        loop.run(config, address)
    faults.outage(0)
    stopped = json.loads((staging / "summary.json").read_text())
    assert not stopped["complete"] and stopped["step"] < 12
    assert (staging / "checkpoints" / str(stopped["step"])).exists()
    assert loop.run(config, address)["complete"]
    np.testing.assert_array_equal(ids(readable(address)), ids(straight))


def test_what_cannot_be_written_is_told_before_anything_starts(store, local, monkeypatch, tmp_path):
    (bucket, faults), (config, _) = store, local
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(loop, "_run", lambda *_: pytest.fail("began"))
    nowhere = bucket.replace("bucket", "another")
    with pytest.raises(ConfigError, match=rf"^{nowhere}/run/commit.json: not there \(404"):
        loop.run(config, f"{nowhere}/run")
    faults.denied = True
    with pytest.raises(ConfigError, match=rf"^{bucket}/run/commit.json: 403 Forbidden"):
        loop.run(config, f"{bucket}/run")
