"""The notebooks: valid, in step with their text form, and every cell runs."""

import ast
import json
from pathlib import Path

import jax
import matplotlib
import pytest

matplotlib.use("Agg")
NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
NAMES = ("your_own_policy", "ablations")
SWEEPS = {
    "(0.1, 0.5, 2.0)": 0.5,
    "(2, 4, 8)": 2,
    '("20 %", "60 %", "100 %")': "20 %",
    "(8, 32, 128)": 8,
}  # one value each is enough here
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax")


def cells(name: str) -> list[str]:
    notebook = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())
    assert notebook["nbformat"] == 4
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_runs(name, monkeypatch, tmp_path):
    import matplotlib.pyplot as plt

    one = jax.devices()[:1]  # what a notebook is opened on; compiles in half the time
    monkeypatch.setattr(jax, "devices", lambda: one)
    monkeypatch.setenv("NOTEBOOK_STEPS", "20")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    space = {"__name__": "__main__"}
    for source in cells(name):
        for values, value in SWEEPS.items():
            source = source.replace(values, f"({value!r},)")
        exec(compile(source, name, "exec"), space)
    plt.close("all")
    accuracies = [
        s["final"]["test_full/accuracy"] if name == "your_own_policy" else s[0]
        for s in space["results"].values()
    ]
    assert len(accuracies) == {"your_own_policy": 3, "ablations": 4}[name]
    assert all(0 <= a <= 1 for a in accuracies)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_its_text_form(name):
    import jupytext

    text = jupytext.read(NOTEBOOKS / f"{name}.py")
    assert ["".join(cell["source"]) for cell in text.cells if cell["cell_type"] == "code"] == cells(
        name
    )


def test_the_policy_has_at_most_fifteen_lines():
    (cell,) = [source for source in cells("your_own_policy") if "Policy(" in source]
    body = [line for line in cell.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(body) <= 15
    assert ast.parse(cell)
