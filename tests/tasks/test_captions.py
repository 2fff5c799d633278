"""Image-text pairs end to end: from tars to retrieval figures, in the one loop."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from active_learning.config import ConfigError, config_hash, from_json, identity, to_json
from active_learning.core import policies
from active_learning.core.step import select_step
from active_learning.data.sources.source import DataError
from active_learning.evaluate import evaluate
from active_learning.models import Text, TwoTower, ViT
from active_learning.references import CrossFitted, Stored
from active_learning.settings import Evaluate, Pairs, Select, Split
from active_learning.train import loop
from active_learning.train.build import build, first_state
from active_learning.train.recorder import SelectionLogger
from tests import pairs_world, world

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pairs_world.write_tars(tmp_path_factory.mktemp("pairs"))


def test_a_run_from_the_tars_to_figures(folder, tmp_path):
    config = pairs_world.config(folder)
    summary = loop.run(config, tmp_path / "a")
    assert summary["complete"]
    assert 0 <= summary["final"]["test_full/recall"] <= 1
    assert summary["reference"]["accuracy"] is not None
    lines = [
        json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    ]
    assert any("gate/online_log_rank" in line for line in lines)
    noisy = [
        line["candidates/corrupted_fraction"]
        for line in lines
        if "candidates/corrupted_fraction" in line
    ]
    assert np.mean(noisy) == pytest.approx(0.5, abs=0.13)
    result = evaluate(tmp_path / "a")["test"]
    assert result["log_rank"] == pytest.approx(summary["final"]["test_full/log_rank"], rel=1e-5)


def test_exchanged_captions_follow_the_config_and_only_there(folder):
    experiment = build(pairs_world.config(folder))
    assert experiment.data.parts["pool"].is_corrupted.mean() == 0.5
    assert not experiment.data.parts["reference"].is_corrupted.any()
    assert not experiment.data.parts["test"].is_corrupted.any()
    assert experiment.data.train.is_corrupted.sum() == 32
    again = build(
        pairs_world.config(
            folder, split=Split(parts={"pool": 64, "reference": 16, "gate": 8, "tune": 8}, fold=1)
        )
    )
    ids = experiment.data.train.source.ids[experiment.data.train.indices]
    there = dict(zip(ids, experiment.data.train.caption_of, strict=True))
    half = again.data.train
    assert all(
        there[i] == c for i, c in zip(half.source.ids[half.indices], half.caption_of, strict=True)
    )


def test_the_tokens_of_a_batch_are_those_of_its_captions_by_id_and_epoch(folder):
    part = build(pairs_world.config(folder)).data.train
    rows, zeros = np.arange(8), np.zeros(8, np.int32)
    first, second = part.batch(rows, zeros), part.batch(rows[::-1], zeros)
    np.testing.assert_array_equal(first["tokens"], second["tokens"][::-1])
    epochs = np.arange(20)
    seen = {part.batch(rows[:1], epochs[e : e + 1])["tokens"].tobytes() for e in epochs}
    assert len(seen) == 2
    assert first["tokens"].dtype == np.int32
    caption_of = part.caption_of[rows]
    assert all(
        (part.captions.tokens[caption_of[i]] == first["tokens"][i][None]).all(axis=1).any()
        for i in rows
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": Pairs(loss="hinge")}, "config.task.loss='hinge'"),
        ({"task": Pairs(shuffled_captions={"nowhere": 0.5})}, "no part is named 'nowhere'"),
        ({"task": Pairs(text="words")}, "no text column 'words'|no column"),
        ({"task": Pairs(tokenizer="/nowhere/x.json")}, "no such file"),
        ({"scorer": pairs_world.towers(context=12)}, "config.scorer.text.context=12"),
        (
            {"scorer": pairs_world.towers(vocab=260)},
            r"config.scorer.text.vocab=260: the tokenizer has \d+ tokens",
        ),
        ({"learner": pairs_world.towers().image}, "config.learner: MLP has no text tower"),
        ({"task": Pairs(loss_chunk=5)}, "config.task.loss_chunk=5"),
        ({"reference": Stored(path="x")}, "stored embeddings of pairs are not a model"),
    ],
)
def test_what_cannot_run_is_one_clear_line(folder, changes, message):
    with pytest.raises((ConfigError, DataError), match=message):
        build(pairs_world.config(folder, **changes))


def test_a_pair_without_a_caption_is_named(tmp_path):
    pairs_world.write_tars(tmp_path, 24, 8)
    blob = (tmp_path / "train-0.tar").read_bytes()
    empty = blob.replace(
        b'["a dark red square", "the red one is dark"]',
        b'["                 ", "                   "]',
    )
    assert empty != blob
    (tmp_path / "train-0.tar").write_bytes(empty)
    with pytest.raises(DataError, match=r"train0\d+ .no captions"):
        build(
            pairs_world.config(
                tmp_path,
                split=Split(parts={"pool": 16, "reference": 8}),
                evaluate=Evaluate(),
                select=Select(ratio=1),
            )
        )


def test_a_reference_of_another_tokenizer_is_refused(tmp_path, folder):
    data = build(pairs_world.config(folder)).data
    (tmp_path / "config.json").write_text(json.dumps({"data": {"tokenizer": "other"}}))
    with pytest.raises(ConfigError, match="trained with tokenizer other"):
        Pairs().check_loaded_reference(tmp_path, data)


def test_the_task_survives_json(folder, tmp_path):
    assert "task" not in identity(world.config(tmp_path))
    pair = pairs_world.config(folder)
    assert from_json(json.loads(json.dumps(to_json(pair)))) == pair
    assert config_hash(pair) != config_hash(
        dataclasses.replace(pair, task=Pairs(loss="softmax", shuffled_captions={"pool": 0.5}))
    )
    assert pair.select.policy is policies.learnability


def test_both_losses_give_finite_gradients_over_devices(folder):
    result = {}
    for count in (1, 8):
        experiment = build(pairs_world.config(folder), jax.devices()[:count])
        params = experiment.init_learner(jax.random.key(0))
        batch = {
            k: jnp.asarray(v)
            for k, v in experiment.data.train.batch(np.arange(16), np.zeros(16, np.int32)).items()
            if k in ("image", "tokens")
        }
        model = experiment.recipe.learner
        loss = lambda p, m=model, b=batch: m.learn_loss(m.apply(p, b, True), b).mean()
        result[count] = jax.device_get(jax.jit(jax.value_and_grad(loss))(params))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), result[1], result[8]
    )


VIT_TOWERS = TwoTower(
    ViT(width=8, depth=1, heads=2, patch=4),
    Text(vocab=320, context=8, width=8, depth=1, heads=2, pool="last"),
    0,
    8,
)
JOINT = Select(policy=policies.joint, ratio=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"select": JOINT, "task": Pairs(loss="softmax")},
            "config.task.loss='softmax': 'joint' needs 'sigmoid'",
        ),
        (
            {"select": Select(policy=policies.offline_filter)},
            "'offline_filter' filters by losses of labels",
        ),
        (
            {"select": JOINT, "reference": CrossFitted()},
            "compares pairs across both references",
        ),
        (
            {"select": dataclasses.replace(JOINT, standardize=True)},
            "has no single scores",
        ),
        ({"grad_accum_steps": 3}, "config.grad_accum_steps=3: must divide"),
    ],
)
def test_what_joint_selection_cannot_do_is_one_clear_line(folder, changes, message):
    with pytest.raises(ConfigError, match=message):
        build(pairs_world.config(folder, **changes))


def test_a_joint_policy_on_labels_is_refused(tmp_path):
    config = world.config(world.write_arrays(tmp_path), select=dataclasses.replace(JOINT, ratio=4))
    with pytest.raises(ConfigError, match=r"scores image-text pairs; set config.task"):
        build(config)


@pytest.mark.parametrize(
    "policy", [policies.joint, policies.pair_learnability], ids=lambda p: p.name
)
def test_choices_by_pairs_are_the_same_on_eight_devices(folder, policy):
    config = pairs_world.config(
        folder, select=dataclasses.replace(JOINT, policy=policy), task=Pairs(loss_chunk=8)
    )
    chosen = {}
    for count in (1, 8):
        experiment = build(config, jax.devices()[:count])
        reference = experiment.init_scorer(jax.random.key(7))
        batch, *_ = experiment.loader(0).next(32)
        result = jax.jit(partial(select_step, experiment.recipe))(
            first_state(experiment, reference), batch
        )[1]
        assert len(np.unique(result.indices)) == 16
        chosen[count] = sorted(np.asarray(result.indices).tolist())
    assert chosen[1] == chosen[8]


def test_nearly_uniform_sampling_is_warned_of_once(folder, tmp_path, caplog):
    experiment = build(pairs_world.config(folder))
    notes = SelectionLogger(experiment, tmp_path, 0)
    with caplog.at_level("WARNING"):
        for _ in range(2):
            notes._values = {"select/ess_fraction": [0.99]}
            notes.summary()
    text = (
        "the sampling is nearly uniform (effective sample size 0.990 of the super-batch): lower "
        "config.select.temperature"
    )
    assert [r.message for r in caplog.records] == [f"{text}, or raise config.task.score_scale"]
