"""The command `weights`: what it prints, and its exit codes with --check."""

import numpy as np
import pytest

from active_learning.models.weights import open_weights, write_weights
from active_learning.models.weights.check import outputs
from active_learning.weights import main
from tests.models.weights import tiny


@pytest.fixture
def folder(tmp_path):
    fmt, module = tiny.CASES["timm_vit"]
    write_weights(tmp_path / "w", module, tiny.params_of(module), tiny.ABOUT, fmt)
    return tmp_path / "w"


def io(folder, **changes):
    """An io.npz as its publisher would write it, from our own outputs."""
    weights = open_weights(folder)
    arrays = {"image": np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)}
    arrays |= outputs(weights, arrays, "image")
    large = {"image_large": np.ones((1, 32, 32, 3), np.float32)}
    made = outputs(weights, large, "image_large")
    arrays |= large | {"class_token_large": made["class_token"]} | changes
    np.savez(folder.parent / "io.npz", **arrays)
    return folder.parent / "io.npz"


def test_layout_sizes_and_table_are_printed(folder, capsys):
    assert main([str(folder)]) == 0
    out = capsys.readouterr().out
    assert "layout timm_vit" in out
    assert "num_classes 3, width 8, depth 2, heads 2, mlp_dim 12, patch 8, pool cls" in out
    table = [line.split() for line in out.splitlines()]
    packed = ["block_*/attention/(query,", "key,", "value)/kernel"]
    row = next(line for line in table if "blocks.*.attn.qkv.weight" in line)
    shapes = ["24", "x", "8", "8", "x", "8", "x", "2"]
    assert row == ["taken", *packed, "blocks.*.attn.qkv.weight", *shapes]


def test_the_right_outputs_pass_and_others_fail_with_1(folder, capsys):
    assert main([str(folder), f"--check={io(folder)}"]) == 0
    out = capsys.readouterr().out
    for name in ("tokens_out", "class_token", "pooled", "logits", "class_token_large"):
        assert f"{name}: largest difference 0.00e+00, ok" in out
    logits = np.load(io(folder))["logits"]
    assert main([str(folder), f"--check={io(folder, logits=logits + 3e-5)}"]) == 1
    assert "above 2e-05" in capsys.readouterr().out
    assert main([str(folder), f"--check={io(folder, logits=logits[:1])}"]) == 1
    assert main([str(folder), f"--check={io(folder, logits=logits * np.nan)}"]) == 1
    assert "logits: largest difference nan" in capsys.readouterr().out


def test_what_cannot_be_checked_is_one_line_and_2(folder, tmp_path, capsys):
    np.savez(tmp_path / "none.npz", image=np.zeros((1, 16, 16, 3), np.float32), depth=np.ones(1))
    for check, message in (
        ("none.npz", "none of its outputs (depth) is one of the model's"),
        ("missing.npz", "no readable .npz"),
    ):
        assert main([str(folder), f"--check={tmp_path / check}"]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert main([str(tmp_path / "nothing")]) == 2


@pytest.mark.parametrize("name", tiny.PUBLISHED)
def test_every_publishers_folder_passes(name):
    folder = tiny.published(name)
    assert main([str(folder), f"--check={folder / 'io.npz'}"]) == 0
