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
    Section,
    config_hash,
    differences,
    freeze,
    from_flags,
    from_json,
    identity,
    import_for_configs,
    register,
    section,
    to_json,
    to_steps,
)
from active_learning.core import policies
from active_learning.data.sources.image_folder import ImageFolder
from active_learning.references import CrossFitted, Loaded, Reference
from active_learning.settings import Config, Evaluate, Optim, Select


@dataclass(frozen=True)
class FakeData(Section):
    path: str = "here"
    n: int = 3
    small: int = 0


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
    with pytest.raises(ConfigError, match="a percentage of what"):
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


def leaves(node, key="config", metadata=()):
    """(key, value, declared range) of every number, text and switch of a frozen config.

    Policies are left out: a flag picks one by name.
    """
    if dataclasses.is_dataclass(node) and not key.endswith(".policy"):
        for f in dataclasses.fields(node):
            if f.name not in ("parent",):
                yield from leaves(getattr(node, f.name), f"{key}.{f.name}", f.metadata)
    elif isinstance(node, dict):
        for name, value in node.items():
            yield from leaves(value, f"{key}.{name}", metadata)
    elif isinstance(node, int | float | str):
        yield key, node, dict(metadata)


def other_value(value, limits):
    """Another value of the same type within the declared range."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        words = limits.get("one_of", (f"{value}x",))
        return next(word for word in words if word != value)
    top = min(limits.get("at_most", value + 1), limits.get("below", value + 2))
    return (
        value + 1
        if value + 1 <= top and value + 1 < limits.get("below", value + 2)
        else value / 2 + top / 4
    )


@from_file
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_flag_changes_every_number_text_and_switch(file):
    config, _ = from_flags([f"--config={file}"])
    before = list(leaves(config))
    after = {key: other_value(value, limits) for key, value, limits in before}
    changed, rest = from_flags(
        [f"--config={file}", *(f"--{key}={value}" for key, value in after.items()), "--more"]
    )
    assert len(before) > 60
    assert {key: value for key, value, _ in leaves(changed)} == after
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
        ({"dtype": "float16"}, "config.dtype='float16': expected one of 'float32', 'bfloat16'"),
        ({"total": "10 %"}, "config.total='10 %': a percentage of what"),
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


def test_only_keys_that_differ_from_their_defaults_are_hashed():
    config = frozen(select=Select(policy=policies.learnability), name="x")
    assert identity(config)["select"] == {"kind": "Select", "policy": "learnability"}
    assert set(identity(config)) == {"kind", "data", "learner", "scorer", "select"}
    fold = dataclasses.replace(config, split=dataclasses.replace(config.split, fold=1))
    assert identity(fold)["split"] == {"kind": "Split", "fold": 1}


def redefined(module: str, **more):
    """The same class as a module of another name would define it, with `more` defaulted fields."""
    names = {"__annotations__": {"width": int} | dict.fromkeys(more, int), "width": 3} | more
    made = dataclass(frozen=True)(type("Moved", (Section,), names | {"__module__": module}))
    return register(made)


def test_moving_a_class_or_adding_a_key_changes_no_hash():
    before = config_hash(frozen(learner=redefined("old_place")(width=5)))
    stored = to_json(frozen(learner=redefined("old_place")(width=5)))
    assert config_hash(frozen(learner=redefined("new.place")(width=5))) == before
    assert config_hash(frozen(learner=redefined("new.place", depth=2)(width=5))) == before
    read = from_json(stored)
    assert type(read.learner).__module__ == "new.place" and read.learner.width == 5
    assert config_hash(read) == before


def test_a_changed_default_needs_another_format(monkeypatch):
    config = frozen()
    before = config_hash(config)
    monkeypatch.setattr("active_learning.config.stored.FORMAT", 99)
    assert config_hash(config) != before


@pytest.mark.parametrize(
    "payload",
    [
        {"import": "os:system"},
        {"type": "subprocess:run", "args": "touch canary"},
        {"kind": "os:system"},
        {"kind": "subprocess.run", "args": ["touch", "canary"]},
        {"function": "builtins.eval"},
        {"function": "os:system", "keywords": {"command": "touch canary"}},
        {"partial": "os:system", "keywords": {"command": "touch canary"}},
        {"kind": "Popen"},
        {"kind": ["Select"]},
        {"function": {"function": "eval"}},
    ],
)
def test_reading_back_constructs_registered_things_only(payload, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree = to_json(frozen()) | {"learner": payload}
    try:
        read = from_json(tree)
    except ConfigError as error:
        assert "\n" not in str(error)
    else:  # A dict that names nothing stays a dict.
        assert isinstance(read.learner, dict)
    assert not list(tmp_path.iterdir())


def test_a_users_own_class_needs_an_explicit_import(tmp_path):
    (tmp_path / "mine_for_test.py").write_text(
        "from dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass MyNet:\n  "
        "  width: int = 4\n"
    )
    tree = to_json(frozen()) | {"learner": {"kind": "MyNet", "width": 9}}
    with pytest.raises(ConfigError, match="'MyNet' is not registered.*--import=MODULE"):
        from_json(tree)
    import_for_configs(str(tmp_path / "mine_for_test.py"))
    assert from_json(tree).learner.width == 9
    with pytest.raises(ConfigError, match="--import=nowhere.at.all: ModuleNotFoundError"):
        import_for_configs("nowhere.at.all")


def test_a_users_class_cannot_take_the_name_of_one_of_ours():
    with pytest.raises(ConfigError, match="'Select' is already the name of"):
        register(type("Select", (), {"__module__": "mine"}))


def test_a_switch_of_the_reference_keeps_what_both_kinds_have():
    tree = make(reference=section(Reference, total="7 steps"))
    tree.reference.kind = "crossfitted"
    assert freeze(tree).reference == CrossFitted(total="7 steps")
    tree.reference.kind = "loaded"
    tree.reference.path = "there"
    assert freeze(tree).reference == Loaded(path="there")
    tree.reference.kind = "stolen"
    with pytest.raises(ConfigError, match=r"config\.reference\.kind='stolen': unknown"):
        freeze(tree)


def test_a_policy_is_picked_by_name():
    tree = make()
    tree.select.policy = "hard"
    assert freeze(tree).select.policy is policies.hard
    tree.select.policy = "hardd"
    with pytest.raises(ConfigError, match="config.select.policy='hardd': unknown; did you mean"):
        freeze(tree)
