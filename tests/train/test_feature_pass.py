"""Scorers that are heads on stored features: what is stored, charged, resumed and refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from active_learning import checkpoint
from active_learning.config import ConfigError, config_hash
from active_learning.core import policies
from active_learning.data import sources
from active_learning.data.augment import Augmentation
from active_learning.data.sources.source import DataError
from active_learning.data.transforms import normalize
from active_learning.evaluate import evaluate
from active_learning.models import OnFeatures, Published
from active_learning.models.weights import write_weights
from active_learning.plan.cost_model import cost_model_of
from active_learning.references import CrossFitted, row_pass
from active_learning.settings import Evaluate, Log, Select, Split
from active_learning.train import feature_pass, loop, overview, run_folder
from active_learning.train.build import build
from active_learning.train.feature_pass import located, with_features
from tests import world
from tests.data import photos
from tests.models.weights import tiny

MODULE = tiny.vit(num_classes=7, patch=4, **tiny.CLS)
PARAMS = tiny.params_of(MODULE, shape=(8, 8, 3))
ABOUT = dataclasses.replace(tiny.ABOUT, image_shape=(8, 8, 3))


@pytest.fixture
def config(tmp_path):
    """A learner from weights whose features the scorers read; all in one store."""
    write_weights(tmp_path / "weights", MODULE, PARAMS, ABOUT, "timm")
    return world.config(
        world.write_arrays(tmp_path),
        learner=Published(path=str(tmp_path / "weights")),
        scorer=OnFeatures(store=str(tmp_path / "store")),
    )


def with_(config, **fields):
    return dataclasses.replace(config, scorer=dataclasses.replace(config.scorer, **fields))


def table_of(store, count=600):
    """about.json and the folder of the table of so many examples."""
    for file in sorted(store.rglob("about.json")):
        if len(np.load(file.with_name("stored.npy"))) == count:
            return json.loads(file.read_text()), file.parent
    raise AssertionError(f"no table of {count} examples in {store}")


def test_the_table_of_the_weights_is_shown_once(config, monkeypatch):
    monkeypatch.setattr(overview, "_shown", set())
    shown = [
        line
        for one in (config, world.own_run(config))
        for line in overview.weight_lines(run_folder.about(build(one))["weights"])
    ]
    assert [line.splitlines()[0] for line in shown] == [
        "learner starts from timm_vit weights:",
        "scorer starts from timm_vit weights, taken as above",
        "learner starts from timm_vit weights, taken as above",
        "scorer starts from timm_vit weights, taken as above",
    ]
    assert "patch_embed.proj.weight" in shown[0]
    write_weights(
        Path(config.learner.path), MODULE, PARAMS | {"cls": PARAMS["cls"] + 1}, ABOUT, "timm"
    )
    (other, _) = overview.weight_lines(run_folder.about(build(config))["weights"])
    assert "patch_embed.proj.weight" in other, "another file"


def test_features_are_those_of_the_weights_and_every_part_of_the_bill_is_there(config, tmp_path):
    assert not loop.run(config, tmp_path / "run", world.StopAfter(9))["complete"]
    whole = loop.run(config, tmp_path / "whole")
    assert loop.run(config, tmp_path / "run")["complete"]
    jax.tree.map(
        np.testing.assert_array_equal,
        *(checkpoint.load_params(tmp_path / name) for name in ("run", "whole")),
    )
    joined, bill = with_features(build(config))
    part, rows = joined.data.parts["gate"], np.arange(5)
    images = normalize(jnp.asarray(part.images(rows)), tiny.ABOUT.mean, tiny.ABOUT.std)
    expected = jax.jit(MODULE.apply)({"params": PARAMS}, images)["features"]
    np.testing.assert_allclose(part.stored_features(rows), expected, atol=2e-5)
    trained_on, forward = 400 + 120, dataclasses.replace(MODULE, num_classes=0).cost((8, 8, 3))
    assert bill.flops == trained_on * forward.forward and bill.seconds > 0
    head = 2 * 8 * 4  # Multiplications of a linear head, counted twice.
    active, b = 6, 16
    assert whole["flops"]["reference_score"] == bill.flops + active * 4 * b * head
    assert whole["flops"]["online_score"] == active * 4 * b * head
    assert whole["flops"]["online_train"] == active * b * 2 * head
    assert whole["flops"]["reference_train"] == 20 * 16 * 2 * head
    assert whole["reference"]["accuracy"] is not None
    model = cost_model_of(config, joined.learner, joined.scorer, 400, (8, 8, 3))
    assert model.accounts() == whole["flops"]
    assert evaluate(tmp_path / "run", ("gate",), "online")["gate"]["accuracy"] >= 0


def test_a_pass_is_made_once_and_goes_on_where_it_was_stopped(config, tmp_path, monkeypatch):
    monkeypatch.setattr(row_pass, "PIECE", 50)
    assert not loop.run(config, tmp_path / "run", world.StopAfter(3))["complete"]
    about, folder = table_of(tmp_path / "store")
    assert about["examples"] == 150 == np.load(folder / "stored.npy").sum()
    joined, bill = with_features(build(config))
    about, folder = table_of(tmp_path / "store")
    # The gate is stored but not charged; the part `tune` is neither.
    assert about["examples"] == 400 + 120 + 40 and bill.seconds == pytest.approx(
        about["seconds"] * 520 / 560
    )
    monkeypatch.setattr(feature_pass, "_features_of", None)  # Nothing is computed any more.
    again, same = with_features(build(config))
    assert (same.flops, again.scorer) == (bill.flops, joined.scorer)
    _, free = with_features(build(with_(config, charge=False)))
    assert free == feature_pass.Bill()
    with pytest.raises(DataError, match=r"no features of id \d+ and \d+ more; the command"):
        again.data.parts["tune"].stored_features(np.arange(3))


def test_without_a_folder_features_are_kept_in_the_run(config, tmp_path):
    plain = with_(config, store="")
    assert config_hash(plain) == config_hash(config)
    experiment = located(build(plain), tmp_path / "run")
    own = world.own_run(experiment.config)
    assert own.learner.store == own.scorer.store == str(tmp_path / "run" / "features")
    assert own.learner.of == config.learner.path and not own.learner.charge


def test_a_small_network_on_features_scores_across_folds_and_filters_the_pool(config, tmp_path):
    policy = dataclasses.replace(policies.offline_filter, pool_fraction=0.5)
    config = dataclasses.replace(
        with_(config, head="mlp", width=4),
        reference=CrossFitted(total="4 steps", batch_size=16),
        select=Select(policy=policy),
        evaluate=Evaluate(every="50 %", subset=60, batch_size=64),
        total="4 steps",
    )
    summary = loop.run(config, tmp_path / "run")
    assert summary["complete"] and len(np.load(tmp_path / "run" / "kept.npz")["id"]) == 200
    trunk = dataclasses.replace(MODULE, num_classes=0).cost((8, 8, 3)).forward
    head = 2 * (8 * 4 + 4 * 4)
    assert summary["flops"]["reference_score"] == 400 * (trunk + head)


def test_candidates_from_disk_are_chosen_without_reading_their_images(config, tmp_path):
    config = dataclasses.replace(
        config,
        data=sources.ImageFolder(path=str(photos.write_folder(tmp_path / "pictures")), size=8),
        split=Split(parts={"pool": 64, "reference": 20, "gate": 12}),
        total="3 steps",
        batch_size=8,
        log=Log(snapshots=0),
    )
    joined, _ = with_features(build(config))
    assert joined.two_stage_decode
    assert "candidates: stored features; only what is chosen is decoded" in overview.lines(joined)
    loader = joined.loader(0)
    batch = loader.next(32, True).batch
    loader.close()
    assert "image" not in batch and batch["features"].shape == (32, 8)
    assert loop.run(config, tmp_path / "run")["complete"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "stored.npy").write_bytes(b"\x93NUM"), r"stored.npy: cannot be read"),
        (lambda f: np.save(f / "values.npy", np.zeros((600, 9))), r"float64 of shape \(600, 9\)"),
        (lambda f: (f / "about.json").write_text("{"), r"about.json: cannot be read \(JSON"),
        (lambda f: replace_about(f, model="0" * 16), r"features of another model \(0000"),
        (lambda f: replace_about(f, ids="1"), r"features of another ids \(1 there"),
    ],
)
def test_features_that_cannot_be_used_are_refused_in_one_line(config, tmp_path, damage, message):
    with_features(build(config))
    damage(table_of(tmp_path / "store")[1])
    with pytest.raises(DataError, match=message) as error:
        with_features(build(config))
    assert "\n" not in str(error.value)


def replace_about(folder, **entries):
    about = json.loads((folder / "about.json").read_text()) | entries
    (folder / "about.json").write_text(json.dumps(about))


def test_features_that_are_not_finite_are_refused(config, tmp_path):
    shutil.rmtree(tmp_path / "weights")
    bad = tiny.params_of(MODULE, shape=(8, 8, 3))
    bad["norm"]["bias"][0] = np.nan
    write_weights(tmp_path / "weights", MODULE, bad, ABOUT, "timm")
    with pytest.raises(DataError, match=r"features of id \d+ are not finite"):
        with_features(build(config))


def test_what_stored_features_cannot_do_is_refused(config, tmp_path):
    for changes, message in (
        (
            {"learner": world.config(tmp_path).learner},
            "config.scorer.of='': config.learner does not start",
        ),
        ({"augmentation": Augmentation(mixup=0.2)}, "config.augmentation.mixup=0.2: config.scorer"),
        ({"data": dataclasses.replace(config.data, small=4)}, "config.data.small=4: config.scorer"),
    ):
        with pytest.raises(ConfigError, match=message):
            build(dataclasses.replace(config, **changes))
    with pytest.raises(ConfigError, match=r"config.scorer.of.path: .*nowhere"):
        build(with_(config, of=str(tmp_path / "nowhere")))
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(DataError, match=r"config.scorer.store=.*cannot be written"):
        with_features(build(with_(config, store=str(file))))


def test_the_gate_is_charged_where_it_decides(config):
    """What is read of it then is part of the method, not of the evaluation."""
    assert config.evaluate.gate == "gate" and config.select.until != "auto"
    _, watched = with_features(build(config))
    deciding = dataclasses.replace(config, select=dataclasses.replace(config.select, until="auto"))
    joined, decided = with_features(build(deciding))
    gate = len(joined.data.parts["gate"])
    assert decided.flops == pytest.approx(watched.flops * (520 + gate) / 520) and gate == 40
