"""The tables of docs/curate.md are those of the committed results."""

import json
from pathlib import Path

import pytest

from experiments import curate, curate_circle

DOCS = Path(__file__).resolve().parents[2] / "docs" / "curate.md"


@pytest.mark.parametrize("table", [curate.auc_table, curate.planted_table, curate_circle.table])
def test_docs_hold_the_tables_of_the_results(table):
    assert table() in DOCS.read_text()


def test_every_interval_contains_the_truth():
    result = json.loads(curate.RESULTS.read_text())["estimates"]
    assert len(result) == 27 and all(one["contains"] for one in result.values())
    wide = {n: o["high"] - o["low"] for n, o in result.items() if n.startswith("strong")}
    assert sum(width <= 0.15 for width in wide.values()) >= 8
