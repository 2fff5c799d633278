"""What is run on a device within its time: done, failed, stopped, or not started at all."""

import os
import time

import pytest

from experiments import gpu


@pytest.mark.parametrize(
    ("seconds", "command", "became"),
    [
        (-1, ("this",), "skipped: no time left"),
        (60, ("this",), "done"),
        (60, ("no_such_module",), "failed with exit code 1"),
        (
            0.5,
            ("http.server", "0", "--bind", "127.0.0.1"),
            "stopped after 0 minutes; what is finished is kept",
        ),
    ],
)
def test_a_part_ends_in_time(monkeypatch, seconds, command, became):
    monkeypatch.setattr(gpu, "LEAST", 0)
    assert gpu.run(time.monotonic() + seconds, dict(os.environ), *command) == became
