"""The project's own files agree with each other, and every public name is documented."""

import functools
import importlib
import inspect
import pkgutil
import re
import tomllib
import types
from pathlib import Path

import pytest

import active_learning

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements-lock.txt").read_text()
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(active_learning.__path__, "active_learning.")
    if not module.name.endswith(".__main__")
)


def test_one_version_everywhere():
    version = PROJECT["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    releases = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert releases[0] == version


def test_there_is_one_repository_address():
    assert list(PROJECT["urls"]) == ["Repository"]


def test_the_lock_file_pins_every_dependency_and_names_no_host():
    assert not re.search(r"https?:|file:|@", LOCK)
    pinned = {line.split("==")[0].lower() for line in LOCK.splitlines() if "==" in line}
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"]]
    for extra in ("dev", "docs", "images", "text", "logging", "curate-bench"):
        wanted += [line for line in extras[extra] if not line.startswith(PROJECT["name"])]
    for requirement in wanted:
        name = re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")
        assert name in pinned, f"{requirement}: run make lock"


def test_the_hosted_workflow_runs_ci_on_every_supported_python():
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert "bash .ci/run" in workflow
    assert re.search(r'python-version: \["3.11", "3.12", "3.13"\]', workflow)


@pytest.mark.parametrize("name", MODULES)
def test_public_methods_have_a_docstring_or_inherit_one(name):
    """What ruff's D102 cannot see: a method that overrides a documented one needs no docstring."""
    module = importlib.import_module(name)
    bare = [
        f"{cls.__qualname__}.{method}"
        for cls in vars(module).values()
        if inspect.isclass(cls) and cls.__module__ == name and not cls.__name__.startswith("_")
        for method, value in vars(cls).items()
        if not method.startswith("_") and method not in vars(cls).get("__dataclass_fields__", ())
        if isinstance(value, types.FunctionType | property | functools.cached_property)
        if not inspect.getdoc(getattr(cls, method))
    ]
    assert not bare, bare
