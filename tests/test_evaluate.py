"""Evaluation: exact figures, padded last batch included; the command line on a run's folder."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from active_learning import evaluate, export, store_scores
from active_learning.data.parts import Part
from active_learning.data.sources import Mixture, WebDataset
from active_learning.data.sources.source import DataError, Memory
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
    metrics = Accuracy(toy.model(0.1), toy.CLASSES, batch_size)(toy.params(1), part)
    logits = np.asarray(toy.apply(toy.params(1), {"image": jnp.asarray(images)}, False)["logits"])
    hit = logits.argmax(axis=1) == labels
    per_class = [hit[labels == c].mean() for c in range(4)]
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert metrics["accuracy"] == pytest.approx(hit.mean())
    assert metrics["loss"] == pytest.approx(-log_p[np.arange(32), labels].mean(), rel=1e-4)
    assert metrics["per_class"] == pytest.approx([*per_class, None])
    assert metrics["worst_class"] == pytest.approx(min(per_class))


def test_the_command_prints_what_the_run_ended_with(tmp_path, capsys):
    config = world.config(world.write_arrays(tmp_path))
    summary = loop.run(config, tmp_path / "run")
    assert evaluate.main([str(tmp_path / "run")]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["test"]["accuracy"] == pytest.approx(summary["final"]["test_full/accuracy"])
    assert evaluate.main([str(tmp_path / "run"), "--set", "tune", "--model", "reference"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"tune"}
    assert evaluate.main([str(tmp_path / "run"), "--set", "nope"]) == 2
    assert "no part is named 'nope'" in capsys.readouterr().err
    assert evaluate.main([str(tmp_path / "nowhere")]) == 2
    assert "no run there" in capsys.readouterr().err


def test_moved_data_are_found_by_a_flag_and_compared_by_content(tmp_path, capsys):
    (tmp_path / "old").mkdir()
    config = world.config(world.write_arrays(tmp_path / "old"))
    config = dataclasses.replace(config, select=Select(), total="2 steps")
    final = loop.run(config, tmp_path / "run")["final"]
    (tmp_path / "old").rename(tmp_path / "new")
    run, moved = str(tmp_path / "run"), f"--data={tmp_path / 'new'}"
    for command, rest in ((evaluate, ()), (export, (str(tmp_path / "out"),)), (store_scores, ())):
        assert command.main([run, *rest]) == 2
        assert str(tmp_path / "old") in capsys.readouterr().err
        assert command.main([run, *rest, moved]) == 0
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'new'}/scores-" in printed  # beside the data
    evaluated = evaluate.evaluate(tmp_path / "run", data=str(tmp_path / "new"))
    assert evaluated["test"]["accuracy"] == pytest.approx(final["test_full/accuracy"])
    with np.load(tmp_path / "new" / "train.npz") as train:
        arrays = dict(train)
    arrays["image"][0] ^= 1
    np.savez(tmp_path / "new" / "train.npz", **arrays)
    for command, rest in ((evaluate, ()), (export, (str(tmp_path / "again"),))):
        assert command.main([run, *rest, moved]) == 2
        error = capsys.readouterr().err
        assert "trained on data of content hash" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("test_path", "moved"),
    [
        ("/old/train/test", "/new/b/test"),
        ("/old/test-{0..3}.tar", "/new/test-{0..3}.tar"),
        ("/far/test", "/far/test"),
        ("", ""),
    ],
)
def test_paths_in_or_beside_the_moved_one_follow(test_path, moved):
    section = WebDataset(path="/old/train", test_path=test_path).moved("/new/b")
    assert (section.path, section.test_path) == ("/new/b", moved)


def test_a_mixture_has_no_path_to_move():
    with pytest.raises(DataError, match="--data=x: Mixture has no path of its own"):
        Mixture().moved("x")
