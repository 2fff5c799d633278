"""Runs on data in a bucket: the choices of a run on the same files, whatever the server does."""

import dataclasses

import numpy as np
import obstore
import pytest

from active_learning import cli
from active_learning.data.sources.from_path import FromPath
from active_learning.models import MLP
from active_learning.references import Trained
from active_learning.settings import Split
from active_learning.storage import addresses
from active_learning.train.loop import run
from experiments.bucket_servers import buckets
from tests import world
from tests.data.sources.test_webdataset import examples, write_tar


@pytest.fixture
def tars(tmp_path, monkeypatch):
    """(config of a run on tars on the disk, their address, the faults of its server)."""
    folder = tmp_path / "set"
    folder.mkdir()
    monkeypatch.setattr(addresses.random, "uniform", lambda low, high: 0.02)
    monkeypatch.setattr(addresses, "_RETRY", {**addresses._RETRY, "max_retries": 1})
    with buckets("gs") as (environment, faults):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        addresses._store.cache_clear()
        for n in range(2):
            tar = write_tar(folder / f"train-{n}.tar", examples(90, 90 * n))
            store, _ = addresses.store_of("gs://bucket")
            obstore.put(store, f"set/{tar.name}", tar.read_bytes())
        config = world.config(
            folder,
            data=FromPath(path=str(folder), size=16, cache=str(tmp_path / "cache")),
            split=Split(parts={"pool": 0.7, "reference": 0.2, "gate": 0.1}),
            learner=MLP(width=8, depth=1),
            reference=Trained(total="2 steps", batch_size=8),
            batch_size=8,
            total="6 steps",
        )
        yield config, "gs://bucket/set", faults
    addresses._store.cache_clear()


def chosen(workdir):
    return np.concatenate([np.load(file) for file in sorted((workdir / "chosen").glob("*.npy"))])


def test_choices_are_those_of_a_run_on_the_disk(tars, tmp_path):
    config, address, faults = tars
    here = run(config, tmp_path / "here")
    data = dataclasses.replace(config.data, path=address, cache_gb=0.0)
    faults.fraction = 0.1
    there = run(dataclasses.replace(config, data=data), tmp_path / "there")
    assert faults.injected > 10
    assert there["final"] == here["final"]
    assert np.array_equal(chosen(tmp_path / "there"), chosen(tmp_path / "here"))


def test_a_server_that_goes_on_failing_ends_a_run_with_3(tars, tmp_path, monkeypatch, capsys):
    config, address, faults = tars
    data = dataclasses.replace(config.data, path=address, cache_gb=0.0)
    monkeypatch.setattr(addresses, "PATIENCE", 0.2)

    class Outage(world.PreemptionGuard):
        """The server fails from the second look of the loop on."""

        looks = 0

        @property
        def requested(self) -> bool:
            self.looks += 1
            faults.fraction = float(self.looks > 1)
            return False

    config = dataclasses.replace(config, data=data)
    assert cli.guarded(lambda: run(config, tmp_path / "run", Outage())) == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: gs://bucket/set/train-") and "gave up after" in lines[-1]
