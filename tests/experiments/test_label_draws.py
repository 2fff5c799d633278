"""The table of what kernel references say of the labels."""

import numpy as np

from experiments import label_draws


def test_the_table_counts_by_how_labels_are_given():
    def row(labels, truth, estimate, contains, decision):
        about = {"labels": labels, "truth": truth, "estimate": estimate}
        return about | {"contains": contains, "decision": decision}

    rows = [
        row("clean", 0.0, 0.02, True, "little"),
        row("40% replaced", 0.41, 0.5, True, "select"),
        row("40% replaced", 0.39, 0.3, False, "select"),
        row("clean", 0.0, 0.09, True, "none"),
    ]
    lines = label_draws.table({"draws": rows}).splitlines()
    assert lines[2:] == [
        "| clean | 0 | 2 | 2 | 2 to 9 | 0 |",
        "| 40% replaced | 40 | 2 | 1 | 30 to 50 | 2 |",
    ]


def test_clean_labels_that_images_tell_are_no_reason_and_wrong_ones_are():
    """Two thousand and more examples whose features are their classes."""
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 10, 2500)
    features = np.eye(16, dtype=np.float32)[clean] + rng.normal(0, 0.05, (2500, 16))
    features = features.astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    wrong = np.where(rng.random(2500) < 0.4, (clean + 1) % 10, clean)
    certain, doubted = (label_draws.asked(features, one, 64) for one in (clean, wrong))
    assert certain.corrupted.high < 0.02 and certain.agreement.value > 0.99
    assert doubted.corrupted.low < 0.4 < doubted.corrupted.high
    assert abs(doubted.corrupted.value - 0.4) < 0.03
