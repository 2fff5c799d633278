"""Copies of the scalars in experiment trackers, offline; what fails or is missing ends no run."""

import importlib.util

import pytest

from active_learning.config import ConfigError
from active_learning.train import trackers
from active_learning.train.trackers import Trackers, check_installed

VALUES = {"test/accuracy": 0.5, "train/loss": 2.0, "test/per_class": [0.1, 0.9], "select/open": 1}


def needs(module: str):
    return pytest.mark.skipif(
        importlib.util.find_spec(module) is None, reason=f"{module} is not installed"
    )


@needs("mlflow")
@pytest.mark.filterwarnings("ignore")  # The library's own.
def test_mlflow_keeps_one_run_for_a_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for step in (5, 10):  # The second one continues the first.
        both = Trackers(tmp_path, "mine", mlflow="study")
        both.write(step, VALUES)
        both.close()
    from mlflow import MlflowClient

    client = MlflowClient((tmp_path / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("study")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics == {"test/accuracy": 0.5, "train/loss": 2.0, "select/open": 1.0}
    history = client.get_metric_history(run.info.run_id, "test/accuracy")
    assert [one.step for one in history] == [5, 10]


@needs("wandb")
@pytest.mark.filterwarnings("ignore")
def test_wandb_writes_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    one = Trackers(tmp_path, "mine", wandb="study")
    one.write(5, VALUES)
    one.close()
    import wandb

    wandb.teardown()  # Ends the process that writes.
    (record,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    content = record.read_bytes()
    assert b"test/accuracy" in content and b"study" in content and b"per_class" not in content


class Broken:
    """A tracker whose server has gone."""

    def __init__(self, *_):
        self.closed = False

    def write(self, step, values):
        raise ConnectionError("no route to host\nmore lines")

    def close(self):
        self.closed = True


def test_a_tracker_that_fails_is_left_out_with_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(trackers, "WandB", Broken)
    both = Trackers(tmp_path, "mine", tensorboard=True, wandb="study")
    for step in (1, 2):
        both.write(step, VALUES)
    both.close()
    assert [record.getMessage() for record in caplog.records] == [
        "a tracker failed; the run goes on without it: no route to host"
    ]
    assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"wandb": "study"}, r"config\.log\.wandb='study': needs wandb, .*\[wandb\]"),
        ({"mlflow": "study"}, r"config\.log\.mlflow='study': needs mlflow, .*\[mlflow\]"),
    ],
)
def test_one_that_is_not_installed_is_refused(asked, message, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_installed(**{"tensorboard": False, "wandb": "", "mlflow": ""})
    with pytest.raises(ConfigError, match=message):
        check_installed(**{"tensorboard": False, "wandb": "", "mlflow": ""} | asked)
