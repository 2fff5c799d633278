"""Command lines: one line for what cannot be read, and the nearest flag."""

import pytest

from active_learning import curate, evaluate, export, prepare, store_scores, weights
from active_learning.arguments import Parser, number, path
from active_learning.plan import __main__ as plan
from active_learning.report import __main__ as report

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # absl

# A right command line of each command but for what a test adds.
COMMANDS = {
    "curate": (curate.main, ["source", "out"]),
    "evaluate": (evaluate.main, ["run"]),
    "export": (export.main, ["run", "out"]),
    "plan": (plan.main, ["--config=configs/arrays.py"]),
    "prepare": (prepare.main, ["source", "out"]),
    "report": (report.main, ["run"]),
    "store_scores": (store_scores.main, ["run"]),
    "weights": (weights.main, ["file"]),
}


def refused(command, arguments, capsys) -> str:
    """The one line with which a command refuses its arguments."""
    with pytest.raises(SystemExit) as end:
        command(arguments)
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_flag_is_one_line(name, capsys):
    command, right = COMMANDS[name]
    assert "'--nosuch=3' is not a flag" in refused(command, [*right, "--nosuch=3"], capsys)


@pytest.mark.parametrize(
    ("name", "word", "meant"),
    [
        ("curate", "--fold=3", "--folds"),
        ("evaluate", "--sett=test", "--set"),
        ("evaluate", "model=online", "--model=online"),
        ("export", "--fromat=own", "--format"),
        ("plan", "--topolgy=v5e:16x16", "--topology"),
        ("prepare", "--smal=64", "--small"),
        ("prepare", "small=64", "--small=64"),
        ("report", "--titel=x", "--title"),
        ("store_scores", "out=x.npz", "--out=x.npz"),
        ("weights", "--head=3", "--heads"),
    ],
)
def test_the_nearest_flag_is_named(name, word, meant, capsys):
    command, right = COMMANDS[name]
    assert f"did you mean {meant}?" in refused(command, [*right, word], capsys)


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("curate", "folds"),
        ("curate", "minutes"),
        ("curate", "repeats"),
        ("plan", "image-size"),
        ("plan", "classes"),
        ("plan", "examples"),
        ("plan", "mfu"),
        ("prepare", "threads"),
        ("prepare", "limits"),
        ("weights", "heads"),
    ],
)
@pytest.mark.parametrize("value", ["nan", "inf", "1e400", "-1", "abc", "", "99999999999999999999"])
def test_numbers_of_flags_have_ranges(name, flag, value, capsys):
    command, right = COMMANDS[name]
    line = refused(command, [*right, f"--{flag}={value}"], capsys)
    assert f"--{flag}" in line and repr(value) in line


def test_keys_of_a_config_need_its_file(capsys):
    line = refused(prepare.main, ["source", "out", "--config.data.size=8"], capsys)
    assert line.endswith("keys of a config need --config=FILE")


def test_paths_of_flags(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert path("~/run") == tmp_path / "run"
    assert path("file:///a%20b/c").as_posix() == "/a b/c"
    for word in ("s3://bucket/run", "", "a\0b"):
        parser = Parser("active_learning.x", "")
        parser.add_argument("run", type=path)
        refused(parser.parse_args, [word], capsys)


@pytest.mark.parametrize("command", [prepare.main, curate.main])
@pytest.mark.parametrize("out", ["s3://bucket/out", "https://h/out", "", "a\0b", "~nosuchuser/out"])
def test_the_folder_to_write_must_be_local(command, out, capsys):
    assert refused(command, ["source", out], capsys).startswith("error: OUT: ")


def test_a_number_within_its_range():
    assert number(int, 1, 4)("4") == 4
    assert number(float, 0, 1)("1e-3") == 0.001
