"""Stored, co-trained, cross-fitted references and the filtered pool: what they score, what they
cost, what is refused.
"""

import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import active_learning as al
from active_learning import checkpoint, store_scores
from active_learning.config import ConfigError
from active_learning.core import policies
from active_learning.core import step as step_module
from active_learning.cost import ledger
from active_learning.data import splits
from active_learning.data.sources.source import DataError
from active_learning.evaluate import evaluate
from active_learning.metrics import read_summary
from active_learning.references import (
    CopyOfOnline,
    CoTrained,
    CrossFitted,
    Loaded,
    Stored,
    Trained,
    score_file,
)
from active_learning.references.crossfitted import check_out_of_fold
from active_learning.settings import Select, Split
from active_learning.storage import workers
from active_learning.storage.pieces import Pieces
from active_learning.storage.workers import Task
from active_learning.train import build, loop, run_folder
from tests import toy, world
from tests.core.test_policies import (
    LEARNER,
    RATIO,
    SCORER,
    SHAPE,
    TASK,
    VIEW,
    B,
    images,
    step_and_state,
)
from tests.hlo import product_flops
from tests.train.test_loop import ids

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return world.write_arrays(tmp_path_factory.mktemp("arrays"))


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "reference"
    loop.run(world.own_run(world.config(data)), folder)
    return folder


@pytest.fixture(scope="module")
def scores(data, reference, tmp_path_factory):
    file = tmp_path_factory.mktemp("scores") / "scores.npz"
    return store_scores.store(reference, world.config(data), out=file)


def with_stored(data, file, **expected):
    return world.config(data, reference=Stored(path=str(file), **expected))


def test_stored_losses_are_the_live_ones(data, reference, scores):
    experiment = build.build(with_stored(data, scores[0]))
    params = checkpoint.load_params(reference)
    rows = np.arange(0, 400, 7)
    batch = jax.device_put(experiment.data.train.batch(rows, np.zeros(len(rows), np.int32)))
    expected = experiment.recipe.scorer.act_loss(
        experiment.recipe.scorer.apply(params, batch, False), batch
    )
    np.testing.assert_allclose(batch[score_file.COLUMN], expected, atol=1e-5)
    assert scores[1]["model"] == checkpoint.params_hash(params)
    assert (scores[1]["view"], scores[1]["dtype"], scores[1]["examples"]) == (
        "plain 8x8x3",
        "float32",
        600,
    )


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_the_file_is_what_its_suffix_says(data, scores, tmp_path, suffix):
    file, about = scores
    whole = score_file.read(file, about["data"], about["view"])
    other = tmp_path / f"s.{suffix}"
    score_file.write(other, whole)
    result = score_file.read(other, about["data"], about["view"])
    for name in ("ids", "labels", "loss", "hit"):
        np.testing.assert_array_equal(getattr(result, name), getattr(whole, name))
        assert getattr(result, name).dtype == getattr(whole, name).dtype
    experiment = build.build(with_stored(data, other))
    assert score_file.COLUMN in experiment.data.train.columns
    other.write_bytes(b"damaged")
    with pytest.raises(DataError, match="sha256"):
        build.build(with_stored(data, other))


def small_pieces(count):
    return [np.arange(start, min(start + 200, count)) for start in range(0, count, 200)]


def test_a_stopped_pass_goes_on_on_all_devices(data, reference, scores, tmp_path, monkeypatch):
    monkeypatch.setattr(score_file, "pieces_of", small_pieces)
    done, save = [], Pieces.save

    def stopping(self, *piece):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(piece[0])
        save(self, *piece)

    monkeypatch.setattr(Pieces, "save", stopping)
    with pytest.raises(KeyboardInterrupt):
        store_scores.store(reference, world.config(data), out=tmp_path / "s.npz")
    assert done == ["0", "200"] and not (tmp_path / "s.npz").exists()
    monkeypatch.setattr(
        Pieces, "save", lambda self, *piece: done.append(piece[0]) or save(self, *piece)
    )
    for _ in range(2):  # the second time it is complete
        store_scores.store(reference, world.config(data), out=tmp_path / "s.npz")
    assert done == ["0", "200", "400"]  # of the second pass only what was missing
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.json", "s.npz"]
    with np.load(tmp_path / "s.npz") as ours, np.load(scores[0]) as theirs:
        np.testing.assert_allclose(ours["loss"], theirs["loss"], atol=1e-6)


