"""The configuration keys that the report reads exist, mean the same and are read in all forms."""

import ast
import dataclasses
from pathlib import Path

import pytest

from active_learning.config import to_json
from active_learning.core import policies
from active_learning.references import Loaded, Reference, Stored, Trained
from active_learning.report import setup
from active_learning.report.amortization import unknown_levels
from active_learning.report.files import RunError
from active_learning.report.setup import Setup, read_setup
from active_learning.settings import Config, Select

REPORT = Path(setup.__file__).parent


def all_policies():
    return {n: p for n, p in vars(policies).items() if isinstance(p, policies.Policy)}


def test_the_table_of_policies_is_that_of_the_training_code():
    table = {name: frozenset(scorers) for name, scorers in setup.POLICY_SCORERS.items()}
    assert table == {name: frozenset(policy.needs) for name, policy in all_policies().items()}


@pytest.mark.parametrize("name", all_policies())
def test_a_policy_reads_the_same_by_name_and_in_full(name):
    policy = all_policies()[name]
    named = read_setup({"select": to_json(Select(policy=policy))}, "config.json")
    in_full = to_json(dataclasses.replace(policy, init=list))  # No longer the registered value.
    assert isinstance(in_full, dict)
    assert named == read_setup({"select": {"policy": in_full}}, "config.json")
    assert (named.scorers, named.reads_reference) == (set(policy.needs), policy.reads_reference)


def test_keys_defaults_and_kinds_are_those_of_the_settings():
    assert {"select", "reference"} <= {field.name for field in dataclasses.fields(Config)}
    select = to_json(Select())
    assert {key: select[key] for key in setup.SELECT_DEFAULTS} == setup.SELECT_DEFAULTS
    reference = to_json(Trained())
    assert {key: reference[key] for key in setup.REFERENCE_DEFAULTS} == setup.REFERENCE_DEFAULTS
    kinds = {kind.kind_name for kind in Reference.__subclasses__()}
    assert kinds == set(setup.REFERENCE_KINDS)
    assert all("path" in to_json(kind(path="x")) for kind in (Loaded, Stored))


def test_keys_that_are_left_out_have_their_defaults():
    full = {"select": to_json(Select()), "reference": to_json(Trained())}
    assert read_setup({}, "") == read_setup(full, "") == Setup()
    assert read_setup({"reference": None}, "") == Setup()


def test_what_is_not_known_is_not_guessed():
    own = read_setup({"select": {"policy": "mine"}}, "config.json")
    assert own.scorers is None and own.reads_reference is None
    other = read_setup({"reference": {"kind": "Mine"}}, "config.json")
    assert other.reference_kind is None
    assert unknown_levels(own) == unknown_levels(other) != set()


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"select": 1}, "select"),
        ({"select": {"schedule": 1}}, "schedule"),
        ({"select": {"replay": None}}, "replay"),
        ({"select": {"policy": 1}}, "policy"),
        ({"select": {"policy": {"needs": "online"}}}, "needs"),
        ({"reference": "x"}, "reference"),
        ({"reference": {"kind": 1}}, "kind"),
        ({"reference": {"path": 1}}, "path"),
    ],
)
def test_a_value_of_the_wrong_type_names_its_key(config, key):
    with pytest.raises(RunError, match=key):
        read_setup(config, "config.json")


def test_no_other_file_of_the_report_reads_the_config():
    """A key that is read elsewhere with a default would fail silently when it is renamed."""
    for path in REPORT.glob("*.py"):
        if path.name in ("setup.py",):
            continue
        names = {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not names & {"select", "policy", "needs", "kind", "schedule", "replay"}, path.name
