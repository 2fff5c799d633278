"""Imports go one way: leaves know nothing of the rest, the step knows no models and no data, the report reads run folders only."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "active_learning"
LIBRARIES = {"jax", "numpy", "jaxtyping"}


def imports(path: Path) -> set[str]:
    """Modules imported anywhere in a file, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(path: Path) -> set[str]:
    """Rooms and modules of this package that a file imports."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("active_learning.")}


def libraries(path: Path) -> set[str]:
    import sys

    top = {name.split(".")[0] for name in imports(path)}
    return top - {"active_learning", "__future__"} - set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    "leaf", ["losses", "contrastive", "scores", "pairwise", "gradients", "select", "flops"]
)
def test_leaves_import_nothing_of_ours(leaf):
    path = ROOT / f"{leaf}.py"
    assert ours(path) <= {"scores", "select", "losses", "contrastive"} - {leaf}
    assert libraries(path) <= LIBRARIES


def test_the_step_gets_models_as_functions():
    core = {
        "recipe",
        "observe",
        "reuse",
        "policies",
        "scores",
        "pairwise",
        "gradients",
        "select",
        "losses",
        "sharding",
    }
    for name in ("step", "recipe", "observe", "reuse"):
        assert ours(ROOT / f"{name}.py") <= core
        assert libraries(ROOT / f"{name}.py") <= LIBRARIES | {"optax"}


@pytest.mark.parametrize("path", sorted((ROOT / "data").glob("*.py")), ids=lambda p: p.stem)
def test_data_import_no_flax_optax_or_orbax(path):
    assert not libraries(path) & {"flax", "optax", "orbax", "tensorflow"}
    assert ours(path) <= {"data", "config"}


@pytest.mark.parametrize("path", sorted((ROOT / "report").glob("*.py")), ids=lambda p: p.stem)
def test_the_report_imports_none_of_the_training_code(path):
    assert ours(path) <= {"report"}
    assert libraries(path) <= {"numpy", "matplotlib"}


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