def test_workers_score_what_one_scores(data, reference, tmp_path, monkeypatch):
    monkeypatch.setattr(score_file, "pieces_of", small_pieces)
    store = lambda out, task: store_scores.store(
        reference, world.config(data), out=tmp_path / out / "s.npz", task=task
    )
    for out in ("one", "two"):
        (tmp_path / out).mkdir()
    _, about = store("one", Task())
    assert store("two", Task(1, 2))[1] == {}
    with pytest.raises(
        ConfigError, match=r"s.npz: 2 of 3 pieces are missing; run --task=0/2 again"
    ):
        store("two", Task(finish=True))
    store("two", Task(0, 2))
    with (
        workers.held(tmp_path / "two" / ".s.npz.pieces", Task(0, 2), store_scores.KIND),
        pytest.raises(ConfigError, match=r"s.npz: process \d+ on .* is at work on it"),
    ):
        store("two", Task(finish=True))
    assert store("two", Task(finish=True))[1] == about
    assert store("two", Task(1, 2))[1] == about  # a worker that comes late finds all done
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / out).iterdir()}
        for out in ("one", "two")
    )
    assert one == two and sorted(one) == ["s.json", "s.npz"]


def test_the_command_writes_beside_the_data(data, reference, capsys):
    assert store_scores.main([str(reference)]) == 0
    printed = capsys.readouterr().out
    assert "600 scores of model" in printed
    assert next(data.glob("scores-*.npz")).with_suffix(".json").exists()
    assert store_scores.main([str(data / "nowhere")]) == 2
    assert "no run there" in capsys.readouterr().err


def test_stored_scores_that_do_not_fit_are_refused(data, scores, tmp_path, tmp_path_factory):
    file, about = scores
    result = score_file.read(file, about["data"], about["view"])

    def changed(name, **changes):
        path = tmp_path / f"{name}.npz"
        score_file.write(path, dataclasses.replace(result, **changes))
        return path

    half = {name: getattr(result, name)[:300] for name in ("ids", "labels", "loss", "hit")}
    damaged = changed("damaged")
    damaged.write_bytes(damaged.read_bytes()[:-8])
    cases = [
        (tmp_path / "none.npz", DataError, "no none.npz there"),
        (damaged, DataError, "damaged or replaced"),
        (
            changed("view", about=result.about | {"view": "plain 9x9x3"}),
            DataError,
            "scores of another view",
        ),
        (changed("data", about=result.about | {"data": "0"}), DataError, "scores of another data"),
        (changed("half", **half), DataError, "are not among these 300 examples"),
        (changed("labels", labels=(result.labels + 1) % 4), DataError, "was scored with label"),
    ]
    cases = [(with_stored(data, path), *rest) for path, *rest in cases]
    of_another = "scores of another model .* there, 00ff in this config"
    cases.append((with_stored(data, file, model="00ff"), DataError, of_another))
    for config, error, message in cases:
        with pytest.raises(error, match=message) as raised:
            loop.run(config, tmp_path / "run")
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_go_on_with_other_scores(data, reference, scores, tmp_path):
    config = with_stored(
        data, scores[0], model=checkpoint.params_hash(checkpoint.load_params(reference))
    )
    about = build.build(config).data.provenance
    assert about["scores"] == scores[1]["sha256"][:16]
    run_folder.init_workdir(tmp_path / "run", config, {"data": about, "weights": {}})
    (tmp_path / "run" / "metrics.jsonl").touch()  # it has begun
    run_folder.init_workdir(tmp_path / "run", config, {"data": about, "weights": {}})
    for key, what in (("scores", "stored scores"), ("hash", "data")):
        with pytest.raises(ConfigError, match=f"run: {what} changed since the run started: "):
            run_folder.init_workdir(
                tmp_path / "run", config, {"data": about | {key: "0"}, "weights": {}}
            )
    fewer = about | {"hash": "0", "examples": about["examples"] - 1}
    numbers = f"({about['examples']} examples, now {fewer['examples']}); continue with those"
    with pytest.raises(ConfigError, match=re.escape(numbers)):
        run_folder.init_workdir(tmp_path / "run", config, {"data": fewer, "weights": {}})


