"""Controls beside the method: InfoBatch, filter first, small-loss selection; each by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import active_learning as al
from active_learning import checkpoint
from active_learning.core import gradients, policies, scores
from active_learning.data.pruned import Pruned, kept
from active_learning.references import CrossFitted
from active_learning.references.pool_filter import filter_pool
from active_learning.settings import Select
from active_learning.train import loop
from active_learning.train.build import build
from tests import toy, world

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return world.write_arrays(tmp_path_factory.mktemp("arrays"))


def test_only_examples_below_the_mean_are_left_out_and_the_weights_make_up_for_it():
    losses = np.array([1.0, 2.0, 9.0, np.inf] * 1000, np.float32)  # the mean of the known is 4
    rows, weights = kept(losses, 0.5, seed=0, epoch=3)
    for value, share, weight in ((1.0, 0.5, 2.0), (2.0, 0.5, 2.0), (9.0, 1.0, 1.0), (np.inf, 1, 1)):
        mine = losses[rows] == value
        assert mine.sum() / 1000 == pytest.approx(share, abs=0.05)
        np.testing.assert_array_equal(weights[mine], weight)
    assert weights.sum() == pytest.approx(4000, rel=0.03)
    assert not np.array_equal(rows, kept(losses, 0.5, seed=0, epoch=4)[0])


def test_the_last_eighth_and_the_first_epoch_draw_everything():
    losses = np.arange(64, dtype=np.float32)
    stream = Pruned(None, seed=0, fraction=0.5, batch_size=8, total=100)
    assert stream.end == 0
    stream.begin(1, 0, np.full(64, np.inf, np.float32))
    assert stream.end == 64
    assert sorted(stream.at(0, 64)[0]) == list(range(64))
    stream.begin(2, 64, losses)
    assert 64 + 32 <= stream.end < 64 + 56 and stream.end % 8 == 0
    drawn = set(stream.at(64, stream.end - 64)[0].tolist())
    assert len(set(range(32, 64)) - drawn) < 8  # only what does not fill the last batch
    assert (stream.at(64, 8)[1] == 2).all()
    begins = stream.end
    stream.begin(3, 700, losses)  # from 0.875 x 100 updates of 8 examples on
    assert stream.end == 764 and begins < 764


def test_the_losses_of_the_training_pass_are_remembered():
    memory = {"loss": jnp.full((20,), jnp.inf), "snapshot": jnp.zeros(20)}
    recipe = toy.recipe(policy=policies.infobatch)
    batch = toy.batch(8) | {"row": jnp.array([3, 1, 4, 15, 9, 2, 6, 5]), "weight": jnp.ones(8) * 2}
    state = dataclasses.replace(toy.state(recipe), policy_state=memory)
    after, metrics = jax.jit(lambda s, b: al.uniform_step(recipe, s, b))(state, batch)
    expected = toy.loss(toy.apply(toy.params(1), batch, True), batch)
    np.testing.assert_allclose(after.policy_state["loss"][batch["row"]], expected, rtol=1e-5)
    assert np.isinf(after.policy_state["loss"]).sum() == 12
    assert float(metrics["loss"]) == pytest.approx(2 * float(expected.mean()), rel=1e-5)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_losses_come_in_the_order_of_the_batch_with_any_number_of_micro_batches(parts):
    batch, model, params = toy.batch(8), toy.model(0.1), toy.params(1)
    (loss, losses), _ = gradients.losses_and_grad(model, params, batch, jnp.ones(8), parts)
    expected = toy.loss(toy.apply(params, batch, True), batch)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert float(loss) == pytest.approx(float(expected.mean()), rel=1e-5)


def test_infobatch_charges_the_learner_only_and_resumes_bit_for_bit(data, tmp_path):
    config = world.config(data, select=Select(policy=policies.infobatch), total="80 steps")
    config = dataclasses.replace(config, ema="0 steps")
    straight = loop.run(config, tmp_path / "straight")
    # 400 examples of the pool, 25 updates an epoch: stopped within the second and at its begin.
    for stop in (25, 31):
        folder = tmp_path / f"run{stop}"
        assert not loop.run(config, folder, world.StopAfter(stop))["complete"]
        resumed = loop.run(config, folder)
        assert resumed["final"] == straight["final"]
        jax.tree.map(
            np.testing.assert_array_equal,
            checkpoint.load_params(folder),
            checkpoint.load_params(tmp_path / "straight"),
        )
    flops = straight["flops"]
    assert flops["learner_train"] == total_of(flops)
    chosen = [np.load(p) for p in sorted((tmp_path / "straight" / "chosen").glob("*.npy"))]
    ids = np.concatenate(chosen)
    assert len(np.unique(ids[:25])) == 400  # the first epoch is the whole pool
    assert len(np.unique(ids[25:50])) < 400  # a further one ends earlier and begins again


def total_of(flops):
    return sum(value for name, value in flops.items() if name != "recompute")


def test_filter_first_judges_every_example_by_the_model_that_has_not_seen_it(
    data, tmp_path, monkeypatch
):
    policy = dataclasses.replace(policies.offline_filter, pool_fraction=0.6)
    config = world.config(
        data,
        select=Select(policy=policy),
        reference=CrossFitted(total="3 steps", batch_size=16),
    )
    from active_learning.references import score_file

    seen = {}

    def score_all(model, params, part, batch_size=500):
        k = int(params["k"])
        seen[k] = part.ids
        return np.asarray(part.ids % 97, np.float32) + k, None

    monkeypatch.setattr(score_file, "score_all", score_all)
    experiment = build(config)
    train = experiment.data.train
    (tmp_path / "filter").mkdir()
    kept_on, flops, _ = filter_pool(experiment, {"k": np.arange(2)}, tmp_path / "filter")
    scored_by = train.columns["scored_by"]
    for k in (0, 1):
        np.testing.assert_array_equal(seen[k], train.ids[scored_by == k])
    losses = train.ids % 97 + scored_by
    expected = np.sort(train.ids[np.argsort(losses, kind="stable")[:240]])
    np.testing.assert_array_equal(kept_on.data.train.ids, expected)
    assert flops == 400 * experiment.scorer.cost((8, 8, 3)).forward  # each example once


def test_filter_first_charges_both_trainings_and_one_pass(data, tmp_path):
    policy = dataclasses.replace(policies.offline_filter, pool_fraction=0.6)
    config = world.config(
        data, select=Select(policy=policy), reference=CrossFitted(total="3 steps", batch_size=16)
    )
    summary = loop.run(config, tmp_path / "run")
    scorer = build(config).scorer.cost((8, 8, 3))
    assert summary["flops"]["reference_train"] == 2 * 3 * 16 * scorer.train
    assert summary["flops"]["reference_score"] == 400 * scorer.forward


def test_small_loss_takes_the_smallest_losses_of_the_training_pass():
    recipe = toy.recipe(policy=policies.small_loss)
    state, batch = toy.state(recipe), toy.batch(32)
    _, (_, chosen) = jax.jit(lambda s, b: al.train_step(recipe, s, b))(state, batch)
    losses = np.asarray(toy.loss(toy.apply(toy.params(1), batch, True), batch))
    assert set(chosen.indices.tolist()) == set(np.argsort(losses)[:8].tolist())
    values, _ = scores.small_loss(scores.ScoreInputs(learner=jnp.array([1.0, 3.0])), ())
    np.testing.assert_array_equal(values, [-1.0, -3.0])
