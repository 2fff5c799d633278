"""The worked examples of CONTRIBUTING.md run as written, in order, and end in a finished run."""

import re
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def test_the_worked_examples_run(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    space = {"__name__": "contributing"}
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    for number, block in enumerate(blocks):
        exec(compile(block, f"CONTRIBUTING.md, block {number}", "exec"), space)
    assert len(blocks) == 5
    summary = space["summary"]
    assert summary["complete"] and 0 <= summary["final"]["test_full/accuracy"] <= 1
    flops = summary["flops"]
    assert flops["reference_score"] > 0
    assert flops["reference_train"] == 0  # it says that its training is not charged


def test_there_is_an_example_for_each_kind_of_addition():
    headings = re.findall(r"^### Add a (\w+)$", TEXT, re.M)
    assert headings == ["policy", "source", "model", "reference"]


def test_every_room_is_listed():
    rooms = {path.parent.name for path in (ROOT / "active_learning").glob("*/__init__.py")}
    listed = set(re.findall(r"`(\w+)/`", TEXT))
    assert rooms <= listed, rooms - listed


def test_make_targets_and_files_that_it_names_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z]+)", TEXT):
        assert f"\n{target}:" in makefile, target
    for path in re.findall(r"`((?:tests|core|models|data|references)/[\w/]+\.py)`", TEXT):
        assert (ROOT / path).exists() or (ROOT / "active_learning" / path).exists(), path
