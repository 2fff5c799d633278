"""Config: durations, sections and back, one clear line for what is wrong."""

import dataclasses
import importlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from active_learning.checks import resolve
from active_learning.config import (
    ConfigError,
    config_hash,
    differences,
    freeze,
    from_flags,
    from_json,
    section,
    to_json,
    to_steps,
)
from active_learning.core import policies
from active_learning.data.sources.image_folder import ImageFolder
from active_learning.settings import Config, Evaluate, Optim, Select


@dataclass(frozen=True)
class FakeData:
    path: str = "here"
    n: int = 3


def make(**changes):
    return section(
        Config,
        data=section(FakeData),
        learner=section(FakeData),
        scorer=section(FakeData),
        **changes,
    )


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        ("240 steps", 240),
        (240, 240),
        ("1 step", 1),
        ("2 epochs", 20),
        ("0.5 epochs", 5),
        ("1_000 examples", 100),
        ("35 %", 70),
        ("35%", 70),
        ("10 percent", 20),
    ],
)
def test_durations_in_every_unit(duration, steps):
    assert to_steps(duration, "config.total", batch_size=10, pool=100, total=200) == steps


@pytest.mark.parametrize(
    ("duration", "message"),
    [
        ("10 epochs 3 steps", "two durations, give one"),
        ("10 weeks", "unknown unit 'weeks'"),
        ("soon", "expected a number with steps"),
        ("-3 steps", "expected a number with steps"),
    ],
)
def test_a_wrong_duration_names_the_key(duration, message):
    with pytest.raises(ConfigError, match=rf"config\.total='{duration}': {message}"):
        to_steps(duration, "config.total", batch_size=10, pool=100)


def test_a_percentage_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="a share of what"):
        to_steps("10 %", "config.total", batch_size=10, pool=100)


def test_section_and_freeze_are_inverse():
    tree = make(name="arm", select=section(Select, policy=policies.learnability, ratio=4))
    tree.data.path = "there"
    tree.optim.learning_rate = 0.5
    config = freeze(tree)
    assert isinstance(config, Config)
    assert config.data == FakeData(path="there")
    assert config.optim == Optim(learning_rate=0.5)
    assert config.select.policy is policies.learnability
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.name = "x"


FILES = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.py"))
from_file = pytest.mark.filterwarnings(
    "ignore:the load_module:DeprecationWarning"
)  # ml_collections


def leaves(node, key="config"):
    """Every number, text and switch of a frozen config, by dotted key; those of the policy are its
    own.
    """
    if dataclasses.is_dataclass(node) and not key.endswith(".policy"):
        node = {f.name: getattr(node, f.name) for f in dataclasses.fields(node)}
    if isinstance(node, dict):
        for name, value in node.items():
            yield from leaves(value, f"{key}.{name}")
    elif isinstance(node, int | float | str):
        yield key, node


@from_file
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_flag_changes_every_number_text_and_switch(file):
    config, _ = from_flags([f"--config={file}"])
    before = dict(leaves(config))
    after = {
        key: not value
        if isinstance(value, bool)
        else f"{value}x"
        if isinstance(value, str)
        else value + 1
        for key, value in before.items()
    }
    changed, rest = from_flags(
        [f"--config={file}", *(f"--{key}={value}" for key, value in after.items()), "--more"]
    )
    assert len(before) > 60
    assert dict(leaves(changed)) == after
    assert rest == ["--more"]


@from_file
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_unknown_arm_is_one_line_that_names_the_known_ones(file):
    with pytest.raises(
        ConfigError, match=r"^arm 'hardd' after the colon: expected one of .*uniform"
    ) as direct:
        importlib.import_module(f"configs.{file.stem}").get_config("hardd")
    with pytest.raises(ConfigError) as error:
        from_flags([f"--config={file}:hardd"])
    assert str(error.value) == f"flag --config={file}:hardd: {direct.value}"
    config, _ = from_flags([f"--config={file}:uniform"])
    assert config.name == "uniform" and config.baseline and config.select == Select()


@from_file
def test_an_unknown_key_in_a_config_file_is_one_line(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from active_learning.config import section\nfrom active_learning.settings "
        "import Config\n\n\n"
        "def get_config():\n    return section(Config, bach_size=3)\n"
    )
    with pytest.raises(ConfigError) as error:
        from_flags([f"--config={file}"])
    assert (
        str(error.value)
        == f"flag --config={file}: 'bach_size' is no key of Config; did you mean 'batch_size'?"
    )


