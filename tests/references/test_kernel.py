"""Kernel references: the fit against a direct one, laws of cross-fitting, and runs that select by
them.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from active_learning.config import ConfigError
from active_learning.core import policies
from active_learning.curation import kernel
from active_learning.curation.features import (
    PatchFeatures,
    fit_patches,
    fitted_features,
    patch_features,
)
from active_learning.data import splits
from active_learning.data.errors import DataError
from active_learning.data.stored_rows import RowTable
from active_learning.plan.cost_model import cost_model_of
from active_learning.references import Kernel, Trained, kernel_fit
from active_learning.references.kernel import PRICE, SIZES, size_flops
from active_learning.references.kernel_fit import fit_kernel
from active_learning.references.pool_filter import filter_pool
from active_learning.settings import Select
from active_learning.train import loop
from active_learning.train.build import build
from active_learning.train.stored_inputs import with_stored
from tests import pairs_world, world
from tests.train.test_loop import ids


def unit_rows(count, width, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def direct(rows, labels, landmarks, seen, asked, classes, ridge, width):
    """Kernel ridge regression on Nystrom coordinates in float64, as the textbook has it."""
    points = rows[landmarks].astype(np.float64)
    inside = np.exp((points @ points.T - 1) / width) + kernel.JITTER * np.eye(len(points))
    root = np.linalg.inv(np.linalg.cholesky(inside))
    phi = np.exp((rows.astype(np.float64) @ points.T - 1) / width) @ root.T
    targets = np.eye(classes)[labels] - 1 / classes
    gram = phi[seen].T @ phi[seen] + ridge * np.eye(len(points))
    return phi[asked] @ np.linalg.solve(gram, phi[seen].T @ targets[seen]) + 1 / classes


def test_each_fold_is_judged_by_the_fit_to_all_others():
    rows, rng = unit_rows(90, 6), np.random.default_rng(1)
    labels, fold = rng.integers(0, 3, 90), rng.integers(0, 4, 90)
    landmarks = kernel.drawn_landmarks(np.arange(90), 20, 0)
    fit = fit_kernel(
        *(lambda at: rows[at], labels, fold, 3, kernel.Landmarks.of(rows[landmarks], 0.3), 2.0)
    )
    outputs = fit.outputs(lambda at: rows[at], 90, fold)
    for one in range(4):
        asked, seen = np.flatnonzero(fold == one), np.flatnonzero(fold != one)
        expected = direct(rows, labels, landmarks, seen, asked, 3, 2.0, 0.3)
        np.testing.assert_allclose(outputs[asked], expected, atol=2e-4)
    every = np.arange(90)
    expected = direct(rows, labels, landmarks, every, every, 3, 2.0, 0.3)
    np.testing.assert_allclose(fit.outputs(lambda at: rows[at], 90), expected, atol=2e-4)


def test_blocks_do_not_change_the_fit(monkeypatch):
    rows, labels = unit_rows(70, 5), np.arange(70) % 3
    landmarks = kernel.Landmarks.of(rows[:16], 0.3)

    def outputs(fold):
        fit = fit_kernel(lambda at: rows[at], labels, fold, 3, landmarks, 1.0)
        return fit.outputs(lambda at: rows[at], 70, fold)

    fold = np.arange(70) % 5
    whole = outputs(fold)
    monkeypatch.setattr("active_learning.references.kernel_fit.BLOCK", 8)
    np.testing.assert_allclose(outputs(fold), whole, atol=1e-5)


PRODUCTS = {
    "sums": lambda f: kernel_fit._added.lower(
        f(4, 4), f(4, 3), f(5, 4), jnp.arange(5), f(5), classes=3
    ),
    "outputs": lambda f: kernel_fit._outputs.lower(f(2, 4, 3), f(5, 4), jnp.arange(5) % 2),
    "coordinates": lambda f: kernel._map_block.lower(f(5, 6), f(4, 6), f(4, 4), 0.3),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_in_full_precision_on_every_accelerator(name):
    """A kernel of close examples that was rounded to TF32 or bfloat16 has no root."""
    text = PRODUCTS[name](lambda *shape: jnp.zeros(shape)).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products and all("HIGHEST" in line for line in products)


def test_patches_fitted_to_all_images_give_their_features():
    images = np.random.default_rng(0).integers(0, 256, (60, 20, 20, 3), np.uint8)
    settings = PatchFeatures(size=16, filters=8, components=12)
    fitted = fit_patches(images, settings, seed=3)
    np.testing.assert_allclose(
        fitted_features(settings, fitted, images), patch_features(images, settings, 3), atol=1e-5
    )


@pytest.fixture
def config(tmp_path):
    return world.config(
        world.write_arrays(tmp_path, train=700), reference=Kernel(size="tiny"), total="8 steps"
    )


def joined(config, folder):
    """The experiment whose training data carry the losses, and its bill."""
    experiment, bill = with_stored(build(config), folder)
    train = experiment.data.train
    rows = np.arange(len(train))
    return experiment, train.batch(rows, rows)["reference_loss"], bill


def stored_features(folder):
    """The stored features of the training source by row, as the run reads them."""
    tables = [RowTable(path) for path in sorted(folder.glob("*-*-*"))]
    return next(table for table in tables if len(table.ids) == 700)


@pytest.mark.parametrize("part", ["", "reference"])
def test_losses_are_those_of_labels_out_of_fold(config, tmp_path, part):
    config = dataclasses.replace(config, reference=Kernel(size="tiny", part=part))
    experiment, losses, bill = joined(config, tmp_path / "run")
    train, parts = experiment.data.train, experiment.data.parts
    table = stored_features(tmp_path / "run" / "features")
    pool, own = np.asarray(train.indices), parts["reference"] if part else train
    rows = np.zeros((700, table.width), np.float32)
    for used in (pool, np.asarray(own.indices)):
        rows[used] = table.read(used)
    fold = splits.fold_of(train.picture_ids, 5)
    at = kernel.drawn_landmarks(own.ids, 256, 0)
    landmarks, labels = np.asarray(own.indices)[at], np.zeros(700, np.int64)
    for one in (train, own):
        labels[np.asarray(one.indices)] = one.labels
    outputs = np.zeros((len(pool), world.CLASSES))
    for f in range(5):
        seen = np.asarray(own.indices) if part else pool[fold != f]
        asked = pool[fold == f]
        outputs[fold == f] = direct(rows, labels, landmarks, seen, asked, 4, 1.0, 0.3)
    temperature = kernel.best_temperature(outputs, train.labels)
    expected = -np.log(kernel.softmax(outputs / temperature)[np.arange(len(pool)), train.labels])
    np.testing.assert_allclose(losses, expected, atol=1e-4)
    charged = 400 + (120 if part else 0)
    assert bill.flops == size_flops(SIZES["tiny"], (8, 8, 3), charged, 4)
    assert experiment.known.seconds > 0 == bill.seconds
    free = dataclasses.replace(config.reference, charge=False)
    assert joined(dataclasses.replace(config, reference=free), tmp_path / "run")[2].flops == 0


def test_one_and_eight_devices_give_the_same_losses(config, tmp_path):
    losses = []
    for devices in (1, 8):
        built = build(config, jax.devices()[:devices])
        experiment, _ = with_stored(built, tmp_path / str(devices))
        losses.append(experiment.data.train.columns["reference_loss"])
    np.testing.assert_allclose(losses[1], losses[0], atol=2e-3)


def test_a_label_does_not_judge_itself():
    """Another label of one example leaves its fold's outputs as they are, and moves the others."""
    rows, fold = unit_rows(80, 6), np.arange(80) % 5
    landmarks = kernel.Landmarks.of(rows[:30], 0.3)

    def outputs(labels):
        fit = fit_kernel(lambda at: rows[at], labels, fold, 4, landmarks, 1.0)
        return fit.outputs(lambda at: rows[at], 80, fold)

    labels = np.arange(80) // 20
    first, again = outputs(labels), outputs(np.where(np.arange(80) == 13, 3, labels))
    np.testing.assert_allclose(again[fold == fold[13]], first[fold == fold[13]], atol=1e-4)
    assert np.abs(again - first)[fold != fold[13]].max() > 1e-3


