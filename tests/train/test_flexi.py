"""Two resolutions as config keys: what runs is what is charged, and what cannot be is named."""

import dataclasses
from functools import partial

import jax
import pytest

import active_learning as al
from active_learning.config import ConfigError
from active_learning.core.sharding import aot_compile
from active_learning.cost import ledger
from active_learning.models import Text, TwoTower, ViT
from active_learning.plan.abstract import abstract_batch
from active_learning.settings import Flexi, Select
from active_learning.train.build import abstract_state, build
from tests import pairs_world, world
from tests.hlo import product_flops

VIT = ViT(width=16, depth=1, heads=2, patch=2)
TEXT = Text(vocab=320, context=8, width=16, depth=1, heads=2)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    return world.write_arrays(tmp_path_factory.mktemp("arrays"))


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    return pairs_world.write_tars(tmp_path_factory.mktemp("tars"))


def labels(folder, policy=al.policies.hard_learner, **changes):
    select = Select(policy=policy, ratio=4)
    base = {"learner": VIT, "select": select, "flexi": Flexi(patch=4), "augment": False}
    return world.config(folder, **(base | changes))


def check_charges(config, but: str):
    """The step's products as compiled are its charge; `but` is what the ledger leaves out."""
    experiment = build(config, jax.devices()[:1])
    batch = abstract_batch(experiment)
    step = partial(al.train_step, experiment.recipe)
    text = aot_compile(step, abstract_state(experiment), batch).as_text()
    charged = ledger.total(experiment.costs)
    assert product_flops(text) == pytest.approx(charged, rel=0.04), but
    full = build(dataclasses.replace(config, flexi=Flexi()), jax.devices()[:1])
    return charged / ledger.total(full.costs)


def test_labels_are_charged_what_the_compiled_step_runs(arrays):
    ratio = check_charges(labels(arrays), "positions are resized once a batch")
    assert ratio < 0.6


def test_pairs_are_charged_what_the_compiled_step_runs(tars):
    config = pairs_world.config(
        tars,
        learner=TwoTower(VIT, TEXT, 8, 8),
        flexi=Flexi(patch=4),
        select=Select(policy=al.policies.rho, ratio=2),
        augment=False,
    )
    assert check_charges(config, "positions and the loss's products") < 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flexi": Flexi(patch=3)}, "config.flexi: patch 3 does not divide the 8 x 8 image"),
        ({"flexi": Flexi(patch=4, fraction=0.3)}, r"config.flexi.fraction=0.3: .* 16 examples"),
        (
            {"flexi": Flexi(patch=4), "learner": world.MLP(width=8)},
            "config.flexi.patch=4: config.learner, a MLP has no patches",
        ),
        ({"policy": al.policies.hard_learner_fused}, "use the policy without '_fused'"),
        ({"grad_accum_steps": 2}, "config.grad_accum_steps=2: .* cannot be cut further"),
    ],
)
def test_what_cannot_be_is_named(arrays, changes, message):
    with pytest.raises(ConfigError, match=message):
        build(labels(arrays, **changes), jax.devices()[:1])


def test_a_plan_charges_the_same(arrays):
    from active_learning.plan.cost_model import cost_model_of

    config = labels(arrays)
    experiment = build(config, jax.devices()[:1])
    model = cost_model_of(
        config,
        experiment.learner,
        experiment.scorer,
        len(experiment.data.train),
        experiment.view.image_shape,
    )
    assert model.active_update(4) == ledger.total(experiment.costs)
    assert model.uniform_update == ledger.total(experiment.uniform_costs)


def test_the_reference_is_trained_at_one_resolution(arrays):
    assert world.own_run(labels(arrays)).flexi == Flexi()
