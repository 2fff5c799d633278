"""A run's folder: whose it is, and summary.json, read back or rebuilt when it cannot be."""

import dataclasses
import json

import pytest

from active_learning.config import ConfigError, to_json
from active_learning.metrics import read_summary, write_summary
from active_learning.train import run_folder
from tests import world

SUMMARY = {"complete": True, "final": {}, "flops": {}, "step": 3}


def test_a_summary_is_read_back(tmp_path):
    assert read_summary(tmp_path) is None
    write_summary(tmp_path, SUMMARY)
    assert read_summary(tmp_path) == SUMMARY


@pytest.mark.parametrize(
    "content",
    [b"", json.dumps(SUMMARY).encode()[:30], b"[]", b'{"complete": true}', b"\xff", b"[" * 9000],
)
def test_an_unreadable_summary_counts_as_none(tmp_path, content):
    (tmp_path / "summary.json").write_bytes(content)
    assert read_summary(tmp_path) is None


def test_another_config_is_named_by_its_hashed_keys_alone(tmp_path):
    """A run stored before a key came has its default, and what cannot change it is no reason."""
    config = world.config(tmp_path)
    run_folder.init_workdir(tmp_path / "run", config, {"data": {}, "weights": {}})
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["config"] == to_json(config)
    del stored["config"]["split"]["train_on"], stored["config"]["log"]["every"]
    stored["config"]["checkpoint"]["max_to_keep"] = 9
    (tmp_path / "run" / "config.json").write_text(json.dumps(stored))
    other = dataclasses.replace(config, batch_size=8)
    with pytest.raises(
        ConfigError, match=r"another config \(config.batch_size: 16 there, 8 here\)"
    ):
        run_folder.init_workdir(tmp_path / "run", other, {"data": {}, "weights": {}})
