"""A run folder from a stranger cannot run code: every command prints one line and exits with 2."""

import json

import pytest

from active_learning import evaluate, export, store_scores
from active_learning.config import ConfigError
from active_learning.report.__main__ import main as report
from active_learning.train import loop
from tests import world

PAYLOADS = {
    "os:system": {"import": "os:system"},
    "subprocess:run": {"type": "subprocess:run", "args": ["touch", "canary"]},
    "builtins:eval": {"function": "builtins:eval"},
    "partial": {"function": "os.system", "keywords": {"command": "touch canary"}},
    "a class of another module": {"kind": "subprocess.Popen", "args": ["touch", "canary"]},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(config, folder) of a finished run."""
    data = tmp_path_factory.mktemp("arrays")
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = world.config(world.write_arrays(data), select=world.Select(), total="2 steps")
    assert loop.run(config, folder)["complete"]
    return config, folder


@pytest.fixture(params=PAYLOADS, ids=lambda name: name.replace(" ", "_"))
def hostile(run, request, monkeypatch, tmp_path):
    """The finished run with a payload as its learner, and as its policy."""
    _, folder = run
    path = folder / "config.json"
    good = path.read_text()
    content = json.loads(good)
    content["config"]["learner"] = PAYLOADS[request.param]
    content["config"]["select"]["policy"] = PAYLOADS[request.param]
    path.write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    yield folder
    path.write_text(good)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "command",
    [
        lambda folder, out: evaluate.main([str(folder)]),
        lambda folder, out: export.main([str(folder), str(out / "weights")]),
        lambda folder, out: store_scores.main([str(folder)]),
    ],
    ids=["evaluate", "export", "store_scores"],
)
def test_a_command_on_a_strangers_run_prints_one_line(hostile, command, tmp_path, capsys):
    assert command(hostile, tmp_path) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def test_resuming_a_strangers_run_constructs_nothing_of_it(run, hostile):
    config, folder = run
    assert loop.run(config, folder)["complete"]  # The config comes from its file, not the folder.


def test_the_report_of_a_strangers_run_is_text(hostile, tmp_path, capsys):
    assert report([str(hostile), "--out", str(tmp_path / "report")]) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


def test_a_run_of_the_old_form_says_what_to_do(run):
    _, folder = run
    path = folder / "config.json"
    good = path.read_text()
    content = json.loads(good)
    del content["format"]
    path.write_text(json.dumps(content))
    try:
        with pytest.raises(ConfigError, match="written in config format 1, this version reads 2"):
            evaluate.evaluate(folder)
    finally:
        path.write_text(good)