def test_a_run_selects_by_it_and_goes_on_bit_for_bit(config, tmp_path):
    whole = loop.run(config, tmp_path / "whole")
    assert not loop.run(config, tmp_path / "run", world.StopAfter(6))["complete"]
    again = loop.run(config, tmp_path / "run")
    chosen = [ids(tmp_path / name) for name in ("whole", "run")]
    np.testing.assert_array_equal(*chosen)
    assert whole["flops"] == again["flops"]
    assert whole["flops"]["reference_score"] == size_flops(SIZES["tiny"], (8, 8, 3), 400, 4)
    experiment = build(config)
    sizes = experiment.learner, experiment.scorer, 400, (8, 8, 3)
    assert cost_model_of(config, *sizes, classes=4).accounts() == whole["flops"]
    own, stored = whole["reference"], joined(config, tmp_path / "run")[0].known.final
    assert own["accuracy"] == stored["test_full/accuracy"] > 1 / world.CLASSES
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    gate = [json.loads(line).get("gate/reference_accuracy") for line in lines]
    assert len({value for value in gate if value is not None}) == 1


def test_what_it_says_of_the_kept_half_of_the_pool_is_read_in_the_updates(config, tmp_path):
    policy = dataclasses.replace(policies.learnability, name="half", pool_fraction=0.5)
    config = dataclasses.replace(config, select=dataclasses.replace(config.select, policy=policy))
    experiment, losses, _ = joined(config, tmp_path / "run")
    whole = experiment.data.train
    kept = filter_pool(experiment, None, tmp_path / "run")[0].data.train
    at = np.argsort(losses, kind="stable")[:200]
    assert set(kept.ids) == set(whole.ids[at]) and len(kept) == 200
    np.testing.assert_array_equal(kept.columns["reference_loss"], losses[np.sort(at)])
    assert loop.run(config, tmp_path / "whole")["complete"]
    assert set(np.ravel(ids(tmp_path / "whole"))) <= set(kept.ids)


