"""The notebooks match their text form, set themselves up anywhere, and run on the package alone."""

import ast
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
SHORTER = {  # one value of each sweep is enough here
    "(0.1, 0.5, 2.0)": "(0.5,)",
    "(2, 4, 8)": "(2,)",
    '("20 %", "60 %", "100 %")': '("20 %",)',
    "(8, 32, 128)": "(8,)",
}
RUNNER = """
import json, sys
from pathlib import Path
import matplotlib
matplotlib.use("Agg")
# An editable install also puts the rest of the repository on the path.
sys.path[:] = [p for p in sys.path if not (Path(p or ".") / "experiments").is_dir()]
space = {"__name__": "__main__"}
for source in json.loads(Path(sys.argv[1]).read_text()):
    exec(compile(source, "cell", "exec"), space)
import active_learning
assert Path(active_learning.__file__).parent == Path(sys.argv[2]), active_learning.__file__
accuracies = [s["final"]["test_full/accuracy"] if isinstance(s, dict) else s[0]
              for s in space["results"].values()]
print(json.dumps(accuracies))
"""


def cells(name: str) -> list[str]:
    """Sources of the code cells."""
    notebook = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())
    assert notebook["nbformat"] == 4
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """What a wheel of the package puts into site-packages."""
    site = tmp_path_factory.mktemp("site")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "active_learning", site / "active_learning", ignore=ignore)
    return site


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_from_an_empty_folder_with_only_the_package(name, site, tmp_path):
    sources = cells(name)
    for long, short in SHORTER.items():
        sources = [source.replace(long, short) for source in sources]
    (tmp_path / "cells.json").write_text(json.dumps(sources))
    (tmp_path / "runner.py").write_text(RUNNER)
    (tmp_path / "empty").mkdir()
    environment = {
        name: value for name, value in os.environ.items() if name != "ACTIVE_LEARNING_DATA"
    } | {"PYTHONPATH": str(site), "NOTEBOOK_STEPS": "20", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [
            *(sys.executable, tmp_path / "runner.py"),
            *(tmp_path / "cells.json", site / "active_learning"),
        ],
        cwd=tmp_path / "empty",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    accuracies = json.loads(done.stdout.splitlines()[-1])
    expected = {"ablations": 4, "your_own_policy": 3, "reading_a_run": 2, "finetune": 2}
    assert len(accuracies) == expected.get(name, len(accuracies))
    assert accuracies and all(0 <= accuracy <= 1 for accuracy in accuracies)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_cell_finds_or_installs_the_package(name, monkeypatch, tmp_path):
    import importlib.util

    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]

    def setup(folder: Path) -> list:
        commands.clear()
        monkeypatch.chdir(folder)
        exec(compile(cells(name)[0], name, "exec"), {})
        return [command[-1] for command in commands]

    assert setup(tmp_path) == []  # importable: nothing is installed
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert setup(NOTEBOOKS) == [str(ROOT)]
    assert setup(tmp_path) == [f"git+{address}"]
    assert all("==" not in part for command in commands for part in command)  # pins nothing


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_its_text_form(name):
    import jupytext

    text = jupytext.read(NOTEBOOKS / f"{name}.py")
    code = ["".join(cell["source"]) for cell in text.cells if cell["cell_type"] == "code"]
    assert code == cells(name)


def test_the_policy_has_at_most_fifteen_lines():
    (cell,) = [source for source in cells("your_own_policy") if "Policy(" in source]
    body = [line for line in cell.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(body) <= 15
    assert ast.parse(cell)
