"""The levels of amortisation, each run as a mode: what it chooses, that its bill is what its
programs ran, and what is refused.
"""

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from active_learning import checkpoint, store_scores
from active_learning.config import ConfigError
from active_learning.core import policies
from active_learning.core.step import select_step, train_step
from active_learning.cost import ledger
from active_learning.data.errors import DataError
from active_learning.data.loader import Candidates
from active_learning.models import MLP
from active_learning.references import CoTrained, Loaded, Stored, score_file
from active_learning.settings import Log, Select, Split
from active_learning.train import loop
from active_learning.train.build import build, first_state
from active_learning.train.updates import UpdateRunner
from tests import world
from tests.hlo import product_flops
from tests.train.test_loop import ids, lines

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax")
STEPS, WINDOW, RATIO, b, REFERENCE_STEPS = 24, 12, 4, 16, 20
SHARP = Select(policy=policies.learnability, ratio=RATIO, temperature=0.05, until=f"{WINDOW} steps")
LARGER = MLP(width=48, depth=2)
# Scorers that run live; examples that the reference was trained on in this run over uniform's.
LEVELS = {
    "none": (2, REFERENCE_STEPS / STEPS),
    "pretrained": (2, 0.0),
    "foundation dataset": (1, 0.0),
    "replayed policy": (0, 0.0),
    "replayed by a larger learner": (0, 0.0),
    "cotrained": (2, WINDOW / STEPS * RATIO),
}


@dataclass(frozen=True)
class Level:
    """A run that is over."""

    config: object
    folder: Path
    summary: dict
    counted: float  # FLOPs of the products in the compiled programs, as often as each ran


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return world.write_arrays(tmp_path_factory.mktemp("arrays"))


def configured(data, **changes):
    """24 updates, the candidates of which wrap around the pool (400 examples), so that epochs
    matter.
    """
    changes = {"select": SHARP, "log": Log(every="50 %", chosen=True, snapshots=0)} | changes
    return world.config(data, total=f"{STEPS} steps", **changes)


def close(one, other):
    """The learners of two runs."""
    within = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    jax.tree.map(within, checkpoint.load_params(one), checkpoint.load_params(other))


@pytest.fixture(scope="module")
def levels(data, tmp_path_factory):
    """By name; the stored scores lie beside the runs."""
    out, compiled, result = tmp_path_factory.mktemp("levels"), {}, {}
    original = UpdateRunner.compile

    def counting(self, state, active):
        original(self, state, active)
        text = self._compiled["train" if active else "uniform"].as_text()
        experiment = self.experiment
        flops = product_flops(text) * experiment.mesh.size
        compiled[experiment.config.name, active] = flops

    def run(level, **changes):
        config, folder = configured(data, name=level, **changes), out / level
        summary = loop.run(config, folder)
        inside = summary["window_steps"]
        counted = compiled.get((level, True), 0.0) * inside + compiled[level, False] * (
            STEPS - inside
        )
        if level == "none":
            counted += compiled["reference", False] * REFERENCE_STEPS
        result[level] = Level(config, folder, summary, counted)
        return folder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UpdateRunner, "compile", counting)
        live = run("none")
        run(
            "pretrained",
            reference=Loaded(path=str(live / "reference"), charge=False),
        )
        file, _ = store_scores.store(
            live / "reference", result["none"].config, out=out / "scores.npz"
        )
        run("foundation dataset", reference=Stored(path=str(file)))
        run("replayed policy", select=Select(replay=str(live)))
        run("replayed by a larger learner", select=Select(replay=str(live)), learner=LARGER)
        run("cotrained", reference=CoTrained())
    return result


@pytest.mark.parametrize("level", LEVELS)
def test_the_ledger_of_a_run_is_what_its_compiled_steps_ran(levels, level):
    one = levels[level]
    assert one.summary["window_steps"] == (WINDOW if LEVELS[level][0] else 0)
    assert sum(one.summary["flops"].values()) == pytest.approx(one.counted, rel=0.005)


