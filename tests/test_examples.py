"""The examples run, are short, and use nothing of the package but the method."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest

import active_learning as al
from tests import toy
from tests.test_imports import imports

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NAMES = ["plain_jax", "linen", "nnx_model", "equinox_model"]


def test_selection_reaches_more_than_uniform_training_in_as_many_updates():
    main = importlib.import_module("examples.plain_jax").main
    assert main() > main(al.policies.uniform) + 0.03


@pytest.mark.parametrize("name", NAMES[1:])
def test_every_way_to_write_a_model_trains(name):
    if name == "equinox_model":
        pytest.importorskip("equinox", reason="pip install equinox (extra 'dev')")
    assert importlib.import_module(f"examples.{name}").main(updates=40) > 0.3


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_short_and_need_only_the_method(name):
    path = EXAMPLES / f"{name}.py"
    assert len(path.read_text().splitlines()) < 60
    ours = {module for module in imports(path) if module.startswith("active_learning")}
    assert ours == {"active_learning"}


def test_every_example_is_run():
    files = {path.stem for path in EXAMPLES.glob("*.py")}
    assert files == {*NAMES, "blobs", "__init__"}


def test_the_policy_of_the_guide_selects():
    guide = (EXAMPLES.parent / "docs" / "own_loop.md").read_text()
    scope = {}
    exec(re.search(r"```python\n(.*?)```", guide, re.S).group(1), scope)
    recipe = toy.recipe(policy=scope["by_learner"])
    _, chosen = al.select_step(recipe, toy.state(recipe), toy.batch(32))
    assert set(chosen.indices.tolist()) == set(np.argsort(-np.asarray(chosen.scores))[:8].tolist())
