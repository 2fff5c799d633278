"""The ledger by hand, against the paper's own bars and the design's closed form."""

from dataclasses import dataclass

import pytest

from active_learning.cost import ledger


@dataclass
class Cost:
    forward: float
    first: float = 0.0
    recompute: float = 0.0

    @property
    def train(self):
        return 3 * self.forward - self.first


LEARNER, SCORER = Cost(1000.0, 100.0, 7.0), Cost(10.0, 1.0)


def test_a_learnability_step_charges_each_account_once():
    costs = ledger.step_costs(LEARNER, SCORER, ("online", "reference"), b=4, ratio=5)
    assert costs == {
        "learner_train": 4 * 2900.0,
        "recompute": 4 * 7.0,
        "online_score": 20 * 10.0,
        "online_train": 4 * 29.0,
        "reference_score": 20 * 10.0,
    }


def test_a_uniform_step_charges_the_learner_only():
    assert ledger.step_costs(LEARNER, SCORER, (), b=4, ratio=5) == {
        "learner_train": 4 * 2900.0,
        "recompute": 28.0,
    }


def test_a_learner_that_scores_is_charged_for_the_super_batch():
    assert (
        ledger.step_costs(LEARNER, SCORER, ("learner",), b=4, ratio=5)["learner_train"]
        == 4 * 2900.0 + 20 * 1000.0
    )


def test_charges_add_up_and_an_unknown_account_is_refused():
    book = ledger.Ledger()
    book.charge({"learner_train": 2.0, "reference_score": 3.0}, times=4)
    book.charge({"reference_train": 5.0})
    assert book.flops["learner_train"] == 8.0
    assert book.total == 8.0 + 12.0 + 5.0
    with pytest.raises(KeyError):
        book.charge({"online_scoring": 1.0})


def test_the_ledger_survives_its_json():
    book = ledger.Ledger(step=3, examples=12, candidates=60, train_seconds=1.5, window_steps=2)
    book.charge({"online_score": 7.0})
    assert ledger.Ledger.from_dict(book.as_dict()) == book


def test_closed_form_agrees_with_the_ledger_under_the_three_forward_convention():
    learner, scorer, b, ratio, total, window, beta_steps = (
        Cost(1000.0),
        Cost(20.0),
        8,
        5,
        1000,
        300,
        600,
    )
    book = ledger.Ledger()
    book.charge(ledger.step_costs(learner, scorer, ("online", "reference"), b, ratio), window)
    book.charge(ledger.step_costs(learner, scorer, (), b, ratio), beta_steps - window)
    book.charge({"reference_train": 2000 * b * scorer.train})
    uniform = total * b * learner.train
    expected = ledger.closed_form(beta_steps / total, window / total, 0.02, ratio, 2000 / total)
    assert book.total / uniform == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("r", "ratio", "kappa", "expected"),
    [
        (0.02, 2, 1, 0.94),
        (0.07, 2, 1, 0.80),
        (0.07, 2, 0, 0.86),
        (0.29, 2, 1, 0.42),
        (0.10, 5, 1, 0.63),
        (0.10, 10, 1, 0.51),
    ],
)
def test_break_even_table(r, ratio, kappa, expected):
    assert ledger.break_even(r, ratio, kappa) == pytest.approx(expected, abs=0.006)


def test_the_papers_bar_of_a_vit_b_scorer():
    """Figure of the paper (ViT-B scores for ViT-L): 0.69 learner, 1.45 in all without
    amortisation.
    """
    assert ledger.closed_form(0.691, 0.691, 0.286, 2, 1) == pytest.approx(1.45, abs=0.02)
