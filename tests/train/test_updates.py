"""Selection and training apart: the same choices as in one step, decided one update ahead, never
waited for, and resumed exactly.
"""

import dataclasses
import gzip
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import active_learning as al
from active_learning.config import ConfigError
from active_learning.core import sharding
from active_learning.core.step import train_on_selection
from active_learning.data.sources.source import join_id
from active_learning.references import Trained
from active_learning.settings import Checkpoint, Evaluate, Optim, Select
from active_learning.train import loop
from active_learning.train import updates as updates_module
from active_learning.train.build import build, first_state
from active_learning.train.updates import UpdateRunner, with_pending
from tests import toy, world
from tests.data.photos import write_folder
from tests.data.sources.test_image_folder import settings
from tests.train.test_loop import ids, models

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax")
STEPS, WINDOW, b, RATIO = 8, 6, 8, 3


def chosen_by(policy=al.policies.hard, **changes):
    return Select(policy=policy, ratio=RATIO, temperature=0.05, until=f"{WINDOW} steps", **changes)


def config(folder, **changes):
    """Photos of 20 px, seen by the learner at 16 px and by the scorers at 8 px."""
    schedule = changes.pop("schedule", "exact")
    base = {
        "small": 8,
        "batch_size": b,
        "total": f"{STEPS} steps",
        "select": chosen_by(schedule=schedule),
        "reference": Trained(),
        "scorer_optim": Optim(
            learning_rate=0.03, warmup="0 steps"
        ),  # every update of the online model changes who is chosen
        "evaluate": Evaluate(every="50 %", subset=20, batch_size=20),
    }
    return settings(folder, **(base | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("photos"), each=30)


def candidates(experiment, step: int):
    """The super-batch of a step in both views, all rows read in full."""
    loader = experiment.loader(0)
    rows, epochs = loader.stream.at(step * b * RATIO, b * RATIO)
    loader.close()
    part = experiment.data.train
    whole = part.batch(rows, epochs, small=True) | {"image": part.batch(rows, epochs)["image"]}
    return jax.device_put(whole, sharding.batch_sharding(experiment.mesh))


def reading_both(experiment):
    """The recipe for batches with both views: the small one is scored, and the online model trains
    on the augmented full one.
    """
    return dataclasses.replace(
        experiment.recipe,
        augment=lambda y, key: experiment.recipe.augment(
            {k: y[k] for k in y if k != "image_small"}, key
        ),
    )


def same(ours, theirs):
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), toy.host(ours), toy.host(theirs)
    )


def test_a_second_look_chooses_and_trains_as_the_step_that_has_read_everything(folder):
    experiment = build(config(folder))
    assert (
        experiment.two_stage_decode
        and experiment.scorer_view.image_shape == (8, 8, 3)
        and experiment.view.image_shape == (16, 16, 3)
    )
    fused, state, loader = first_state(experiment), first_state(experiment), experiment.loader(0)
    updates, step = (
        UpdateRunner(experiment, loader, restored=False),
        jax.jit(partial(al.train_step, reading_both(experiment))),
    )
    updates.compile(state, True)
    for n in range(3):
        state, metrics = updates(state, True, True)
        fused, (_, expected) = step(fused, candidates(experiment, n))
        np.testing.assert_array_equal(metrics.chosen.ids, expected.ids)
        np.testing.assert_array_equal(metrics.chosen.scores, expected.scores)
    same(state, fused)
    loader.close()


def test_only_what_was_chosen_is_decoded_in_full(folder, monkeypatch):
    experiment = build(config(folder))
    source = experiment.data.train.source
    whole = []
    monkeypatch.setattr(
        type(source),
        "_image",
        lambda self, files, row, size: whole.append(row) or np.zeros((size, size, 3), np.uint8),
    )
    state, loader = first_state(experiment), experiment.loader(0)
    updates = UpdateRunner(experiment, loader, restored=False)
    updates.compile(state, True)
    whole.clear()
    _, metrics = updates(state, True, True)
    loader.close()
    names = source.ids[np.searchsorted(source.rows, sorted(whole))]
    assert sorted(names) == sorted(join_id(np.asarray(metrics.chosen.ids)))


def test_the_scorers_bill_is_that_of_the_small_view(folder):
    experiment = build(config(folder))
    small, full = (
        dataclasses.replace(experiment.scorer).cost(shape) for shape in ((8, 8, 3), (16, 16, 3))
    )
    assert small.forward < full.forward / 2
    assert experiment.costs["online_score"] == b * RATIO * small.forward
    assert experiment.costs["online_train"] == b * small.train


@pytest.fixture(scope="module")
def ahead(folder, tmp_path_factory):
    where = tmp_path_factory.mktemp("runs") / "straight"
    return where, loop.run(config(folder, schedule="ahead"), where)