@pytest.mark.parametrize("level", LEVELS)
def test_the_ledger_of_a_run_is_the_closed_form_in_the_three_forward_convention(levels, level):
    """The bill with every backward pass at two forward passes: the first layer's input gradient
    added.
    """
    one, (scorers, kappa) = levels[level], LEVELS[level]
    costs = {
        name: dataclasses.replace(module, num_classes=world.CLASSES).cost((8, 8, 3))
        for name, module in (("learner", one.config.learner), ("scorer", one.config.scorer))
    }
    thrice = {name: 3 * cost.forward / cost.train for name, cost in costs.items()}
    by = {
        "learner_train": thrice["learner"],
        "online_train": thrice["scorer"],
        "reference_train": thrice["scorer"],
    }
    bill = sum(value * by.get(account, 1.0) for account, value in one.summary["flops"].items())
    uniform = STEPS * b * 3 * costs["learner"].forward
    r, window = (
        costs["scorer"].forward / costs["learner"].forward,
        WINDOW / STEPS if scorers else 0.0,
    )
    expected = ledger.closed_form(1.0, window, r, RATIO, kappa, scorers=scorers)
    assert bill / uniform == pytest.approx(expected, rel=0.01)


def test_stored_scores_choose_what_a_running_reference_chooses_and_cost_nothing(levels):
    live, ours = levels["none"], levels["foundation dataset"]
    np.testing.assert_array_equal(ids(ours.folder), ids(live.folder))
    np.testing.assert_array_equal(ids(levels["pretrained"].folder), ids(live.folder))
    assert (
        ours.summary["flops"]["reference_score"] == ours.summary["flops"]["reference_train"] == 0.0
    )
    assert ours.summary["flops"]["online_score"] == live.summary["flops"]["online_score"] > 0
    for mine, theirs in zip(lines(ours.folder), lines(live.folder), strict=True):
        for name in ("gate/reference_accuracy", "gate/reference_loss"):
            assert mine.get(name, 0.0) == pytest.approx(theirs.get(name, 0.0), rel=1e-5)


def test_fed_the_live_runs_state_stored_scores_choose_what_a_running_reference_chooses(
    data, levels
):
    """At each of 1,000 updates.

    The stored losses were computed by a program of their own, in other batches.
    """
    live = levels["none"].folder
    reference = Stored(path=str(live.parent / "scores.npz"))
    sharp = dataclasses.replace(SHARP, until="100 %")
    experiment = build(
        world.config(data, total="1000 steps", select=sharp, reference=reference), jax.devices()[:1]
    )
    part, size = experiment.data.train, RATIO * b
    stream = Candidates(part, experiment.config.seed)
    when = [
        np.stack(values)
        for values in zip(*(stream.at(n * size, size) for n in range(1000)), strict=True)
    ]
    every = part.batch(np.arange(len(part)), np.zeros(len(part), np.int32))
    state = first_state(experiment, checkpoint.load_params(live, "reference"))

    def update(state, now):
        rows, epochs = now
        batch = {name: values[rows] for name, values in every.items()} | {"epoch": epochs}
        of_others = batch | {score_file.COLUMN: batch[score_file.COLUMN][::-1]}
        read, wrong = (
            select_step(experiment.recipe, state, one)[1].ids for one in (batch, of_others)
        )
        del batch[score_file.COLUMN]
        state, (_, chosen) = train_step(experiment.recipe, state, batch)
        common = lambda ids: jnp.mean(
            jnp.any(jnp.all(ids[:, None] == chosen.ids[None], axis=-1), axis=-1)
        )
        return state, (common(read), common(wrong))

    every = jax.device_put(every)
    _, (read, wrong) = jax.jit(lambda state, when: jax.lax.scan(update, state, when))(
        state, tuple(when)
    )
    assert read.mean() >= 0.999
    assert wrong.mean() < 0.9  # the scores decide


