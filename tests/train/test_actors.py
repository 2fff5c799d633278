"""Actors: other devices choose what `schedule='ahead'` chooses, with copies made anew every so many
updates, also after a stop.
"""

import dataclasses
import re
from functools import partial

import jax
import numpy as np
import optax
import pytest

import active_learning as al
from active_learning.config import ConfigError, config_hash
from active_learning.core.step import train_on_selection
from active_learning.references import CoTrained
from active_learning.settings import Evaluate, Log, Optim, Select
from active_learning.train import loop
from active_learning.train.build import build, first_state
from active_learning.train.updates import UpdateRunner, with_pending
from tests import world
from tests.train.test_loop import ids, models

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax")
WINDOW, STEPS, b, RATIO = 5, 6, 12, 4


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    return world.write_arrays(tmp_path_factory.mktemp("arrays"))


def select(actors: int = 2, **changes) -> Select:
    base = {
        "policy": al.policies.hard,
        "ratio": RATIO,
        "temperature": 0.3,
        "until": f"{WINDOW} steps",
        "schedule": "ahead",
    }
    return Select(actors=actors, **(base | changes))


def config(folder, chosen: Select, **changes):
    """Every update of the online model changes who is chosen."""
    base = {
        "batch_size": b,
        "total": f"{STEPS} steps",
        "scorer_optim": Optim(learning_rate=0.5, warmup="0 steps", transform=optax.sgd),
        "evaluate": Evaluate(every="100 %", subset=24, batch_size=24),
        "log": Log(every="100 %", chosen=True, snapshots=0),
    }
    return world.config(folder, select=chosen, **(base | changes))


def defined(experiment, refresh: int):
    """The plain functions on one device, called in the order that defines what actors do."""
    state, recipe = first_state(experiment), experiment.recipe
    choose, follow = (
        jax.jit(partial(step, recipe)) for step in (al.select_step, train_on_selection)
    )
    loader = experiment.loader(0)
    batches = [loader.next(b * RATIO).batch for _ in range(WINDOW)]
    loader.close()
    _, chosen = choose(state, batches[0])
    copy, every = state.online, []
    for n in range(WINDOW):
        every.append(np.sort(np.asarray(chosen.ids)[:, 1]).tolist())
        if n % refresh == 0:
            copy = jax.tree.map(lambda x: x.copy(), state.online)
        later = chosen
        if n + 1 < WINDOW:
            stale = dataclasses.replace(state, online=copy, step=state.step + 1)
            later = choose(stale, batches[n + 1])[1]
        state, _ = follow(state, batches[n], chosen)
        chosen = later
    return every, state.online.params


def run_ids(folder) -> list[list[int]]:
    return [np.sort(row & 0xFFFFFFFF).tolist() for row in ids(folder)[:WINDOW].astype(np.int64)]


@pytest.mark.parametrize("refresh", [1, 3])
def test_a_run_with_actors_is_its_definition_also_after_a_stop(arrays, tmp_path, refresh):
    """Two of eight devices score; with copies of every update the ids are those of 'ahead'."""
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    settings = config(arrays, select(refresh=refresh))
    summary = loop.run(settings, straight)
    alone = build(config(arrays, select(actors=0)), jax.devices()[:1])
    expected, online = defined(alone, refresh)
    assert run_ids(straight) == expected != defined(alone, 4 - refresh)[0]
    close = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    jax.tree.map(close, models(straight, ("online",))["online"], jax.device_get(online))
    assert not loop.run(settings, stopped, world.StopAfter(2))["complete"]
    again = loop.run(settings, stopped)
    np.testing.assert_array_equal(ids(stopped), ids(straight))
    which = ("learner", "online")
    jax.tree.map(np.testing.assert_array_equal, models(stopped, which), models(straight, which))
    assert again["flops"] == summary["flops"] and again["final"] == summary["final"]


def test_super_batches_lie_on_the_actors_and_the_learner_on_the_others(arrays):
    """With a reference, too, which goes to the actors once; ids are those of one device."""
    chosen = {"policy": al.policies.learnability}
    experiment = build(config(arrays, select(**chosen)))
    reference = experiment.init_scorer(jax.random.key(9))
    state, loader = (
        with_pending(experiment, first_state(experiment, reference)),
        experiment.loader(0),
    )
    updates = UpdateRunner(experiment, loader, restored=False)
    for active in (True, False):
        updates.compile(state, active)
    state, output = updates(state, True, True)
    scoring, training = set(jax.devices()[:2]), set(jax.devices()[2:])
    assert updates._prepared is not None and output.chosen is not None
    assert updates._prepared.batch.batch["image"].devices() == scoring
    assert updates._prepared.rows["image"].devices() == training
    assert updates._prepared.rows["image"].shape[0] == b
    assert state.learner.params["head"]["kernel"].devices() == training
    alone = build(config(arrays, select(actors=0, **chosen)), jax.devices()[:1])
    first = jax.device_put(
        experiment.data.train.batch(output.rows, output.epochs), jax.devices()[0]
    )
    choose = jax.jit(partial(al.select_step, alone.recipe))
    _, expected = choose(first_state(alone, jax.device_get(reference)), first)
    words = [np.sort(np.asarray(choice.ids)[:, 1]) for choice in (output.chosen, expected)]
    np.testing.assert_array_equal(*words)
    for program in (updates.selector._select, updates.selector._take, updates._compiled["train"]):
        moves = re.findall(r"= (.*) (?:all-gather|all-reduce)\(", program.as_text())
        assert not [shapes for shapes in moves if ",8,8,3]" in shapes]
    state, output = updates(state, False, False)
    assert output.chosen is None
    loader.close()


def test_devices_do_not_change_the_identity_of_a_run_and_stale_copies_do(arrays):
    hashes = [
        config_hash(config(arrays, chosen))
        for chosen in (select(0), select(2), select(4), select(2, refresh=2))
    ]
    assert hashes[0] == hashes[1] == hashes[2] != hashes[3]


@pytest.mark.parametrize(
    ("chosen", "changes", "message"),
    [
        (select(8), {}, "config.select.actors=8: of 8 devices at least one must train"),
        (select(9), {}, "config.select.actors=9: of 8 devices .* at most 7"),
        (select(2, refresh=0), {}, "config.select.refresh=0: must be at least 1"),
        (select(0, refresh=2), {}, "config.select.refresh=2: only with config.select.actors"),
        (select(2, schedule="exact"), {}, "config.select.schedule must be 'ahead'"),
        (select(5), {}, "config.select.actors=5: must divide config.batch_size=12"),
        (select(3), {}, "config.batch_size=12: not divisible by the 5 devices"),
        (
            select(2, policy=al.policies.uniform),
            {},
            "policy 'uniform' does not score during training",
        ),
        (
            select(2, policy=al.policies.learnability),
            {"reference": CoTrained()},
            "a co-trained reference trains on super-batches",
        ),
    ],
)
def test_what_cannot_be_is_named(arrays, chosen, changes, message):
    with pytest.raises(ConfigError, match=message):
        build(config(arrays, chosen, **changes))