def test_a_cotrained_reference_sees_the_whole_super_batch_at_twice_the_rate(data):
    experiment = build.build(world.config(data, reference=CoTrained()))
    assert experiment.costs["reference_train"] == 64 * experiment.scorer.cost((8, 8, 3)).train
    step = lambda model, params: model.optimizer.update(
        params, model.optimizer.init(params), params
    )[0]
    ones = {"w": jnp.ones(3)}
    np.testing.assert_allclose(
        step(experiment.recipe.reference, ones)["w"],
        2 * step(experiment.recipe.scorer, ones)["w"],
        rtol=1e-5,
    )
    model = toy.model(0.125)
    recipe = toy.recipe(reference=model)
    state, batch = toy.state(recipe), toy.batch(32)
    after, (metrics, chosen) = jax.jit(partial(al.train_step, recipe))(state, batch)
    by_hand, *_ = step_module._optimizer_step(model, state.reference, batch, jnp.ones(32), 1)
    np.testing.assert_allclose(
        after.reference.params["w"], by_hand.params["w"], rtol=1e-5, atol=1e-7
    )
    frozen = al.select_step(toy.recipe(), toy.state(toy.recipe()), batch)[1]
    np.testing.assert_allclose(
        chosen.scores, frozen.scores, rtol=1e-5, atol=1e-6
    )  # scored before it is trained
    assert "reference_loss" in metrics


def test_cross_fitted_references_score_only_what_they_have_not_seen(data, tmp_path):
    config = world.config(data, reference=CrossFitted(total="6 steps", batch_size=16))
    experiment = build.build(config)
    mine = experiment.data.train.source.ids[experiment.data.train.indices]
    scored_by = experiment.data.train.columns["scored_by"]
    for k in range(2):
        theirs = build.build(config.reference.own_runs(config)[f"fold{k}"]).data.train
        seen = theirs.source.ids[theirs.indices]
        assert not set(seen.tolist()) & set(mine[scored_by == k].tolist())
        assert set(seen.tolist()) | set(mine[scored_by == k].tolist()) == set(mine.tolist())
    summary = loop.run(config, tmp_path / "run")
    assert summary["flops"]["reference_score"] == 2 * summary["flops"]["online_score"]
    assert (
        summary["flops"]["reference_train"] == 2 * 6 * 16 * experiment.scorer.cost((8, 8, 3)).train
    )
    own = [read_summary(tmp_path / "run" / "reference" / f"fold{k}")["final"] for k in range(2)]
    assert summary["reference"]["accuracy"] == np.mean([one["test_full/accuracy"] for one in own])
    with pytest.raises(ConfigError, match="its references are cross-fitted"):
        checkpoint.load_params(tmp_path / "run", "reference")
    with pytest.raises(
        DataError, match="'trained on by reference 1' and 'scored by reference 1' share 1 ids"
    ):
        check_out_of_fold(
            [np.array([1]), np.array([2, 3])], np.array([1, 2, 3]), np.array([1, 0, 1])
        )


def test_what_is_known_of_a_reference_that_is_not_trained_beforehand(data, scores, tmp_path):
    stored_bill = loop.run(with_stored(data, scores[0]), tmp_path / "stored")["reference"]
    assert stored_bill == {
        "accuracy": None,
        "flops": 0.0,
        "seconds": 0.0,
        "steps": 0,
        "charged": False,
    }
    config = world.config(data, reference=CoTrained())
    bill = loop.run(config, tmp_path / "along")["reference"]
    own = evaluate(tmp_path / "along", which="reference")["test"]["accuracy"]
    assert bill == {
        "accuracy": pytest.approx(own),
        "flops": 0.0,
        "seconds": 0.0,
        "steps": 0,
        "charged": True,
    }


def test_a_stored_loss_scores_as_the_reference_that_it_is_of():
    recipe, batch = toy.recipe(), toy.batch(32)
    running, other = (
        al.init_state(recipe, jax.random.key(0), *map(toy.params, (1, 2, seed))) for seed in (3, 4)
    )
    loss = recipe.scorer.act_loss(recipe.scorer.apply(toy.params(3), batch, False), batch)
    read = al.select_step(recipe, other, batch | {"reference_loss": loss})[
        1
    ]  # the state's reference is not asked
    np.testing.assert_allclose(
        read.scores, al.select_step(recipe, running, batch)[1].scores, rtol=1e-6, atol=1e-6
    )


