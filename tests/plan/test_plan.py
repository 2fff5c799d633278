"""The plan: costs and break-even by hand, the printed lines, and what cannot be planned."""

import dataclasses

import pytest

from active_learning.core import policies
from active_learning.cost import ledger
from active_learning.cost.flops import Cost
from active_learning.plan import __main__ as plan
from active_learning.plan.advice import advice_lines
from active_learning.plan.cost_model import CostModel, cost_model_of
from active_learning.plan.diagnostics import diagnose_reference, diagnostics_lines
from active_learning.references import Loaded, Trained
from active_learning.settings import Select
from active_learning.train import loop
from active_learning.train.build import build
from tests import world
from tests.models.weights import sparse

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax"),
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),  # ml_collections
]
LEARNER, SCORER = Cost(1000.0), Cost(20.0)
MODEL = CostModel(
    updates=1000,
    window_updates=1000,
    batch_size=8,
    ratio=2,
    learner=LEARNER,
    scorer=SCORER,
    policy=policies.learnability,
    references=1,
    cotrained=False,
    reference_flops=1000 * 8 * SCORER.train,
)


@pytest.mark.parametrize("ratio", [2, 5, 10])
def test_break_even_is_the_closed_form_in_the_three_forward_convention(ratio):
    assert MODEL.break_even(ratio, "none") == pytest.approx(ledger.break_even(0.02, ratio, 1.0))
    assert MODEL.break_even(ratio, "pretrained") == pytest.approx(
        ledger.break_even(0.02, ratio, 0.0)
    )
    assert MODEL.break_even(ratio, "foundation dataset") == pytest.approx(
        ledger.break_even(0.02, ratio, 0.0, scorers=1)
    )
    assert MODEL.break_even(ratio, "replayed policy") == 1.0


def test_a_window_and_a_larger_scorer_by_hand():
    half = dataclasses.replace(MODEL, window_updates=500)
    extra = 0.5 * (2 * 2 * 20 + 3 * 20) / 3000
    assert half.break_even(2, "pretrained") == pytest.approx(1 / (1 + extra))
    assert MODEL.break_even(2, "none", Cost(100.0)) == pytest.approx(ledger.break_even(0.1, 2, 1.0))
    cotrained = dataclasses.replace(MODEL, cotrained=True, reference_flops=0.0)
    assert cotrained.break_even(2, "none") == pytest.approx(
        1 / (1 + (2 * 2 * 20 + 3 * 20 + 2 * 60) / 3000)
    )
    assert cotrained.break_even(2, "pretrained") == MODEL.break_even(2, "pretrained")


def test_the_costs_of_a_config_are_those_of_its_run(tmp_path):
    data = world.write_arrays(tmp_path)
    config = world.config(data)
    experiment = build(config)
    model = cost_model_of(config, experiment.learner, experiment.scorer, 400, (8, 8, 3))
    assert model.accounts() == loop.run(config, tmp_path / "run")["flops"]


def test_a_loaded_reference_costs_what_its_run_did(tmp_path):
    data = world.write_arrays(tmp_path)
    trained = loop.run(world.own_run(world.config(data)), tmp_path / "reference")
    for charge, paid in ((True, ledger.total(trained["flops"])), (False, 0.0)):
        loaded = Loaded(path=str(tmp_path / "reference"), charge=charge)
        experiment = build(world.config(data, reference=loaded))
        model = cost_model_of(
            experiment.config,
            experiment.learner,
            experiment.scorer,
            len(experiment.data.train),
            (8, 8, 3),
        )
        assert model.reference_flops == paid


