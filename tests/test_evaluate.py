"""Evaluation: exact figures, padded last batch included; the command line on a run's folder."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from active_learning import evaluate
from active_learning.data.parts import Part
from active_learning.data.sources.source import Memory
from active_learning.evaluators import Accuracy
from active_learning.settings import Select
from active_learning.train import loop
from tests import toy, world


@pytest.mark.parametrize("batch_size", [1, 7, 32, 100])
def test_figures_do_not_depend_on_the_batch_size(batch_size):
    rows = toy.batch(32)
    images, labels = (
        np.asarray(rows["image"]),
        np.asarray(rows["label"]) % 4,
    )  # class 4 never occurs
    part = Part(Memory(images, {"label": labels}, toy.CLASSES), np.arange(32), labels, None)
    figures = Accuracy(toy.model(0.1), toy.CLASSES, batch_size)(toy.params(1), part)
    logits = np.asarray(toy.apply(toy.params(1), {"image": jnp.asarray(images)}, False)["logits"])
    hit = logits.argmax(axis=1) == labels
    per_class = [hit[labels == c].mean() for c in range(4)]
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert figures["accuracy"] == pytest.approx(hit.mean())
    assert figures["loss"] == pytest.approx(-log_p[np.arange(32), labels].mean(), rel=1e-4)
    assert figures["per_class"] == pytest.approx([*per_class, None])
    assert figures["worst_class"] == pytest.approx(min(per_class))


def test_the_command_prints_what_the_run_ended_with(tmp_path, capsys):
    config = world.config(world.write_arrays(tmp_path))
    summary = loop.run(config, tmp_path / "run")
    assert evaluate.main([str(tmp_path / "run")]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["test"]["accuracy"] == pytest.approx(summary["final"]["test_full/accuracy"])
    assert evaluate.main([str(tmp_path / "run"), "--set", "tune", "--model", "reference"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"tune"}
    assert evaluate.main([str(tmp_path / "run"), "--set", "nope"]) == 2
    assert "no part is named 'nope'" in capsys.readouterr().err
    assert evaluate.main([str(tmp_path / "nowhere")]) == 2
    assert "no run there" in capsys.readouterr().err


def test_moved_data_are_known_by_their_content(tmp_path, capsys):
    (tmp_path / "old").mkdir()
    config = world.config(world.write_arrays(tmp_path / "old"), select=Select())
    summary = loop.run(config, tmp_path / "run")
    (tmp_path / "old").rename(tmp_path / "new")
    assert evaluate.main([str(tmp_path / "run")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert evaluate.main([str(tmp_path / "run"), f"--data={tmp_path / 'new'}"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["test"]["accuracy"] == pytest.approx(summary["final"]["test_full/accuracy"])
    (tmp_path / "other").mkdir()
    world.write_arrays(tmp_path / "other", seed=1)
    assert evaluate.main([str(tmp_path / "run"), f"--data={tmp_path / 'other'}"]) == 2
    assert "other data than those of" in capsys.readouterr().err