def test_selecting_ahead_scores_with_the_online_model_of_the_update_before(folder, ahead):
    """The run, its two-stage reading included, against the plain functions called in the order that
    defines it.
    """
    experiment = build(config(folder, schedule="ahead"))
    state = first_state(experiment)
    select, follow = (
        jax.jit(partial(step, reading_both(experiment)))
        for step in (al.select_step, train_on_selection)
    )
    _, chosen = select(state, candidates(experiment, 0))
    expected = []
    for n in range(WINDOW):
        expected.append(sorted(join_id(np.asarray(chosen.ids)).tolist()))
        _, later = select(
            dataclasses.replace(state, step=state.step + 1), candidates(experiment, n + 1)
        )
        state, _ = follow(state, candidates(experiment, n), chosen)
        chosen = later
    assert [sorted(step) for step in ids(ahead[0])[:WINDOW].tolist()] == expected
    same(models(ahead[0], ("online",))["online"], state.online.params)


def test_a_choice_made_ahead_survives_a_stop(folder, ahead, tmp_path):
    settings, (straight, summary) = config(folder, schedule="ahead"), ahead
    assert not loop.run(settings, tmp_path / "run", world.StopAfter(3))["complete"]
    last = loop.run(settings, tmp_path / "run")
    np.testing.assert_array_equal(ids(tmp_path / "run"), ids(straight))
    which = ("learner", "online")
    jax.tree.map(
        np.testing.assert_array_equal, models(tmp_path / "run", which), models(straight, which)
    )
    assert last["flops"] == summary["flops"]
    assert last["candidates"] == summary["candidates"] == WINDOW * b * RATIO


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    return world.write_arrays(tmp_path_factory.mktemp("arrays"))


def test_a_choice_made_ahead_is_dropped_when_the_window_closes(arrays):
    experiment = build(
        world.config(arrays, select=Select(policy=al.policies.hard, ratio=4, schedule="ahead"))
    )
    state, loader = with_pending(experiment, first_state(experiment)), experiment.loader(0)
    updates = UpdateRunner(experiment, loader, restored=False)
    for active in (True, False):
        updates.compile(state, active)
    for _ in range(2):
        state, _ = updates(state, True, True)
    assert loader.position == 3 * 64 and updates.position == 2 * 64
    _, metrics = updates(state, False, False)
    np.testing.assert_array_equal(metrics.rows, loader.stream.at(2 * 64, 16)[0])
    assert updates.position == loader.position == 2 * 64 + 16
    loader.close()


@pytest.mark.parametrize("schedule", ["exact", "ahead"])
def test_an_update_is_dispatched_without_waiting_for_the_device(arrays, schedule):
    """A sentinel: the update ends with a long computation, and the call is back before it is
    done.
    """

    def slow(batch, key):
        x = jax.lax.fori_loop(0, 500, lambda _, x: jnp.tanh(x @ x), jnp.eye(256) / 2)
        return batch | {"label": batch["label"] + (x[0, 0] > 2).astype(np.int32)}

    experiment = build(
        world.config(arrays, select=Select(policy=al.policies.hard, ratio=4, schedule=schedule)),
        jax.devices()[:1],
    )
    experiment = dataclasses.replace(
        experiment, recipe=dataclasses.replace(experiment.recipe, augment=slow)
    )
    state, loader = with_pending(experiment, first_state(experiment)), experiment.loader(0)
    updates = UpdateRunner(experiment, loader, restored=False)
    updates.compile(state, True)
    for _ in range(2):
        state, metrics = updates(state, True, True)
        assert not metrics.metrics["loss"].is_ready()
    jax.block_until_ready(state)
    assert loader.stall_seconds < 0.05  # the device was busy all the time
    loader.close()


def test_one_trace_inside_the_window_and_one_after_it(arrays, tmp_path, monkeypatch):
    traced = []
    for step in ("train_step", "uniform_step"):
        original = getattr(updates_module, step)
        monkeypatch.setattr(
            updates_module,
            step,
            lambda *a, original=original: traced.append(original.__name__) or original(*a),
        )
    changes = {"policy": al.policies.hard, "ratio": 4, "until": "50 %"}
    settings = world.config(arrays, select=Select(**changes), checkpoint=Checkpoint(every="100 %"))
    loop.run(settings, tmp_path / "run", profile=(2, 4))
    assert traced == ["train_step", "uniform_step"]
    (trace,) = (tmp_path / "run" / "profile").rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert [event["args"]["step_num"] for event in events if event.get("name") == "update"] == [
        "2",
        "3",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"select": chosen_by(schedule="later")},
            "config.select.schedule='later': expected one of 'exact', 'ahead'",
        ),
        (
            {"select": chosen_by(al.policies.rho)},
            "config.data.small=8: .* policy 'rho' scores with the learner",
        ),
        ({"small": 0, "small_view": True}, "config.small_view=True: there is no small view"),
    ],
)
def test_what_cannot_be_is_named(folder, changes, message):
    with pytest.raises(ConfigError, match=message):
        build(config(folder, **changes))
