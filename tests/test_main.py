"""The command line: one clear line and exit code 2 for what is wrong, SIGTERM saves and exits 0,
the same command continues.
"""

import json
import signal
import subprocess
import sys
import time

import pytest

from active_learning import main
from tests import world

CONFIG = """
from active_learning.core import policies
from active_learning.config import section
from active_learning.data.sources.arrays import Arrays
from active_learning.models import MLP
from active_learning.settings import Config, Evaluate, Reference, Select, Split

def get_config():
    return section(
        Config,
        data=section(Arrays, path={path!r}, label="label", clean_label="clean"),
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
    return [
        sys.executable,
        "-m",
        "active_learning.main",
        f"--config={config}",
        f"--workdir={workdir}",
        *flags,
    ]


# A child for each command line, forked when what takes long to import is there and before any
# device is.
FORKED = """
import json, os, runpy, sys, tempfile
import active_learning.train.loop

found = []
for arguments in json.loads(sys.argv[1]):
    with tempfile.TemporaryFile("w+") as said:
        if (child := os.fork()) == 0:
            os.dup2(said.fileno(), 2)
            sys.argv = ["main", *arguments]
            runpy.run_module("active_learning.main", run_name="__main__")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        said.seek(0)
        found.append((os.waitstatus_to_exitcode(status), said.read()))
print(json.dumps(found))
"""
WRONG = {
    "--config.select.ration=3": "ration",
    "--config.batch_size=many": "batch_size",
    "--config.select.ratio=0": "config.select.ratio=0",
    "--config.total=3 steps 2 epochs": "config.total='3 steps 2 epochs': two durations",
    "--config.data.path=/nowhere": "/nowhere/train.npz: no such file",
    "--config.select.rato=2": "config.select.rato: no such key; did you mean 'ratio'?",
    "--profile=4:2": "--profile=4:2: expected START:STOP",
    "--num_processes=2": "missing: --coordinator=HOST:PORT, --process_id",
    "--config.data.label=labell": "config.data.label='labell'",
    "--config=configs/foldr.py": "configs/foldr.py: no such file; did you mean 'folder.py'?",
    "--config=configs/folder.py:hard": "arm 'hard' after the colon: expected one "
    "of learnability, uniform",
}


@pytest.fixture(scope="module")
def refused(config):
    """By flag: exit code, and what the process wrote to stderr."""
    lines = [command(config, config.parent / "run", flag)[3:] for flag in WRONG]
    done = subprocess.run(
        [sys.executable, "-c", FORKED, json.dumps(lines)],
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip(WRONG, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("flag", WRONG)
def test_what_is_wrong_is_one_line_and_exit_code_2(config, refused, flag):
    code, text = refused[flag]
    assert code == 2, text
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert WRONG[flag] in errors[0]
    assert not (config.parent / "run").exists()


def test_sigterm_saves_and_exits_0_and_the_same_command_continues(config, tmp_path):
    long = command(
        config, tmp_path / "run", "--config.total=200000 steps", "--config.log.every=1 steps"
    )
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
    assert "rerun the same command to resume" in out
    process = subprocess.Popen(long, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    resumed = next((line for line in process.stderr if "resumes at update" in line), "")
    process.kill()
    process.communicate()
    assert f"resumes at update {stopped['step']}\n" in resumed


def test_names_of_ones_own_are_known_before_the_config_is_read(config, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from dataclasses import replace\n"
        "from active_learning.core import policies, select\n"
        "top_of_mine = replace(policies.hard, name='top_of_mine', select=select.top_k)\n"
    )
    flags = (f"--import={mine}", "--config.select.policy=top_of_mime")
    done = subprocess.run(
        command(config, tmp_path / "run", *flags), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "config.select.policy='top_of_mime': unknown; did you mean" in done.stderr
    assert "top_of_mine" in done.stderr


def test_plan_imports_modules_of_ones_own_first(config, capsys):
    from active_learning.plan import __main__ as plan

    assert plan.main([f"--config={config}", "--import=nowhere.py"]) == 2
    assert "--import=nowhere.py: FileNotFoundError" in capsys.readouterr().err


def test_a_reference_that_is_better_than_the_learner_is_named():
    summary = {"final": {"test_full/accuracy": 0.5}, "reference": {"accuracy": 0.5}}
    assert main._better_reference(summary) == ""
    summary["reference"] = {"accuracy": 0.51}
    assert "reaches 0.5100 on the test set" in main._better_reference(summary)
    assert main._better_reference({"final": {}, "reference": None}) == ""
