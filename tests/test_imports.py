"""Imports go one way: leaves know nothing of the rest, the step knows no models and no data, the
report reads run folders only.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from active_learning.cost import accounts

ROOT = Path(__file__).resolve().parents[1] / "active_learning"
LIBRARIES = {"jax", "numpy", "jaxtyping"}


def imports(path: Path) -> set[str]:
    """Modules imported anywhere in a file, also inside functions."""
    result = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            result |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            result |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return result


def ours(path: Path) -> set[str]:
    """Rooms and modules of this package that a file imports."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("active_learning.")}


def libraries(path: Path) -> set[str]:
    top = {name.split(".")[0] for name in imports(path)}
    return top - {"active_learning", "__future__"} - set(sys.stdlib_module_names)


# Modules of core by what they may import of it, from the leaves to the step.
CORE = (
    ("losses", "contrastive", "gradients", "select", "scores", "optim", "homes", "infobatch"),
    ("sharding",),
    ("pair_gains",),
    ("pair_scores",),
    ("policies",),
    ("recipe",),
    ("observe", "reuse", "distillation", "resolution"),
    ("step",),
)


@pytest.mark.parametrize("level", range(len(CORE)))
def test_core_imports_only_what_stands_below_and_four_libraries(level):
    below = {f"core.{name}" for names in CORE[:level] for name in names}
    for name in CORE[level]:
        path = ROOT / "core" / f"{name}.py"
        modules = {m.removeprefix("active_learning.") for m in imports(path)}
        ours_of_core = {m for m in modules if (ROOT / f"{m.replace('.', '/')}.py").exists()}
        assert ours_of_core <= below, path
        # `Optim` is a section of a config; the config room imports the standard library only.
        assert ours(path) <= ({"core", "config"} if name == "optim" else {"core"}), path
        assert libraries(path) <= LIBRARIES | {"optax"}, path
    assert {name for names in CORE for name in names} | {"__init__"} == {
        path.stem for path in (ROOT / "core").glob("*.py")
    }


def test_core_is_importable_without_the_other_libraries():
    """In a process of its own, where importing anything else of the package's requirements
    fails.
    """
    blocked = "flax", "orbax", "ml_collections", "clu", "PIL", "matplotlib", "pyarrow"
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); "
        "import active_learning as al; from active_learning.core import step; al.train_step"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT.parent)


def test_the_config_room_is_a_leaf():
    for path in (ROOT / "config").glob("*.py"):
        assert ours(path) <= {"config"}, path
        assert libraries(path) <= {"absl", "ml_collections"}, path
    code = "import sys, active_learning.config; assert 'ml_collections' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent)


# What each room may import of the others, in the direction of the arrows; commands see all.
ROOMS = {
    "config": set(),
    "core": {"config"},
    "cost": set(),
    "storage": {"config"},
    "data": {"config", "storage"},
    "models": {"config", "core", "cost", "data"},
    "evaluators": {"core", "data", "config"},
    "tasks": {"config", "core", "data", "evaluators", "checkpoint", "curation"},
    "references": {
        *("config", "core", "cost", "curation", "data", "models", "evaluators"),
        *("checkpoint", "distributed", "metrics", "storage"),
    },
    "report": {"cost", "arguments", "storage"},
}


@pytest.mark.parametrize("room", ROOMS)
def test_imports_between_rooms_go_one_way(room):
    for path in sorted((ROOT / room).rglob("*.py")):
        assert ours(path) - {room} <= ROOMS[room], f"{path}: {ours(path) - {room} - ROOMS[room]}"


def test_costs_import_nothing():
    for path in (ROOT / "cost").glob("*.py"):
        assert not libraries(path) and ours(path) <= {"cost"}, path


@pytest.mark.parametrize("path", sorted((ROOT / "data").glob("*.py")), ids=lambda p: p.stem)
def test_data_import_no_flax_optax_or_orbax(path):
    assert not libraries(path) & {"flax", "optax", "orbax", "tensorflow"}
    assert ours(path) <= {"data", "config"}


@pytest.mark.parametrize("path", sorted((ROOT / "report").glob("*.py")), ids=lambda p: p.stem)
def test_the_report_imports_none_of_the_training_code(path):
    assert ours(path) <= {"report", "cost", "arguments", "storage"}
    # Of the ledger only the names of the accounts, which import nothing themselves.
    assert {name for name in imports(path) if name.startswith("active_learning.cost")} <= {
        "active_learning.cost.accounts",
        *(f"active_learning.cost.accounts.{name}" for name in vars(accounts)),
    }
    assert libraries(path) <= {"numpy", "matplotlib", "jinja2", "markupsafe"}


def test_flax_lives_in_models_and_orbax_in_checkpoint():
    for path in ROOT.rglob("*.py"):
        used = libraries(path)
        assert "flax" not in used or path.parent.name == "models", path
        assert "orbax" not in used or path.name == "checkpoint.py", path
        assert not used & {"tensorflow", "torch", "pickle"}, path


def test_files_and_functions_stay_small():
    for path in ROOT.rglob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) < 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"


def test_few_files_are_outside_of_the_rooms():
    """The commands, and what several rooms share."""
    assert len(list(ROOT.glob("*.py"))) <= 14