def test_an_unknown_key_names_its_near_neighbour():
    with pytest.raises(
        ConfigError, match=r"'temperatur' is no key of Select; did you mean 'temperature'"
    ):
        section(Select, temperatur=1.0)
    tree = make()
    with tree.unlocked():
        tree.select.ration = 3
    with pytest.raises(
        ConfigError, match=r"config\.select\.ration: unknown key; did you mean 'ratio'"
    ):
        freeze(tree)


@pytest.mark.parametrize(("value", "expected"), [("many", "int"), (True, "int"), (1.5, "int")])
def test_a_wrong_type_names_the_key_and_what_was_expected(value, expected):
    tree = make()
    tree.select = section(Select)
    with tree.ignore_type(), tree.select.ignore_type():
        tree.select.ratio = value
    with pytest.raises(ConfigError, match=rf"config\.select\.ratio={value!r}: expected {expected}"):
        freeze(tree)


def frozen(**changes) -> Config:
    return dataclasses.replace(freeze(make()), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 12}, "config.batch_size=12: not divisible by the 8 devices"),
        ({"select": Select(ratio=0)}, "config.select.ratio=0"),
        ({"select": Select(temperature=0.0)}, "config.select.temperature=0.0"),
        ({"select": Select(score_chunk=7)}, "config.select.score_chunk=7: must divide the 4"),
        ({"select": Select(policy=policies.learnability, until="auto")}, "needs a gate"),
        ({"dtype": "float16"}, "config.dtype='float16'"),
        ({"total": "10 %"}, "config.total='10 %': a share of what"),
        ({"evaluate": Evaluate(every="3 days")}, "config.evaluate.every='3 days': unknown unit"),
    ],
)
def test_bad_values_are_one_line_that_names_the_key(changes, message):
    with pytest.raises(ConfigError) as error:
        resolve(frozen(**({"batch_size": 16} | changes)), pool=100, devices=8)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_window_is_a_share_of_the_run_and_zero_without_scorers():
    active = frozen(total="400 steps", select=Select(policy=policies.learnability, until="25 %"))
    assert resolve(active, 1000, 1).window == 100
    assert resolve(dataclasses.replace(active, select=Select(until="25 %")), 1000, 1).window == 0


def test_json_round_trip_and_hash():
    config = frozen(select=Select(policy=policies.learnability))
    there = json.loads(json.dumps(to_json(config)))
    back = from_json(there)
    assert to_json(back) == there
    assert back.data == config.data
    assert config_hash(config) == config_hash(dataclasses.replace(config, name="other"))
    assert config_hash(config) != config_hash(dataclasses.replace(config, seed=1))
    one, other, larger = (
        dataclasses.replace(config, data=ImageFolder(**k))
        for k in ({}, {"threads": 3}, {"size": 32})
    )
    assert config_hash(one) == config_hash(other) != config_hash(larger)
    assert config_hash(config) != config_hash(
        dataclasses.replace(config, select=Select(policy=policies.hard))
    )


def test_differences_name_dotted_keys():
    ours, theirs = to_json(frozen(seed=1)), to_json(frozen(seed=2))
    assert differences(ours, theirs) == ["config.seed: 2 there, 1 here"]


def test_the_references_run_is_uniform_training_of_the_scorer_on_its_part():
    config = frozen(select=Select(policy=policies.learnability), seed=5)
    ref = config.reference.own_runs(config)[""]
    assert ref.learner == config.scorer
    assert ref.split.train_on == ("reference",)
    assert ref.select.policy is policies.uniform
    assert ref.total == config.reference.total
    assert ref.seed == 5


def test_a_key_that_came_later_changes_no_hash_until_it_is_used(tmp_path):
    import dataclasses

    from active_learning.config import config_hash, from_json, to_json
    from tests import world

    config = world.config(tmp_path)
    said = to_json(config)
    assert (
        "replay" not in said["select"]
        and "fold" not in said["split"]
        and "keep" not in said["select"]["policy"]
    )
    assert from_json(said).select == config.select
    used = dataclasses.replace(config, split=dataclasses.replace(config.split, fold=1))
    assert to_json(used)["split"]["fold"] == 1
    assert config_hash(used) != config_hash(config)
