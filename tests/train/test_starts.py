"""Runs that start from published weights: any class count and resolution, frozen parts, resume."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from active_learning import checkpoint
from active_learning.config import ConfigError, config_hash
from active_learning.data import tokenizer
from active_learning.export import main
from active_learning.models import Published, Text, TwoTower, ViT
from active_learning.models.frozen import frozen_mask
from active_learning.models.weights import open_weights, write_weights
from active_learning.settings import Pairs, Select
from active_learning.train import loop, overview
from active_learning.train.build import abstract_state, build, first_state
from tests import pairs_world, world
from tests.models.weights import tiny

TEXT = Text(vocab=300, context=8, width=8, depth=1, heads=2)
MODULE = tiny.vit(num_classes=7, patch=4, **tiny.CLS)


@pytest.fixture
def config(tmp_path):
    """Images of 8 px in 4 classes; weights for 16 px and 7 classes."""
    write_weights(tmp_path / "weights", MODULE, tiny.params_of(MODULE), tiny.ABOUT, "timm")
    learner = Published(path=str(tmp_path / "weights"), layer_decay=0.7, head_rate=3.0)
    return world.config(world.write_arrays(tmp_path), learner=learner)


def with_(config, **fields):
    return dataclasses.replace(config, learner=dataclasses.replace(config.learner, **fields))


def assert_same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_the_state_begins_with_the_files_parameters_and_normalization(config):
    experiment = build(config)
    assert (experiment.view.mean, experiment.view.std) == (tiny.ABOUT.mean, tiny.ABOUT.std)
    assert experiment.scorer_view.mean != tiny.ABOUT.mean
    state = first_state(experiment, experiment.init_scorer(jax.random.key(0)))
    saved = tiny.params_of(MODULE)
    learner = jax.device_get(state.learner.params)
    assert_same(learner["block_1"], saved["block_1"])
    assert learner["position"].shape == (1 + 2 * 2, 8)
    assert not np.any(learner["head"]["kernel"]) and learner["head"]["kernel"].shape == (8, 4)
    like = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), abstract_state(experiment))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == like


@pytest.mark.parametrize("freeze", ["", "all but head", "first 1 blocks"])
def test_what_is_frozen_stays_and_a_stopped_run_goes_on_bit_for_bit(config, tmp_path, freeze):
    config = with_(dataclasses.replace(config, select=Select(), total="6 steps"), freeze=freeze)
    assert loop.run(config, tmp_path / "whole")["complete"]
    assert not loop.run(config, tmp_path / "stopped", world.StopAfter(3))["complete"]
    assert loop.run(config, tmp_path / "stopped")["complete"]
    whole, again = (checkpoint.load_params(tmp_path / name) for name in ("whole", "stopped"))
    assert_same(again, whole)
    experiment = build(config)
    begin = jax.device_get(first_state(experiment).learner.params)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), begin, whole)
    frozen = frozen_mask(begin, freeze)
    for path, stays in jax.tree_util.tree_leaves_with_path(frozen):
        leaf = moved
        for key in path:
            leaf = leaf[key.key]
        if not str(path[-2:]).count("key"):  # The key bias has no gradient but rounding.
            assert leaf != stays, jax.tree_util.keystr(path)
    if freeze:
        free = build(with_(config, freeze=""))
        assert experiment.uniform_costs["learner_train"] < free.uniform_costs["learner_train"]
        sizes = zip(jax.tree.leaves(whole), jax.tree.leaves(frozen), strict=True)
        trained = sum(leaf.size for leaf, stays in sizes if not stays)
        (line,) = [line for line in overview.lines(experiment) if line.startswith("learner")]
        assert f"trains {trained:,} of 1,556 parameters" in line


def test_the_folder_says_what_was_taken_and_refuses_another_file(config, tmp_path):
    config = dataclasses.replace(config, select=Select(), total="3 steps")
    assert not loop.run(config, tmp_path / "run", world.StopAfter(1))["complete"]
    report = json.loads((tmp_path / "run" / "config.json").read_text())["weights"]["learner"]
    assert report["layout"] == "timm_vit"
    assert any(line.startswith("new") and "head/kernel" in line for line in report["table"])
    write_weights(tmp_path / "weights", MODULE, tiny.params_of(MODULE, seed=1), tiny.ABOUT, "timm")
    with pytest.raises(ConfigError, match=r"weights file of config.learner.path changed"):
        loop.run(config, tmp_path / "run")


def test_a_published_scorer_is_its_own_reference_too(config, tmp_path):
    scorer = dataclasses.replace(config.learner, layer_decay=1.0, head_rate=1.0)
    config = dataclasses.replace(config, scorer=scorer, total="3 steps")
    experiment = build(config)
    online = jax.device_get(first_state(experiment, experiment.init_scorer(jax.random.key(0))))
    assert_same(online.online.params["block_0"], tiny.params_of(MODULE)["block_0"])
    assert loop.run(config, tmp_path / "run")["complete"]


def test_keys_that_change_numbers_are_a_part_of_the_identity(config):
    hashes = {
        config_hash(with_(config, **fields))
        for fields in ({}, {"freeze": "all but head"}, {"head": "normal"}, {"layer_decay": 0.5})
    }
    assert len(hashes) == 4
    assert config_hash(with_(config, scan=True)) == config_hash(config)


def test_a_run_is_exported_and_is_a_start_again(config, tmp_path):
    config = dataclasses.replace(config, select=Select(), total="3 steps")
    assert loop.run(config, tmp_path / "run")["complete"]
    trained = checkpoint.load_params(tmp_path / "run")
    for fmt in ("timm", "hf", "npz", "own"):
        out = tmp_path / fmt
        assert main([str(tmp_path / "run"), str(out), f"--format={fmt}"]) == 0
        read = open_weights(out)
        assert_same(read.params(), trained)
        assert (read.about.image_shape, read.about.mean) == ((8, 8, 3), tiny.ABOUT.mean)
    again = dataclasses.replace(config, learner=Published(path=str(tmp_path / "timm")))
    assert_same(jax.device_get(first_state(build(again)).learner.params), trained)
    assert main([str(tmp_path / "run"), str(tmp_path / "timm")]) == 2
    assert isinstance(read.module, ViT)


def test_two_towers_start_from_clip_with_its_tokenizer(tmp_path):
    """Locked-image tuning: the image tower stays, the text tower learns."""
    folder = tmp_path / "clip"
    tokens = tokenizer.of_json(tokenizer.train(["a red square"], 300))
    image = tiny.vit(pool="cls", prefix_positions=1, embed_bias=False, pre_norm=True, patch=4)
    module = tiny.clip(vocab=tokens.size, context=8, end=tokens.end)
    module = dataclasses.replace(module, image=image)
    write_weights(folder, module, tiny.params_of(module), tiny.ABOUT, "hf")
    scorer = TwoTower(ViT(width=8, depth=1, heads=2, patch=4), TEXT, 4, 4)
    config = pairs_world.config(
        pairs_world.write_tars(tmp_path),
        learner=Published(path=str(folder), freeze="image"),
        scorer=scorer,
        select=Select(),
        total="2 steps",
    )
    config = dataclasses.replace(config, task=Pairs(loss="softmax"))
    with pytest.raises(ConfigError, match=r"config.task.tokenizer='': config.learner has a text"):
        build(config)
    (folder / "tokenizer.json").write_bytes(tokenizer.train(["a red square"], 300))
    with pytest.raises(ConfigError, match=r"there is one beside the weights: .*tokenizer.json"):
        build(config)
    config = dataclasses.replace(config, task=Pairs(loss="softmax", tokenizer=str(folder)))
    assert loop.run(config, tmp_path / "run")["complete"]
    trained, begin = checkpoint.load_params(tmp_path / "run"), tiny.params_of(module)
    assert_same(trained["image"]["block_0"], begin["image"]["block_0"])
    assert_same(trained["image_head"], begin["image_head"])
    assert (trained["text"]["embed"] != begin["text"]["embed"]).any()
