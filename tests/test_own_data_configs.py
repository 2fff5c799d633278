"""The configs for own data hold one recipe, written out in each so that any can be copied."""

import importlib

import pytest

from active_learning.config import freeze

OTHERS = ("webdataset", "arrays", "parquet", "array_record", "tfds")
RECIPE = ("select", "split", "evaluate", "fit", "optim", "scorer_optim", "total", "ema")
RECIPE += ("reference",)


@pytest.mark.parametrize("arm", ["learnability", "uniform"])
@pytest.mark.parametrize("name", OTHERS)
def test_the_recipe_is_that_of_the_folder_config(name, arm):
    folder, other = (
        freeze(importlib.import_module(f"configs.{one}").get_config(arm))
        for one in ("folder", name)
    )
    assert type(other.data) is not type(folder.data)
    assert [getattr(other, key) for key in RECIPE] == [getattr(folder, key) for key in RECIPE]
