"""References that were trained elsewhere or on more than one part."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from active_learning import checkpoint
from active_learning.config import ConfigError, config_hash
from active_learning.data.transforms import normalize
from active_learning.export import export
from active_learning.models import OnFeatures, ViT
from active_learning.references import Trained
from active_learning.settings import Evaluate, Select, Split
from active_learning.train import loop
from active_learning.train.build import build, first_state
from active_learning.train.evaluation import Evaluation
from active_learning.train.feature_pass import with_features
from tests import world


def with_reference(config, **fields):
    return dataclasses.replace(config, reference=dataclasses.replace(config.reference, **fields))


def other_data(folder):
    """A world of two classes, of other images."""
    folder.mkdir()
    world.write_arrays(folder, seed=7)
    for part in ("train", "test"):
        with np.load(folder / f"{part}.npz") as file:
            columns = dict(file)
        columns |= {name: columns[name] % 2 for name in ("label", "clean")}
        np.savez(folder / f"{part}.npz", **columns)
    return folder


def test_heads_on_the_trunk_of_a_run_on_other_classes_are_a_reference(tmp_path):
    own = world.config(
        other_data(tmp_path / "other"),
        learner=ViT(width=8, depth=1, heads=1, patch=4),
        select=Select(),
        evaluate=Evaluate(every="100 %", subset=60, batch_size=60),
        total="3 steps",
    )
    loop.run(own, tmp_path / "pretraining")
    export(tmp_path / "pretraining", tmp_path / "weights")
    config = world.config(
        world.write_arrays(tmp_path),
        scorer=OnFeatures(of=str(tmp_path / "weights"), store=str(tmp_path / "store")),
        total="4 steps",
    )
    joined, _ = with_features(build(config))
    part, rows = joined.data.parts["gate"], np.arange(5)
    trunk = build(own)
    images = normalize(jnp.asarray(part.images(rows)), trunk.view.mean, trunk.view.std)
    params = jax.device_put(checkpoint.load_params(tmp_path / "pretraining"))
    expected = jax.jit(trunk.learner.apply)({"params": params}, images)["features"]
    np.testing.assert_allclose(part.stored_features(rows), expected, atol=2e-5)
    summary = loop.run(config, tmp_path / "run")
    assert summary["complete"] and summary["reference"]["accuracy"] is not None
    assert trunk.data.num_classes == 2 and joined.data.num_classes == world.CLASSES


def test_a_reference_is_trained_on_a_small_curated_part_and_the_rest(tmp_path):
    parts = {"pool": 400, "curated": 20, "rest": 80, "gate": 40}
    config = world.config(
        world.write_arrays(tmp_path),
        split=Split(parts=parts, labels={"curated": "clean"}),
        reference=Trained(part="curated", also=("rest",), total="5 steps", batch_size=16),
    )
    experiment = build(config)
    own = build(world.own_run(config)).data
    both = [experiment.data.parts[name] for name in ("curated", "rest")]
    np.testing.assert_array_equal(own.train.ids, np.concatenate([part.ids for part in both]))
    labels = np.concatenate([part.labels for part in both])
    np.testing.assert_array_equal(own.train.labels, labels)
    assert not experiment.data.parts["curated"].is_corrupted.any()
    assert experiment.data.parts["rest"].is_corrupted.any()
    assert config.reference.pool_size(config, experiment.data, "") == 100
    assert config.reference.held_out(config)
    assert not with_reference(config, also=("pool",)).reference.held_out(config)
    alone = with_reference(config, also=())
    assert config_hash(world.own_run(alone)) != config_hash(world.own_run(config))


def test_labels_are_not_checked_by_a_reference_that_saw_the_pool(tmp_path):
    config = world.config(world.write_arrays(tmp_path), total="2 steps")
    seen = build(with_reference(config, also=("pool",)))
    state = first_state(seen, jax.jit(seen.init_reference)(jax.random.key(0)))
    assert Evaluation(seen).check_labels(state) == (None, {})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"also": ("gate",)}, "config.reference.also='gate' is also an evaluation set"),
        ({"also": ("reference",)}, r"config.reference.also=\('reference',\): names a part twice"),
        ({"also": ("tune", "tune")}, "names a part twice"),
    ],
)
def test_parts_that_cannot_be_are_refused(tmp_path, fields, message):
    config = world.config(world.write_arrays(tmp_path))
    with pytest.raises(ConfigError, match=message):
        build(with_reference(config, **fields))
    unknown = with_reference(config, also=("nowhere",))
    with pytest.raises(ConfigError, match="config.reference.also='nowhere': no part is named so"):
        loop.run(unknown, tmp_path / "run")
