"""Distillation as keys of a config: the step trains on both losses, the bill has the teacher."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

import active_learning as al
from active_learning.config import ConfigError
from active_learning.core import contrastive, losses
from active_learning.core.recipe import TEACHER
from active_learning.references import Stored
from active_learning.settings import Distill, Select
from active_learning.train.build import build, first_state
from tests import pairs_world, world

DISTILL = Distill(weight=0.25, temperature=2.0)
CLOSE = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    return world.write_arrays(tmp_path_factory.mktemp("arrays"))


def one_step(config):
    """The experiment, the batch that is selected from, the state before, loss and choice."""
    experiment = build(config, jax.devices()[:1])
    state = first_state(experiment, experiment.init_scorer(jax.random.key(5)))
    loader = experiment.loader(0)
    batch = loader.next(config.batch_size * config.select.ratio).batch
    loader.close()
    _, (metrics, chosen) = jax.jit(partial(al.train_step, experiment.recipe))(state, batch)
    rows = {name: values[np.asarray(chosen.indices)] for name, values in batch.items()}
    return experiment, state, rows, metrics["loss"]


def outputs_of(experiment, state, rows):
    teacher = experiment.recipe.model("reference").apply(state.reference.params, rows, False)
    return experiment.recipe.learner.apply(state.learner.params, rows, True), teacher


def test_labels_and_soft_targets(arrays):
    config = world.config(arrays, distill=DISTILL, augment=False)
    experiment, state, rows, loss = one_step(config)
    outputs, teacher = outputs_of(experiment, state, rows)
    soft = losses.soft_xent(outputs["logits"], teacher["logits"], 2.0)
    hard = losses.softmax_xent(outputs["logits"], rows["label"])
    CLOSE(loss, np.mean(0.75 * hard + 0.25 * soft))
    plain = build(dataclasses.replace(config, distill=Distill()), jax.devices()[:1])
    more = {k: v - plain.costs[k] for k, v in experiment.costs.items() if v != plain.costs[k]}
    assert more == {
        "reference_score": 16 * experiment.scorer.cost(experiment.scorer_view.image_shape).forward
    }
    assert experiment.uniform_costs == plain.uniform_costs


def test_pairs_and_soft_targets(tmp_path):
    config = pairs_world.config(
        pairs_world.write_tars(tmp_path), distill=DISTILL, augment=False, split=world.Split()
    )
    config = dataclasses.replace(config, evaluate=world.Evaluate(subset=24, batch_size=24))
    config = dataclasses.replace(
        config, task=dataclasses.replace(config.task, shuffled_captions={})
    )
    experiment, state, rows, loss = one_step(config)
    outputs, teacher = outputs_of(experiment, state, rows)
    four = outputs.image, outputs.text, teacher.image, teacher.text
    soft = contrastive.soft_info_nce(*four, outputs.scale[0], teacher.scale[0], temperature=2.0)
    hard = experiment.recipe.learner.learn_loss(outputs, rows)
    assert TEACHER not in rows
    CLOSE(loss, np.mean(0.75 * hard + 0.25 * soft))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"select": Select(policy=al.policies.hard, ratio=4)},
            "config.distill.weight=0.25: policy 'hard' uses no reference",
        ),
        (
            {"reference": Stored(path="scores.npz")},
            "config.reference.kind='stored' is not a single model that runs",
        ),
        ({"distill": Distill(weight=1.5)}, "config.distill.weight=1.5: must be at most 1"),
        ({"distill": Distill(0.5, 0.0)}, "config.distill.temperature=0.0: must be above 0"),
    ],
)
def test_what_cannot_be_is_named(arrays, changes, message):
    config = world.config(arrays, **({"distill": DISTILL} | changes))
    with pytest.raises(ConfigError, match=message):
        build(config, jax.devices()[:1])


def test_the_reference_is_not_distilled(arrays):
    assert world.own_run(world.config(arrays, distill=DISTILL)).distill == Distill()