def test_each_example_is_scored_by_its_own_reference():
    recipe, batch = toy.recipe(), toy.batch(32)
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), toy.params(3), toy.params(4))
    state = al.init_state(recipe, jax.random.key(0), toy.params(1), toy.params(2), both)
    by = jnp.arange(32) % 2
    chosen = al.select_step(recipe, state, batch | {"scored_by": by})[1]
    alone = [
        al.select_step(
            recipe, al.init_state(recipe, jax.random.key(0), *map(toy.params, (1, 2, seed))), batch
        )[1].scores
        for seed in (3, 4)
    ]
    np.testing.assert_allclose(chosen.scores, np.where(by == 0, *alone), rtol=1e-6)


KINDS = {kind.kind_name: kind for kind in (Stored, CoTrained, CrossFitted)}


def compiled_flops(step, state, batch) -> float:
    return product_flops(jax.jit(step).lower(state, batch).compile().as_text())


@pytest.mark.parametrize("kind", ["stored", "cotrained", "crossfitted"])
def test_the_ledger_charges_what_each_kind_of_reference_runs(kind):
    import optax

    changes = {"reference": TASK.model(SCORER, VIEW, optax.sgd(0.1))} if kind == "cotrained" else {}
    # an augmented view: on the plain one the compiler shares the forward pass between scoring and
    # training the reference
    changes |= {"augment": lambda batch, key: batch | {"image": batch["image"][:, ::-1]}}
    step, state = step_and_state(policies.learnability, **changes)
    batch, rows = images(RATIO * B), jnp.arange(RATIO * B)
    if kind == "stored":
        batch |= {"reference_loss": jnp.ones(rows.shape)}
    if kind == "crossfitted":
        twice = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), state.reference)
        state, batch = dataclasses.replace(state, reference=twice), batch | {"scored_by": rows % 2}
    references, cotrained = KINDS[kind].models_scoring, KINDS[kind].trains_along
    costs = ledger.step_costs(
        LEARNER.cost(SHAPE),
        SCORER.cost(SHAPE),
        ("online", "reference"),
        B,
        RATIO,
        references=references,
        cotrained=cotrained,
    )
    assert compiled_flops(step, state, batch) == pytest.approx(sum(costs.values()), rel=0.005)


def test_the_pool_is_filtered_once_by_the_reference(data, reference, scores, tmp_path):
    select = Select(policy=dataclasses.replace(policies.offline_filter, pool_fraction=0.25))
    config = world.config(data, select=select, reference=Loaded(path=str(reference)))
    experiment = build.build(config)
    assert not loop.run(config, tmp_path / "run", world.StopAfter(7))["complete"]
    summary = loop.run(config, tmp_path / "run")
    losses, _ = score_file.score_all(
        experiment.recipe.scorer, checkpoint.load_params(reference), experiment.data.train
    )
    pool = experiment.data.train.source.ids[experiment.data.train.indices]
    allowed = set(pool[np.argsort(losses)[:100]].tolist())
    assert set(ids(tmp_path / "run").ravel().tolist()) <= allowed
    assert summary["flops"]["reference_score"] == 400 * experiment.scorer.cost((8, 8, 3)).forward
    assert summary["flops"]["online_score"] == 0.0
    free = loop.run(
        dataclasses.replace(config, reference=Stored(path=str(scores[0]))),
        tmp_path / "b",
    )
    assert free["flops"]["reference_score"] == 0.0
    np.testing.assert_array_equal(ids(tmp_path / "b"), ids(tmp_path / "run"))


@pytest.mark.parametrize(
    ("select", "reference", "message"),
    [
        (
            Select(policy=policies.easy_reference),
            CopyOfOnline(),
            "trains no online model to copy",
        ),
        (
            Select(policy=policies.learnability),
            Stored(),
            "needs config.reference.path, a file",
        ),
        (
            Select(policy=policies.offline_filter),
            CoTrained(),
            "scores once, with a reference that exists",
        ),
        (
            Select(policy=dataclasses.replace(policies.offline_filter, pool_fraction=0.0)),
            Trained(),
            r"pool_fraction=0\.0: expected a fraction",
        ),
    ],
)
def test_references_that_cannot_be_are_refused(data, tmp_path, select, reference, message):
    with pytest.raises(ConfigError, match=message):
        loop.run(world.config(data, select=select, reference=reference), tmp_path / "run")


def test_folds_are_halves_by_id():
    fold = splits.fold_of(np.arange(10_000))
    assert set(fold.tolist()) == {0, 1}
    assert abs(fold.mean() - 0.5) < 0.02
    assert Split().fold == -1
