"""Zero-shot accuracy, few-shot and linear probes by hand, and agreement with judgements."""

import gzip

import numpy as np
import pytest

from active_learning.data.sources.source import DataError
from active_learning.evaluators import Embedder, few_shot, human, zero_shot


class Words(Embedder):
    """Embeds a text's token ids, here its letters, by counting two of them."""

    def __init__(self):
        pass

    def texts(self, params, tokens):
        result = np.stack([(tokens == ord(letter)).sum(axis=1) for letter in "cd"], axis=1).astype(
            np.float32
        )
        return result / np.maximum(np.linalg.norm(result, axis=1, keepdims=True), 1e-8)


def encode(texts):
    return np.array([[ord(c) for c in text.ljust(12)] for text in texts])


def test_classes_are_the_mean_of_their_templates():
    classes = zero_shot.class_embeddings(Words(), None, ("c", "d"), ("{}", "{} d"), encode)
    half = np.array([1.0, 0.0]) / 2 + np.array([1.0, 1.0]) / np.sqrt(2) / 2
    np.testing.assert_allclose(classes, [half / np.linalg.norm(half), [0, 1]], rtol=1e-6)


def test_zero_shot_metrics_by_hand():
    images, classes = np.array([[1.0, 0.0], [0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), np.eye(2)
    result = zero_shot.zero_shot(images, classes, np.array([0, 0, 1, 1]))
    assert result == {"acc1": 0.75, "mean_per_class_recall": 0.75, "most_frequent": 0.5}


def test_top_five_by_hand():
    scores = np.array(
        [
            [9.0, 8, 7, 6, 5, 4],  # label 4 is fifth
            [9.0, 8, 7, 6, 5, 4],  # label 5 is sixth
            [1.0, 1, 1, 1, 1, 1],  # equal ones go by number: label 0 is first
            [1.0, 1, 1, 1, 1, 1],  # and label 5 sixth
        ]
    )
    labels = np.array([4, 5, 0, 5])
    places = zero_shot.label_places(scores, labels)
    assert places.tolist() == [4, 5, 0, 5]
    result = zero_shot.classification_metrics(places, labels, 6)
    # Classes 0, 4 and 5 occur; only class 0 is ever right.
    assert result == {"acc1": 0.25, "acc5": 0.5, "mean_per_class_recall": pytest.approx(1 / 3)}


def test_blocks_of_images_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    images, classes = rng.normal(size=(23, 4)), rng.normal(size=(7, 4))
    labels = rng.integers(0, 7, 23)
    whole = zero_shot.zero_shot(images, classes, labels)
    monkeypatch.setattr(zero_shot, "BLOCK", 20)
    assert zero_shot.zero_shot(images, classes, labels) == whole
    assert whole["acc1"] == np.mean((images @ classes.T).argmax(axis=1) == labels)


def test_few_shot_is_ridge_regression_and_uses_so_many_examples():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(3, 5)) * 4
    labels = np.repeat(np.array([1, 4, 7]), 30)
    features = centers[np.repeat(np.arange(3), 30)] + rng.normal(size=(90, 5))
    result = few_shot.few_shot((features, labels), (features, labels), shots=10)
    assert result["examples"] == 30
    assert result["acc1"] > 0.95
    # two points: w is known in closed form, x^T y / (x^T x + penalty), and its sign decides
    tiny = few_shot.few_shot(
        (np.array([[1.0], [-1.0]]), np.array([0, 1])),
        (np.array([[0.1], [-0.1], [3.0]]), np.array([0, 1, 1])),
    )
    assert tiny["acc1"] == pytest.approx(2 / 3)
    assert "acc5" not in tiny


def test_a_label_that_was_not_fitted_is_wrong():
    result = few_shot.few_shot(
        (np.array([[1.0], [-1.0]]), np.array([0, 1])), (np.array([[1.0], [1.0]]), np.array([0, 2]))
    )
    assert result["acc1"] == 0.5 and result["mean_per_class_recall"] == 0.5


def test_a_linear_probe_is_the_minimum_of_its_objective():
    # One standardized feature, two classes, points at +-1 with one label in four exchanged: the
    # logit difference d at +1 solves (sigmoid(d) - 3/4) + penalty * d / 2 = 0.
    features = np.array([[1.0]] * 4 + [[-1.0]] * 4)
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 0])
    penalty = 0.1
    logits = few_shot._fit(features, labels, 2, penalty, 100)(np.array([[1.0]]))
    d = float(logits[0, 0] - logits[0, 1])
    assert 1 / (1 + np.exp(-d)) - 0.75 + penalty * d / 2 == pytest.approx(0, abs=1e-4)


def test_a_linear_probe_chooses_its_penalty_without_the_test_set():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 6, 300)
    features = np.eye(6)[labels] * 2 + rng.normal(size=(300, 6)) * 0.3
    result = few_shot.linear_probe((features[:200], labels[:200]), (features[200:], labels[200:]))
    assert result["lp_acc1"] > 0.95 and result["lp_acc5"] >= result["lp_acc1"]
    assert result["penalty"] in few_shot.PENALTIES
    other = few_shot.linear_probe((features[:200], labels[:200]), (features[:7], labels[:7]))
    assert other["penalty"] == result["penalty"]


def test_judgements_of_both_kinds_are_read_and_compared(tmp_path):
    lines = [
        "a.jpg\tb.jpg#2\t1\t1\t2",
        "a.jpg\ta.jpg#0\t4\t4\t3",
        "c.jpg\tc.jpg#1\t1\t3\t0",
        "c.jpg\ta.jpg#4\t0.25\t1\t3",
    ]
    (tmp_path / "x.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    result = human.read_judgements(tmp_path / "x.txt.gz")
    assert result == [
        ("a.jpg", "b.jpg", 2, pytest.approx(4 / 3)),
        ("a.jpg", "a.jpg", 0, pytest.approx(11 / 3)),
        ("c.jpg", "c.jpg", 1, 1.0),
        ("c.jpg", "a.jpg", 4, 0.25),
    ]
    (tmp_path / "bad.txt").write_text("a.jpg b.jpg\n")
    with pytest.raises(DataError, match="line 1 is no judgement"):
        human.read_judgements(tmp_path / "bad.txt")
    same = human.agreement(np.array([0.1, 0.2, 0.3]), np.array([1.0, 2.0, 3.0]))
    assert same == {"tau_b": 1.0, "tau_c": 1.0, "judgements": 3.0}
    assert human.agreement(np.array([0.3, 0.2, 0.1]), np.array([1.0, 2.0, 3.0]))["tau_b"] == -1.0