def test_a_reference_is_diagnosed_and_advice_given(tmp_path, capsys):
    data = world.write_arrays(tmp_path)
    config = world.config(data)
    loop.run(config.reference.own_runs(config)[""], tmp_path / "reference")
    experiment = build(config)
    result = diagnose_reference(experiment, tmp_path / "reference")
    assert result.clean_agreement > 0.25 and 0.2 < result.corrupted_pool < 0.4
    assert 0 < result.ess_fraction <= 1
    model = cost_model_of(config, experiment.learner, experiment.scorer, 400, (8, 8, 3))
    text = "\n".join([*diagnostics_lines(result), *advice_lines(model, result, 4)])
    assert f"accuracy on the gate                 {result.gate_accuracy:.1%}" in text
    assert f"less than {model.break_even(4, 'none'):.0%} of uniform's updates" in text
    assert "below 15x scoring uses up most of the savings" in text
    assert "avoids corrupted labels" in text or "does not avoid" in text
    noise = dataclasses.replace(
        result, agreement=0.3, ess_fraction=0.95, corrupted_selected=result.corrupted_pool
    )
    text = "\n".join(advice_lines(model, noise, 4))
    assert (
        "so its scores are noise" in text
        and "nearly uniform" in text
        and "does not avoid corrupted labels" in text
    )


def test_the_papers_setting_is_planned_without_its_data(capsys, monkeypatch):
    monkeypatch.delenv("ACTIVE_LEARNING_DATA", raising=False)
    assert (
        plan.main(["--config=configs/classact_vit_l.py", "--classes=18291", "--examples=300000000"])
        == 0
    )
    printed = capsys.readouterr().out
    assert "planned for 300,000,000 images of 224 px in 18,291 classes" in printed
    assert "whether selection breaks even depends on the data" in printed
    (row,) = [
        line.split() for line in printed.splitlines() if line.split()[:3] == ["ViT-Ti", "49x", "2"]
    ]
    assert float(row[3]) == pytest.approx(0.94, abs=0.011)  # the paper's ratio and scorer


def test_uniform_has_nothing_to_break_even(tmp_path):
    config = world.config(world.write_arrays(tmp_path), select=Select(), reference=Trained())
    experiment = build(config)
    model = cost_model_of(config, experiment.learner, experiment.scorer, 400, (8, 8, 3))
    assert list(advice_lines(model, None, 4))[-1].startswith("advice: uniform training")
    assert model.accounts()["reference_train"] == 0.0


def test_what_cannot_be_planned_is_one_line(capsys):
    assert plan.main([]) == 2
    assert capsys.readouterr().err == "error: --config=FILE is missing: the config to plan\n"
    assert plan.main(["--config=configs/shapes.py", "--config.batchsize=3"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("config", "rematerializes"),
    [
        ("activeclip_vit_b.py", True),
        ("activesiglip_vit_b.py:published", True),
        ("jest_vit_b.py", True),
        ("jest_vit_b.py:cheap", True),
        ("classact_vit_l.py:mu", False),
    ],
)
def test_pod_configs_are_planned_without_data(config, rematerializes, capsys, monkeypatch):
    monkeypatch.delenv("ACTIVE_LEARNING_DATA", raising=False)
    assert plan.main([f"--config=configs/{config}", "--examples=1000000000"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "recompute" in line]
    # Two-towers compute the whole forward pass of the learner again: a third of an update.
    fraction = float(line.split()[-4].rstrip("%")) / 100
    assert (fraction > 0.3) == rematerializes


def test_the_bill_of_a_published_vit_b_with_each_of_three_scorers(tmp_path, capsys):
    """A third of the FLOPs of 10 epochs over 0.7 of the examples, for all: 1 / 0.7 / 30 = 4.8 %."""
    weights = sparse.write(tmp_path / "vit", sparse.vit("B"))
    argv = ["--config=configs/finetune.py", f"--config.learner.path={weights}"]
    assert plan.main(argv) == 0
    out = capsys.readouterr().out
    table, bill = out.split("break-even:")[1].split("bill with each scorer")
    for name in ("this config's", "on features", "ViT-Ti", "ViT-S"):
        assert table.count(f"  {name} ") == 4 and bill.count(f"  {name} ") == 1
    (line,) = [line for line in bill.splitlines() if "on features" in line]
    once, total = line.split()[-3], line.split()[-1]
    assert (once, total) == ("4.8%", "104.8%")
