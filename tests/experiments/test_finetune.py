"""Budgets and the table of the fine-tuning experiment."""

import json

from experiments.finetune import RATES, Cost, best_rate
from experiments.readme import finetuned


def test_updates_of_a_budget_pay_what_is_paid_once_first():
    cost = Cost(once=100.0, update=2.0)
    assert cost.steps_for(500.0, least=1) == 200 and cost.of(200) == 500.0
    assert cost.steps_for(50.0, least=10) == 10


def test_the_rate_is_the_best_on_tune(tmp_path):
    file = tmp_path / "tune.json"
    assert best_rate(file) == sorted(RATES)[2]
    accuracies = dict(zip(RATES, (0.3, 0.2, 0.1, 0.0), strict=True))
    file.write_text(
        json.dumps({f"{r:g}": {"tune_full/accuracy": a} for r, a in accuracies.items()})
    )
    assert best_rate(file) == RATES[0]


def test_the_table_is_relative_to_uniform_and_paired_over_seeds():
    row = {"updates": 100, "total_flops": 10.0, "seconds": 4.0, "seeds": [1, 2]}
    row |= {"ema_accuracy": [0.5, 0.5]}
    rows = [
        row | {"arm": "uniform", "budget": "full", "accuracy": [0.40, 0.50]},
        row | {"arm": "heads", "budget": "half", "accuracy": [0.45], "seeds": [2], "seconds": 2.0},
    ]
    last = finetuned({"rows": rows}).splitlines()[-1]
    cells = [cell.strip() for cell in last.strip("|").split("|")]
    assert cells == ["heads", "half", "100", "1", "1.00", "0.50", "45.0", "50.0 ± 0.0", "-5.0"]
