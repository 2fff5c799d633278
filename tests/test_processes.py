"""Two processes choose the same ids and reach the same parameters as one."""

import json
import socket
import subprocess
import sys

import numpy as np

from tests.test_sharding import run


def test_two_processes_equal_one():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "tests.two_processes", port]
    both = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in (0, 1)]
    out = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    said = json.loads(next(line for line in out[0].splitlines() if line.startswith("{")))
    state, ids, gaps, *_ = run(1)
    assert min(gaps) > 1e-5
    assert [[tuple(i) for i in step] for step in said["ids"]] == ids
    for name in ("learner", "online"):
        np.testing.assert_allclose(said["params"][name], getattr(state, name).params["w"], rtol=1e-4, atol=1e-5)
