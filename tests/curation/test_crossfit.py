"""Cross-fitting: no example is judged by a model that saw it, and a stopped process continues."""

import numpy as np
import pytest

from active_learning.curation import crossfit, kernel, scores, trained
from active_learning.curation.folds import assign_folds
from active_learning.models import MLP
from active_learning.storage.pieces import Pieces, signature

CLASSES = 3
SMALL = crossfit.CrossFit(
    folds=3,
    repeats=1,
    width=8,
    kernel=kernel.KernelSettings(landmarks=40),
    training=trained.Training(epochs=2, batch_size=16, checkpoints=2),
)


def blobs(n=90, seed=0, noise=0.2):
    """Unit vectors around three axes, true and given labels."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % CLASSES
    features = np.eye(6)[truth] + 0.3 * rng.normal(size=(n, 6))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    given = np.where(rng.random(n) < noise, (truth + 1) % CLASSES, truth)
    return features.astype(np.float32), truth, given


def examples(n=90):
    features, _, given = blobs(n)
    return crossfit.Examples(features, given, CLASSES, np.arange(n))


def test_folds_are_stratified_and_keep_copies_together():
    labels = np.repeat([0, 1], [40, 20])
    groups = np.arange(60)
    groups[[3, 17, 55]] = 3
    folds = assign_folds(labels, groups, 5, 0)
    assert len({folds[3], folds[17], folds[55]}) == 1
    alone = np.setdiff1d(np.arange(60), [17, 55])
    for label, count in ((0, 39), (1, 19)):
        sizes = np.bincount(folds[alone][labels[alone] == label], minlength=5)
        assert sizes.sum() == count and sizes.max() - sizes.min() <= 1
    assert (assign_folds(labels, groups, 5, 0) == folds).all()
    assert (assign_folds(labels, groups, 5, 1) != folds).any()
    with pytest.raises(ValueError, match="5 folds of 1 different"):
        assign_folds(labels, np.zeros(60, int), 5, 0)


def test_kernel_outputs_equal_the_closed_form_on_the_training_rows():
    features, _, given = blobs(60)
    settings = kernel.KernelSettings(landmarks=60, width=0.5, ridge=0.7)
    mapped = kernel.kernel_map(features, settings, 0)
    held = np.arange(60) % 4 == 1
    result = kernel.held_out_outputs(mapped, given, CLASSES, held, settings.ridge)
    gram = np.exp((features @ features.T - 1) / settings.width)
    targets = np.eye(CLASSES)[given] - 1 / CLASSES
    inside = gram[np.ix_(~held, ~held)] + settings.ridge * np.eye((~held).sum())
    expected = gram[np.ix_(held, ~held)] @ np.linalg.solve(inside, targets[~held]) + 1 / CLASSES
    np.testing.assert_allclose(result, expected, atol=0.02)  # the landmarks' jitter


def test_a_held_out_label_does_not_reach_its_own_prediction():
    features, _, given = blobs(60)
    held = np.arange(60) % 4 == 1
    mapped = kernel.kernel_map(features, kernel.KernelSettings(landmarks=60), 0)
    other = np.where(held, (given + 1) % CLASSES, given)
    one, two = (kernel.held_out_outputs(mapped, y, CLASSES, held, 1.0) for y in (given, other))
    np.testing.assert_allclose(one, two, atol=1e-5)
    model, training = MLP(num_classes=CLASSES, width=8, depth=1), SMALL.training
    inputs = features[:, None, None]
    one, two = (
        trained.train_folds(model, training, inputs, y, held[None], 0)[0].logits
        for y in (given, other)
    )
    np.testing.assert_array_equal(one, two)


def test_folds_trained_together_equal_folds_trained_alone():
    features, _, given = blobs(60)
    held = np.stack([np.arange(60) % 3 == part for part in range(3)])
    model, inputs = MLP(num_classes=CLASSES, width=8, depth=1), features[:, None, None]
    together = trained.train_folds(model, SMALL.training, inputs, given, held, 0)
    assert together[1].logits.shape == (2, 60, CLASSES)
    again = trained.train_folds(model, SMALL.training, inputs, given, held, 0)
    np.testing.assert_array_equal(together[1].logits, again[1].logits)
    alone = trained.train_folds(model, SMALL.training, inputs, given, held[:1], 0)
    np.testing.assert_allclose(together[0].logits, alone[0].logits, atol=0.2)


def test_models_on_pixels_train_beside_the_others(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    labels = np.arange(40) % 2
    settings = crossfit.CrossFit(
        folds=2, repeats=1, width=4, pixels=(MLP(width=4, depth=1),), training=SMALL.training
    )
    features = rng.normal(size=(40, 5)).astype(np.float32)
    result = crossfit.cross_fit(
        crossfit.Examples(features, labels, 2, np.arange(40), images),
        settings,
        Pieces(tmp_path, "x"),
    )
    assert result.trained.shape == (2, 40, 2) and result.kernel.shape == (1, 40, 2)


def test_history_uses_the_right_networks():
    logits = np.zeros((2, 2, 4, 2))  # fold, checkpoint, example, class
    logits[0, :, :, 0] = [[1.0], [3.0]]
    logits[1, :, :, 1] = [[2.0], [2.0]]
    held = np.array([[True, True, False, False], [False, False, True, True]])
    folds = [trained.Dynamics(one, mask) for one, mask in zip(logits, held, strict=True)]
    result = crossfit.history(folds, np.zeros(4, int))
    np.testing.assert_allclose(result["margins"], [-2, -2, 2, 2])
    np.testing.assert_allclose(result["learned"], [1, 1, 0, 0])
    np.testing.assert_allclose(result["forgotten"], [2, 2, 0, 0])
    np.testing.assert_allclose(result["last"][0], kernel.softmax(np.array([3.0, 0.0])), rtol=1e-6)
    np.testing.assert_allclose(result["last"][2], kernel.softmax(np.array([0.0, 2.0])), rtol=1e-6)


def test_wrong_labels_rank_first(tmp_path):
    features, truth, given = blobs(300)
    pieces = Pieces(tmp_path, "x")
    result = crossfit.cross_fit(
        crossfit.Examples(features, given, CLASSES, np.arange(300)), SMALL, pieces
    )
    score = crossfit.suspicion(result, given)
    assert ((score > 0) & (score < 1)).all()
    assert scores.area_under_roc(score, given != truth) > 0.9


def test_a_killed_process_continues_with_the_same_numbers(tmp_path):
    whole = crossfit.cross_fit(examples(), SMALL, Pieces(tmp_path / "whole", "x"))

    class Killed(Exception):
        pass

    for stop in (1, 2, 4):
        pieces, seen = Pieces(tmp_path / f"part{stop}", "x"), []

        def tick(share, what, seen=seen, stop=stop):
            seen.append(what)
            if len(seen) == stop:
                raise Killed

        with pytest.raises(Killed):
            crossfit.cross_fit(examples(), SMALL, pieces, tick)
        assert len(list(pieces.folder.glob("*.npz"))) == stop
        times = {path: path.stat().st_mtime_ns for path in pieces.folder.glob("*.npz")}
        again = crossfit.cross_fit(examples(), SMALL, pieces)
        assert all(path.stat().st_mtime_ns == before for path, before in times.items())
        for name in ("kernel", "trained", "margins", "votes", "fold"):
            np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))


def test_no_repeat_begins_that_would_end_too_late(tmp_path):
    import dataclasses

    settings = dataclasses.replace(SMALL, repeats=5)
    result = crossfit.cross_fit(examples(), settings, Pieces(tmp_path, "x"), seconds=0.0)
    assert len(result.kernel) == 1


def test_pieces_of_other_data_are_not_found_and_half_written_ones_do_not_exist(tmp_path):
    one, two = (Pieces(tmp_path, signature(np.arange(k), SMALL)) for k in (3, 4))
    one.save("a", {"x": np.ones(2)})
    assert two.load("a") is None
    np.testing.assert_array_equal(one.load("a")["x"], np.ones(2))
    assert [path.suffix for path in tmp_path.iterdir()] == [".npz"]
