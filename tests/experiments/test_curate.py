"""The tables of docs/curate.md are those of the committed results."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments import curate, curate_circle, curate_humans

DOCS = Path(__file__).resolve().parents[2] / "docs" / "curate.md"


@pytest.mark.parametrize(
    "table",
    [curate.auc_table, curate.planted_table, curate.human_table, curate_circle.table],
)
def test_docs_hold_the_tables_of_the_results(table):
    assert table() in DOCS.read_text()


def test_every_interval_contains_the_truth():
    result = json.loads(curate.RESULTS.read_text())["estimates"]
    assert len(result) == 27 and all(one["contains"] for one in result.values())
    wide = {n: o["high"] - o["low"] for n, o in result.items() if n.startswith("strong")}
    assert sum(width <= 0.15 for width in wide.values()) >= 8


def test_labels_are_drawn_from_the_votes_in_proportion():
    counts = np.array([[3, 1, 0], [0, 0, 5]])
    drawn = np.array([curate_humans.drawn_labels(counts, seed) for seed in range(2000)])
    assert set(drawn[:, 1]) == {2} and set(drawn[:, 0]) == {0, 1}
    assert abs((drawn[:, 0] == 0).mean() - 0.75) < 0.04  # four standard errors


def test_entropy_of_two_equal_votes_is_the_logarithm_of_two():
    assert curate_humans.entropy(np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])) == pytest.approx(
        [np.log(2), 0.0]
    )
