"""References for labels that read the words of the classes, by hand and as a run."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from active_learning.config import ConfigError
from active_learning.core import policies
from active_learning.data import tokenizer
from active_learning.data.transforms import normalize
from active_learning.models.weights import write_weights
from active_learning.plan.cost_model import cost_model_of
from active_learning.references import ZeroShot
from active_learning.settings import Evaluate, Select
from active_learning.train import loop
from active_learning.train.build import build
from active_learning.train.stored_inputs import with_stored
from tests import pairs_world, world
from tests.models.weights import tiny
from tests.train.test_loop import ids

FILE = tokenizer.train(["a dark red square", "the green one is bright"], 300)
TOKENS = tokenizer.of_json(FILE)
WORDS = ("red", "green", "dark", "bright")
MODULE = tiny.clip(vocab=TOKENS.size, context=8, end=TOKENS.end)
MODULE = dataclasses.replace(MODULE, image=dataclasses.replace(MODULE.image, patch=4))
PARAMS = tiny.params_of(MODULE, shape=(8, 8, 3))
ABOUT = dataclasses.replace(tiny.ABOUT, image_shape=(8, 8, 3))


@pytest.fixture
def config(tmp_path):
    """Published towers beside a world of four classes."""
    write_weights(tmp_path / "clip", MODULE, PARAMS, ABOUT, "hf")
    (tmp_path / "clip" / "tokenizer.json").write_bytes(FILE)
    reference = ZeroShot(path=str(tmp_path / "clip"), words=WORDS, templates=("a {} square",))
    return world.config(
        world.write_arrays(tmp_path, train=160, test=20),
        split=dataclasses.replace(world.config(tmp_path).split, parts={"pool": 100, "gate": 30}),
        reference=reference,
        evaluate=Evaluate(every="2 steps", subset=20, batch_size=40, gate="gate"),
        total="4 steps",
    )


def by_hand(images, labels):
    """Cross-entropy of each label, from the module itself."""
    pixels = normalize(jnp.asarray(images), ABOUT.mean, ABOUT.std)
    texts = TOKENS.encode([f"a {word} square" for word in WORDS], 8)[0]
    apply = jax.jit(MODULE.apply)
    image = apply({"params": PARAMS}, pixels, jnp.asarray(texts[:1].repeat(len(images), 0)))
    text = apply({"params": PARAMS}, pixels[:4], jnp.asarray(texts))
    logits = np.asarray(image.scale[0] * image.image @ text.text.T, np.float64)
    rows = np.arange(len(labels))
    return np.log(np.exp(logits).sum(axis=1)) - logits[rows, labels]


def test_losses_are_those_of_labels_among_the_class_words(config, tmp_path):
    experiment, bill = with_stored(build(config), tmp_path / "run")
    train, rows = experiment.data.train, np.arange(20)
    expected = by_hand(train.images(rows), train.labels[rows])
    np.testing.assert_allclose(train.batch(rows, rows)["reference_loss"], expected, atol=1e-4)
    once = 100 * MODULE.image_cost((8, 8, 3)).forward + 4 * MODULE.text_cost().forward
    assert bill.flops == once and bill.seconds > 0
    gate = experiment.data.parts["gate"]
    losses = by_hand(gate.images(np.arange(30)), gate.labels)
    assert experiment.known.gate["loss"] == pytest.approx(losses.mean(), abs=1e-4)


def test_a_run_selects_by_it_and_goes_on_bit_for_bit(config, tmp_path):
    whole = loop.run(config, tmp_path / "whole")
    assert not loop.run(config, tmp_path / "run", world.StopAfter(2))["complete"]
    again = loop.run(config, tmp_path / "run")
    chosen = [ids(tmp_path / name) for name in ("whole", "run")]
    np.testing.assert_array_equal(*chosen)
    once = 100 * MODULE.image_cost((8, 8, 3)).forward + 4 * MODULE.text_cost().forward
    assert whole["flops"] == again["flops"] and whole["flops"]["reference_score"] == once
    experiment = build(config)
    sizes = experiment.learner, experiment.scorer, 100, (8, 8, 3)
    assert cost_model_of(config, *sizes, classes=4).accounts() == whole["flops"]
    free = dataclasses.replace(config.reference, charge=False)
    free = cost_model_of(dataclasses.replace(config, reference=free), *sizes, classes=4)
    assert free.reference_pass_flops == 0
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    assert any("gate/reference_metric" in json.loads(line) for line in lines)


def test_what_does_not_fit_gets_one_line(config, tmp_path):
    def refused(match, config=config, **changes):
        reference = dataclasses.replace(config.reference, **changes)
        with pytest.raises(ConfigError, match=match) as caught:
            build(dataclasses.replace(config, reference=reference))
        assert "\n" not in str(caught.value)

    refused("needs config.reference.path", path="")
    refused("config.reference.words: 3 for 4 classes", words=WORDS[:3])
    refused("needs a place '{}'", templates=("a square",))
    select = Select(policy=policies.rho)
    rho = dataclasses.replace(config, select=select)
    build(rho)  # reads losses alone
    write_weights(
        tmp_path / "vit",
        tiny.vit(num_classes=3, **tiny.CLS),
        tiny.params_of(tiny.vit(num_classes=3, **tiny.CLS)),
        tiny.ABOUT,
        "timm",
    )
    refused("layout timm_vit has no text tower", path=str(tmp_path / "vit"))
    (tmp_path / "clip" / "tokenizer.json").unlink()
    refused("config.reference.tokenizer='': there is none beside the weights")
    pairs = pairs_world.config(pairs_world.write_tars(tmp_path))
    with pytest.raises(ConfigError, match="scores labels; for image-text pairs use"):
        build(dataclasses.replace(pairs, reference=config.reference))
