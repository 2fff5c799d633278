"""Published weights of two towers as the reference of image-text pairs, at their own size."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest

from active_learning.config import ConfigError
from active_learning.core import policies
from active_learning.data import tokenizer
from active_learning.models import Text, TwoTower
from active_learning.models.weights import write_weights
from active_learning.plan.advice import advice_lines
from active_learning.plan.cost_model import cost_model_of
from active_learning.plan.report import Assumptions, plan_lines
from active_learning.references import Embedded, Loaded
from active_learning.settings import Evaluate, Pairs
from active_learning.train import loop
from active_learning.train.build import abstract_state, build
from tests import pairs_world, world
from tests.models.weights import tiny
from tests.train.test_loop import ids

WORDS = tokenizer.train(["a dark red square", "the green one is bright"], 300)
TOKENS = tokenizer.of_json(WORDS)


def clip(end: int = TOKENS.end) -> TwoTower:
    module = tiny.clip(vocab=TOKENS.size, context=8, end=end)
    return dataclasses.replace(module, image=dataclasses.replace(module.image, patch=4))


def siglip() -> TwoTower:
    words = Text(vocab=TOKENS.size, context=8, pool="last", pad=TOKENS.pad, **tiny.SIZE)
    image = tiny.vit(pool="map", activation="gelu_tanh", patch=4)
    return TwoTower(image, words, 0, 8)


def written(folder, module, fmt):
    write_weights(folder, module, tiny.params_of(module), tiny.ABOUT, fmt)
    (folder / "tokenizer.json").write_bytes(WORDS)
    return folder


@pytest.fixture
def config(tmp_path):
    """Towers of MLPs whose tokenizer is that of the weights."""
    text = {"vocab": TOKENS.size}
    return pairs_world.config(
        pairs_world.write_tars(tmp_path, train=64, test=8),
        task=Pairs(loss="softmax", tokenizer=str(written(tmp_path / "clip", clip(), "hf"))),
        learner=pairs_world.towers(16, **text),
        scorer=pairs_world.towers(8, **text),
        split=dataclasses.replace(
            pairs_world.config(tmp_path).split, parts={"pool": 48, "gate": 8}
        ),
        reference=Loaded(path=str(tmp_path / "clip")),
        evaluate=Evaluate(every="2 steps", subset=8, batch_size=8, gate="gate"),
    )


def test_a_reference_of_another_architecture_scores_and_goes_on_bit_for_bit(config, tmp_path):
    whole = loop.run(config, tmp_path / "whole")
    assert whole["reference"] == {
        "accuracy": None,
        "flops": 0.0,
        "seconds": 0.0,
        "steps": 0,
        "charged": True,
    }
    assert not loop.run(config, tmp_path / "run", world.StopAfter(1))["complete"]
    assert loop.run(config, tmp_path / "run")["complete"]
    chosen = [ids(tmp_path / name) for name in ("whole", "run")]
    np.testing.assert_array_equal(*chosen)
    forward = clip().cost((8, 8, 3)).forward
    assert whole["flops"]["reference_score"] == 2 * 2 * 16 * forward
    said = json.loads((tmp_path / "whole" / "config.json").read_text())["weights"]["reference"]
    assert said["layout"] == "hf_clip"
    experiment = build(config)
    model = cost_model_of(config, experiment.learner, experiment.scorer, 48, (8, 8, 3))
    assert model.accounts() == whole["flops"]
    text = "\n".join(advice_lines(model, None, 0))
    cheaper = experiment.learner.cost((8, 8, 3)).forward / forward
    assert f"the reference is {cheaper:.1f}x cheaper than the learner" in text
    assert "config.reference.kind='embedded'" in text


def test_stored_embeddings_choose_what_the_reference_itself_chooses(config, tmp_path):
    loop.run(config, tmp_path / "live")
    reference = Embedded(path=config.reference.path)
    config = dataclasses.replace(config, reference=reference)
    assert not loop.run(config, tmp_path / "run", world.StopAfter(2))["complete"]
    done = loop.run(config, tmp_path / "run")
    chosen = [ids(tmp_path / name) for name in ("live", "run")]
    np.testing.assert_array_equal(*chosen)
    module = clip()
    once = 48 * module.image_cost((8, 8, 3)).forward + 96 * module.text_cost().forward
    assert done["flops"]["reference_score"] == once and done["reference"]["flops"] == 0
    lines = plan_lines(config, Assumptions())
    (line,) = [line for line in itertools.islice(lines, 6) if "reference_score" in line]
    assert line.split()[1] == f"{once:.3g}"
    experiment = build(config)
    model = cost_model_of(config, experiment.learner, experiment.scorer, 48, (8, 8, 3), 96)
    assert model.accounts() == done["flops"]
    assert model.break_even(4, "none") < model.break_even(4, "foundation dataset")
    name = "gate/reference_log_rank"
    rows = [
        [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("live", "run")
    ]
    gates = [[row[name] for row in one if name in row] for one in rows]
    assert gates[1][0] == pytest.approx(gates[0][0])
    select = dataclasses.replace(config.select, policy=policies.pair_learnability)
    joint = dataclasses.replace(config, select=select, total="2 steps")
    assert loop.run(joint, tmp_path / "joint")["complete"]
    with pytest.raises(ConfigError, match="is for image-text pairs; for labels, heads on"):
        build(world.config(world.write_arrays(tmp_path), reference=reference))
    with pytest.raises(ConfigError, match="needs config.reference.path, published weights"):
        build(dataclasses.replace(config, reference=Embedded()))


@pytest.mark.parametrize(
    ("module", "fmt"), [(clip(end=-1), "open_clip"), (siglip(), "hf"), (siglip(), "npz")]
)
def test_any_layout_of_two_towers_is_read(config, tmp_path, module, fmt):
    folder = written(tmp_path / "other", module, fmt)
    experiment = build(dataclasses.replace(config, reference=Loaded(path=str(folder))))
    reference = experiment.reference.obtain(experiment, tmp_path, loop.run)
    saved = tiny.params_of(module)
    np.testing.assert_array_equal(
        reference.params["image"]["block_0"]["mlp"]["up"]["kernel"],
        saved["image"]["block_0"]["mlp"]["up"]["kernel"],
    )
    like = jax.tree.map(np.shape, reference.params)
    assert (
        jax.tree.map(lambda leaf: leaf.shape, abstract_state(experiment).reference.params) == like
    )


def test_weights_that_cannot_score_are_refused_in_one_line(config, tmp_path):
    vit = written(tmp_path / "vit", tiny.vit(num_classes=3, **tiny.CLS), "timm")
    own = dataclasses.replace(config.task, tokenizer="")
    wide = pairs_world.towers(16, vocab=TOKENS.size, context=9)
    labels = world.config(world.write_arrays(tmp_path), reference=config.reference)
    for changed, message in (
        ({"reference": Loaded(path=str(vit))}, "layout timm_vit has no text tower"),
        ({"task": own}, "config.reference has a text tower that was trained with its own"),
        ({"learner": wide, "scorer": wide}, "reads texts of 8 tokens, .*context=9"),
        ({"reference": Loaded(path=str(tmp_path / "w.npz"))}, "config.reference.path: .*w.npz"),
    ):
        with pytest.raises(ConfigError, match=message):
            build(dataclasses.replace(config, **changed))
    with pytest.raises(ConfigError, match="published weights are a reference for image-text"):
        build(labels)