def test_a_replay_trains_the_recorded_learner_and_runs_no_scorer(levels):
    """After 24 updates; training is another program than selecting and training, so rounding may
    differ.
    """
    live, ours = levels["none"], levels["replayed policy"]
    np.testing.assert_array_equal(ids(ours.folder), ids(live.folder))
    close(ours.folder, live.folder)
    assert {account for account, value in ours.summary["flops"].items() if value} == {
        "learner_train"
    }
    assert ours.summary["flops"]["learner_train"] == live.summary["flops"]["learner_train"]


def test_two_replays_are_equal_bit_for_bit_also_when_one_was_stopped(levels, tmp_path):
    first = levels["replayed policy"]
    assert not loop.run(first.config, tmp_path / "run", world.StopAfter(10))["complete"]
    again = loop.run(first.config, tmp_path / "run")
    np.testing.assert_array_equal(ids(tmp_path / "run"), ids(first.folder))
    jax.tree.map(
        np.testing.assert_array_equal,
        checkpoint.load_params(tmp_path / "run"),
        checkpoint.load_params(first.folder),
    )
    assert again["final"] == first.summary["final"]


def test_a_larger_learner_is_trained_on_recorded_choices_without_any_scorer(levels):
    """Not one product of the compiled step is a scorer's, and the state holds none."""
    ours = levels["replayed by a larger learner"]
    np.testing.assert_array_equal(ids(ours.folder), ids(levels["none"].folder))
    learner = dataclasses.replace(LARGER, num_classes=world.CLASSES).cost((8, 8, 3))
    assert ours.counted == STEPS * b * learner.train
    for which in ("online", "reference"):
        with pytest.raises(ConfigError, match=f"its state has no '{which}'"):
            checkpoint.load_params(ours.folder, which)


def test_importance_weights_are_replayed(data, tmp_path):
    select = Select(policy=policies.gradient_norm, ratio=4)
    loop.run(world.config(data, select=select, total="8 steps"), tmp_path / "first")
    config = world.config(data, select=Select(replay=str(tmp_path / "first")), total="8 steps")
    loop.run(config, tmp_path / "second")
    close(tmp_path / "second", tmp_path / "first")
    with np.load(next((tmp_path / "first" / "chosen").glob("*.npz"))) as more:
        assert more["weight"].std() > 0


def in_another_order(data, folder):
    """The same examples as in `data`, the last first."""
    for part in ("train", "test"):
        with np.load(data / f"{part}.npz") as columns:
            np.savez(
                folder / f"{part}.npz", **{name: values[::-1] for name, values in columns.items()}
            )
    return folder


def test_what_does_not_fit_is_refused(data, levels, tmp_path, tmp_path_factory):
    folder = levels["none"].folder
    config = levels["replayed policy"].config
    other = world.write_arrays(tmp_path_factory.mktemp("other"), seed=1)
    turned = in_another_order(data, tmp_path_factory.mktemp("turned"))
    cases = [
        ({"select": Select(replay=str(tmp_path / "nowhere"))}, "no recorded choices there"),
        ({"data": dataclasses.replace(config.data, path=str(other))}, "recorded on other data"),
        ({"data": dataclasses.replace(config.data, path=str(turned))}, "recorded on other data"),
        (
            {"split": Split(parts={"pool": 200, "gate": 40})},
            r"replay: id \d+ and \d+ more are not among these 200",
        ),
        ({"batch_size": 8}, r"16 ids an update, but config\.batch_size=8"),
        ({"total": "25 steps"}, "24 updates are recorded, config.total needs 25"),
        ({"select": Select(policy=policies.hard, replay=str(folder))}, "policy must be uniform"),
    ]
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    sorted((damaged / "chosen").glob("*.npy"))[0].unlink()
    cases.append(({"select": Select(replay=str(damaged))}, "updates 0 to 00000012 are missing"))
    for changes, message in cases:
        with pytest.raises((ConfigError, DataError), match=message) as error:
            loop.run(dataclasses.replace(config, **changes), tmp_path / "run")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
