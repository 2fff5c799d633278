"""Two processes choose what one chooses, stop together, write once, and one process goes on where
two stopped.
"""

import json
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from active_learning import distributed
from active_learning.config import ConfigError
from active_learning.data.sources.source import DataError
from active_learning.train import loop
from active_learning.train.build import build
from tests import two_processes, world
from tests.data.photos import write_folder
from tests.train.test_loop import ids, lines, models

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax")


def started(*arguments) -> list[subprocess.Popen]:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "tests.two_processes", port]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen([*command, rank, *map(str, arguments)], **pipes) for rank in ("0", "1")
    ]


def wait_for(path, pair, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and all(process.poll() is None for process in pair):
        if path.exists() and path.stat().st_size:
            return
        time.sleep(0.1)


def test_two_processes_equal_one_stop_together_and_one_goes_on(tmp_path):
    photos, arrays = write_folder(tmp_path / "photos", each=30), world.write_arrays(tmp_path)
    alone, both = tmp_path / "alone", tmp_path / "both"
    pair = started(photos, arrays, alone, both)
    wait_for(both / "metrics.jsonl", pair)
    pair[1].send_signal(signal.SIGTERM)  # to one of them
    out = [process.communicate(timeout=120) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], out
    steps = [int(said.splitlines()[-1]) for said, _ in out]
    assert steps[0] == steps[1] == json.loads((both / "summary.json").read_text())["step"] >= 1

    assert json.loads((alone / "summary.json").read_text())["step"] == two_processes.STOP
    assert set(models(alone, ("online",))["online"]) == {
        "head",
        "layer_0",
    }  # read without the devices it was saved on
    config, straight = two_processes.alone(photos), tmp_path / "straight"
    loop.run(config, straight)
    assert loop.run(config, alone)["complete"]
    for ours, theirs in zip(ids(alone), ids(straight), strict=True):
        assert sorted(ours) == sorted(theirs)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    jax.tree.map(
        close, models(alone, ("learner", "online")), models(straight, ("learner", "online"))
    )
    assert [line["step"] for line in lines(alone)] == [line["step"] for line in lines(straight)]


def test_too_few_examples_are_named(tmp_path, monkeypatch):
    config = world.config(world.write_arrays(tmp_path))
    monkeypatch.setattr(jax, "process_count", lambda: 1000)
    with pytest.raises(DataError, match="400 examples for 1000 processes"):
        build(config)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("here:1234", None, None), "missing: --num_processes, --process_id"),
        ((None, 2, 0), "missing: --coordinator=HOST:PORT"),
        (("here:1234", 2, 2), r"--process_id=2: expected 0 \.\. 1"),
    ],
)
def test_what_is_missing_is_named(given, message):
    with pytest.raises(ConfigError, match=message):
        distributed.start(*given)


def test_a_single_process_is_its_own_first():
    distributed.start()
    assert distributed.is_primary() and distributed.run_on_primary(lambda: [1, 2]) == [1, 2]
