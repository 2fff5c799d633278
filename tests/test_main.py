"""The command line: one clear line and exit code 2 for what is wrong, SIGTERM saves and exits 0, the same command continues."""

import json
import signal
import subprocess
import sys
import time

import pytest

from tests import world

CONFIG = """
from active_learning import policies
from active_learning.config import section
from active_learning.data.arrays import Arrays
from active_learning.models import MLP
from active_learning.settings import Config, Evaluate, Reference, Select, Split

def get_config():
    return section(
        Config,
        data=section(Arrays, path={path!r}, label="label", truth="clean"),
        learner=section(MLP, width=16, depth=1),
        scorer=section(MLP, width=8, depth=1),
        split=section(Split, parts={{"pool": 400, "reference": 120}}),
        batch_size=16,
        total="6 steps",
        select=section(Select, policy=policies.learnability, ratio=2),
        reference=section(Reference, total="4 steps", batch_size=16),
        evaluate=section(Evaluate, every="50 %", subset=60, batch_size=60),
    )
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("main")
    (folder / "config.py").write_text(CONFIG.format(path=str(world.write_arrays(folder))))
    return folder / "config.py"


def command(config, workdir, *flags):
    return [sys.executable, "-m", "active_learning.main", f"--config={config}", f"--workdir={workdir}", *flags]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--config.select.ration=3"], "ration"),
        (["--config.batch_size=many"], "batch_size"),
        (["--config.select.ratio=0"], "config.select.ratio=0"),
        (["--config.total=3 steps 2 epochs"], "config.total='3 steps 2 epochs': two durations"),
        (["--config.data.path=/nowhere"], "/nowhere/train.npz: no such file"),
        (["--profile=4:2"], "--profile=4:2: expected START:STOP"),
        (["--num_processes=2"], "missing: --coordinator=HOST:PORT, --process_id"),
        (["--config.data.label=labell"], "config.data.label='labell'"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(config, tmp_path, flags, expected):
    done = subprocess.run(command(config, tmp_path / "run", *flags), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert expected in errors[0]
    assert not (tmp_path / "run").exists()


def test_sigterm_saves_and_exits_0_and_the_same_command_continues(config, tmp_path):
    long = command(config, tmp_path / "run", "--config.total=200000 steps", "--config.log.every=1 steps")
    process = subprocess.Popen(long, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    stopped = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert not stopped["complete"]
    assert stopped["step"] >= 1
    assert "the same command continues it" in out
    process = subprocess.Popen(long, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "continues at update" in line:
            assert f"continues at update {stopped['step']}" in line
            break
    process.kill()
    process.communicate()
