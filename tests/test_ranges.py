"""Every number of a config has its range with its field, and every refusal names the key."""

import dataclasses

import pytest

from active_learning import settings
from active_learning.config import (
    ConfigError,
    check_ranges,
    fields_of,
    freeze,
    from_flags,
    section,
)
from active_learning.config.registry import REGISTRY
from active_learning.core.policies import Policy
from active_learning.models import MLP, ResNet, Text, TwoTower, ViT

OURS = {
    kind: cls
    for kind, cls in REGISTRY.kinds.items()
    if cls.__module__.startswith("active_learning.") and cls is not Policy
}


def numbers():
    """(class, field) of every number of every section and model."""
    for kind, cls in OURS.items():
        for name, field in fields_of(cls).items():
            if field.type in (int, float, "int", "float", tuple[int, ...], tuple[float, ...]):
                yield pytest.param(cls, name, id=f"{kind}.{name}")


def test_the_classes_are_those_of_the_package():
    assert settings.Config in OURS.values() and ViT in OURS.values() and len(OURS) > 25


@pytest.mark.parametrize(("cls", "name"), list(numbers()))
def test_a_number_has_a_least_and_a_most(cls, name):
    metadata = fields_of(cls)[name].metadata
    assert metadata.keys() & {"at_least", "above"}, "no least value"
    assert metadata.keys() & {"at_most", "below"}, "no largest value"


BAD = (float("nan"), float("inf"), float("-inf"), -(10**20), 10**20)


@pytest.mark.parametrize("cls", [MLP, ResNet, Text, TwoTower, ViT, settings.Optim])
def test_numbers_outside_of_their_range_are_refused_by_name(cls):
    for name, field in fields_of(cls).items():
        if field.type not in (int, float, "int", "float"):
            continue
        for value in BAD:
            tree = section(cls)
            with tree.ignore_type():
                tree[name] = value
            with pytest.raises(ConfigError, match=rf"^config\.{name}="):
                freeze(tree)


@pytest.mark.parametrize(
    ("cls", "name", "value", "message"),
    [
        (ResNet, "stages", (2, -1), r"config.stages\[1\]=-1: must be at least 1"),
        (ResNet, "stages", (2, 2.5), r"config.stages=\(2, 2.5\): expected several values, all int"),
        (ResNet, "stages", ("a",), "expected several values, all int"),
        (ViT, "dtype", "float31", "config.dtype='float31': expected one of 'float32'"),
        (ViT, "pool", "max", "config.pool='max': expected one of 'gap'"),
        (Text, "pool", "first", "config.pool='first': expected one of 'mean'"),
        (settings.Split, "parts", {"pool": -1}, "config.parts.pool=-1: must be at least 0"),
        (settings.Split, "parts", {"pool": "x"}, "config.parts.pool='x': expected a number"),
        (settings.Split, "parts", {"pool": True}, "config.parts.pool=True: expected a number"),
        (
            settings.Split,
            "train_on",
            (1,),
            r"config.train_on=\(1,\): expected several values, all str",
        ),
        (settings.Augmentation, "area", (0.5, 2.0), r"config.area\[1\]=2.0: must be at most 1"),
        (settings.Pairs, "shuffled_captions", {"pool": 1.5}, "must be at most 1.0"),
    ],
)
def test_values_of_several_kinds(cls, name, value, message):
    tree = section(cls)
    with tree.ignore_type():
        tree[name] = value
    with pytest.raises(ConfigError, match=message):
        freeze(tree)


def broken(value, key="config"):
    """(dotted key, the section with nan in its place) of every float in a section."""
    for name in fields_of(type(value)):
        item = getattr(value, name)
        if isinstance(item, float):
            yield f"{key}.{name}", dataclasses.replace(value, **{name: float("nan")})
        elif dataclasses.is_dataclass(item) and not isinstance(item, type):
            for place, inner in broken(item, f"{key}.{name}"):
                yield place, dataclasses.replace(value, **{name: inner})


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # absl
def test_every_part_of_a_config_is_reached():
    """A frozen config made in Python is checked as one from the command line is."""
    config, _ = from_flags(["--config=configs/arrays.py"])
    check_ranges(config)
    keys = []
    for key, wrong in broken(config):
        with pytest.raises(ConfigError, match=rf"^{key}=nan"):
            check_ranges(wrong)
        keys.append(key)
    parts = {key.split(".")[1] for key in keys}
    assert {"data", "learner", "optim", "select", "augmentation", "reference"} <= parts
    also = dataclasses.replace(config.evaluate, also={"more": next(broken(config.optim))[1]})
    with pytest.raises(ConfigError, match=r"^config\.also\.more\.\w+=nan"):
        check_ranges(also)