def test_runs_share_a_folder_of_features(config, tmp_path):
    reference = dataclasses.replace(config.reference, store=str(tmp_path / "shared"))
    config = dataclasses.replace(config, reference=reference)
    _, first, _ = joined(config, tmp_path / "a")
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "shared").rglob("values.npy")}
    _, second, _ = joined(config, tmp_path / "b")
    np.testing.assert_array_equal(first, second)
    assert {p: p.stat().st_mtime_ns for p in written} == written
    assert not (tmp_path / "a" / "features").exists()
    path = next((tmp_path / "shared").glob("patches-*.npz"))
    path.write_bytes(b"no array")
    with pytest.raises(DataError, match="patches-.*cannot be read .* delete"):
        joined(config, tmp_path / "c")


def test_flops_by_hand():
    """`tiny` on 400 images of 8 px with three channels, four classes.

    An image: 4 x 4 patches of 108 numbers and 64 filters, 512 responses to 128 components; its
    coordinates by 256 landmarks and a triangular root, twice; the Gram matrix and its right side;
    and the outputs of six classifiers.
    """
    responses, components = 2 * 16 * 108 * 64, 2 * 512 * 128
    coordinates = 2 * 128 * 256 + 256**2
    fit, outputs = 2 * 256**2 + 2 * 256 * 4, 6 * 2 * 256 * 4
    images = 400 * (responses + components + coordinates + fit + coordinates + outputs)
    sample = 400 * (coordinates + outputs)  # of whom the temperature is asked
    clusters = 8 * 2 * 40_000 * 108 * 64 + 2 * 2 * 40_000 * 108**2  # of patches, and whitening
    principal = 400 * (responses + 2 * 512**2) + 10 * 512**3
    solved = 2 * 128 * 256**2 + 6 * 256**3 / 3
    by_hand = images + sample + clusters + principal + solved
    assert by_hand == 8_341_884_928 == size_flops(SIZES["tiny"], (8, 8, 3), 400, 4)


