"""Figures, and the bill at the levels of amortisation."""

import json
import os
import re
import subprocess
import sys

import pytest
from matplotlib.figure import Figure

from active_learning.config import to_json
from active_learning.core import policies
from active_learning.references import CoTrained, Loaded, Stored, Trained
from active_learning.report import charts
from active_learning.report.__main__ import main
from active_learning.report.analysis import analyze
from active_learning.report.runs import load_runs
from active_learning.settings import Select
from tests.report.folders import write_run, write_uniform

FIVE = {
    "learner_train": 50.0,
    "online_score": 1.0,
    "online_train": 2.0,
    "reference_score": 4.0,
    "reference_train": 8.0,
}
# A select and a reference section, accounts that such a run leaves empty, and what it tells of the
# four levels.
KINDS = {
    "trained": (Select(policy=policies.learnability), Trained(), (), (50, 53, 57, 65)),
    "stored": (
        Select(policy=policies.learnability),
        Stored(path="s.npz"),
        ("reference_score", "reference_train"),
        (50, 53, None, None),
    ),
    "published": (
        Select(policy=policies.learnability),
        Loaded(path="w.npz"),
        ("reference_train",),
        (50, 53, 57, None),
    ),
    "co-trained": (
        Select(policy=policies.learnability),
        CoTrained(),
        (),
        (50, None, None, 65),
    ),
    "replayed": (Select(replay="run"), Trained(), tuple(FIVE)[1:], (50, None, None, None)),
    "rho": (
        Select(policy=policies.rho),
        Trained(),
        ("online_score", "online_train"),
        (None, 50, 54, 62),
    ),
    "hard_learner": (
        Select(policy=policies.hard_learner),
        Stored(path="s.npz"),
        tuple(FIVE)[1:],
        (None, 50, 50, 50),
    ),
    "filtered": (
        Select(policy=policies.offline_filter),
        Stored(path="s.npz"),
        tuple(FIVE)[1:],
        (50, 50, None, None),
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_level_that_a_run_says_nothing_of_has_no_cost(tmp_path, name):
    select, reference, empty, expected = KINDS[name]
    folder = write_run(write_uniform(tmp_path), name, 50, 1, [0.3, 0.6])
    config, summary = (
        json.loads((folder / file).read_text()) for file in ("config.json", "summary.json")
    )
    config["config"] = {"select": to_json(select), "reference": to_json(reference)}
    summary["flops"] = FIVE | dict.fromkeys(empty, 0.0)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "summary.json").write_text(json.dumps(summary))
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    page, told = ((tmp_path / "out" / file).read_text() for file in ("index.html", "report.json"))
    told = json.loads(told)["amortization"][name]
    assert list(told.values()) == [
        None if value is None else pytest.approx(value / 100) for value in expected
    ]
    cells = re.search(rf'<th scope="row">{name}</th>((?:<td>[^<]*</td>){{4}})</tr>', page)[1]
    words = ["–" if value is None else f"{value / 100:.2f}×" for value in expected]
    assert re.findall("<td>([^<]*)</td>", cells) == words


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved."""
    metrics, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda self, *args, **words: (metrics.append(self), save(self, *args, **words)),
    )
    return metrics


def test_of_many_arms_the_figure_shows_those_with_enough_budgets(tmp_path, drawn):
    write_uniform(tmp_path)
    for n in range(6):
        write_run(tmp_path, f"control {n}", 50, 1, [0.3, 0.6])
    for steps in (40, 50, 60, 70):
        write_run(tmp_path, "learn", steps, 1, [0.3, 0.6])
    charts.main_png(analyze(load_runs([tmp_path])), "Title")
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["uniform", "learn"]


@pytest.mark.parametrize(
    ("names", "columns"),
    [(["a", "b", "c"], 4), ([f"control: {'long ' * 7}name {n}" for n in range(10)], 3)],
)
def test_every_name_of_the_figures_legend_is_inside_it(tmp_path, drawn, names, columns):
    write_uniform(tmp_path)
    for name in names:
        write_run(tmp_path, name, 50, 1, [0.3, 0.6])
    assert charts.main_png(analyze(load_runs([tmp_path])), "Title").startswith(b"\x89PNG")
    (figure,) = drawn
    figure.draw_without_rendering()  # places everything at the figure's own resolution
    (legend,) = figure.legends
    texts = [text.get_window_extent() for text in legend.get_texts()]
    assert [text.get_text() for text in legend.get_texts()] == ["uniform", *names]
    assert len({round(text.x0) for text in texts}) == columns
    assert all(
        figure.bbox.x0 <= text.x0 and text.x1 <= figure.bbox.x1 and text.y0 >= 0 for text in texts
    )


def test_a_figure_written_twice_is_the_same_file(tmp_path):
    for folder in ("first", "second"):
        figure = Figure()
        figure.add_subplot().plot([0, 1], "o", label="points")
        (tmp_path / folder).mkdir()
        charts.save_svg(figure, tmp_path / folder / "figure.svg")
    assert (tmp_path / "first" / "figure.svg").read_bytes() == (
        tmp_path / "second" / "figure.svg"
    ).read_bytes()


def test_a_backend_of_a_notebook_that_is_not_installed_is_no_error():
    command = [sys.executable, "-c", "import active_learning.report.charts"]
    environment = os.environ | {"MPLBACKEND": "module://of_some_notebook.backend"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