def test_auto_is_the_largest_size_that_is_cheap_for_the_run(config):
    shape, names = (32, 32, 3), list(SIZES)
    prices = [size_flops(size, shape, 10_000, 10) for size in SIZES.values()]
    assert prices == sorted(prices)
    for name, price in zip(names, prices, strict=True):
        sized, cost = Kernel().sized(shape, lambda: 10_000, 10, price / PRICE)
        assert sized.size == name and cost == pytest.approx(PRICE)
    assert Kernel().sized(shape, lambda: 10_000, 10, prices[0])[0].size == "tiny"
    assert Kernel(size="large").sized(shape, lambda: 10_000, 10, prices[0])[0].size == "large"
    assert Kernel(charge=False).sized(shape, lambda: 10_000, 10, prices[0])[1] == 0


def test_no_selection_where_the_reference_costs_more_than_may_be_spent(config, tmp_path):
    """By hand: the cheapest size on 400 + 40 examples against eight updates of a small MLP."""
    select = dataclasses.replace(config.select, until="auto")
    config = dataclasses.replace(config, select=select, reference=Kernel())
    experiment = build(config)
    uniform = 8 * 16 * experiment.learner.cost((8, 8, 3)).train
    price = size_flops(SIZES["tiny"], (8, 8, 3), 440, 4) / uniform
    assert experiment.config.select == Select() and not experiment.config.evaluate.gate
    assert f"would cost {price:.1%} of uniform training" in experiment.changes[-1]
    flops = loop.run(config, tmp_path / "run")["flops"]
    assert flops["learner_train"] == uniform == sum(flops.values())
    sizes = experiment.learner, experiment.scorer, 400, (8, 8, 3)
    assert cost_model_of(config, *sizes, classes=4).accounts() == flops
    free = dataclasses.replace(config, reference=Kernel(charge=False))
    assert build(free).config.select.policy is policies.learnability


def test_what_does_not_fit_gets_one_line(config, tmp_path):
    def refused(match, config=config, **changes):
        reference = dataclasses.replace(config.reference, **changes)
        with pytest.raises(ConfigError, match=match) as caught:
            build(dataclasses.replace(config, reference=reference))
        assert "\n" not in str(caught.value)

    refused("part='gate' is also an evaluation set", part="gate")
    refused("part='pool' is trained on; leave it empty", part="pool")
    refused("part='refrence': no part is named so; parts: pool, reference", part="refrence")
    few = dataclasses.replace(config.split, parts={"pool": 400, "reference": 19, "gate": 40})
    few = dataclasses.replace(config, split=few)
    refused("19 examples to fit to are too few", few, part="reference")
    build(dataclasses.replace(config, select=Select(policy=policies.rho)))  # reads losses alone
    pairs = pairs_world.config(pairs_world.write_tars(tmp_path))
    with pytest.raises(ConfigError, match="scores labels; for image-text pairs use"):
        build(dataclasses.replace(pairs, reference=Kernel()))
    taken = tmp_path / "taken"
    taken.write_text("")
    shared = dataclasses.replace(config, reference=Kernel(size="tiny", store=str(taken / "x")))
    with pytest.raises(DataError, match="config.reference.store=.*cannot be written"):
        joined(shared, tmp_path / "run")
    trained = dataclasses.replace(config, reference=Trained(total="4 steps", batch_size=16))
    assert build(trained).config.reference.kind_name == "trained"
