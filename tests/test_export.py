"""The command `export` on published weights: conversions between layouts, and what it refuses.

Exporting a run: tests/train/test_starts.py.
"""

import jax
import numpy as np

from active_learning.export import main
from active_learning.models.weights import open_weights, write_weights
from tests.models.weights import tiny


def write(folder, case: str) -> str:
    fmt, module = tiny.CASES[case]
    write_weights(folder, module, tiny.params_of(module), tiny.ABOUT, fmt)
    return str(folder)


def test_conversions_keep_every_parameter(tmp_path, capsys):
    """hf -> open_clip -> own -> hf, and a ViT through three layouts."""
    for case, formats in (
        ("open_clip", ("hf", "own", "open_clip")),
        ("timm_vit", ("hf", "npz", "timm")),
        ("hf_siglip", ("npz", "hf")),
    ):
        source, params = write(tmp_path / case, case), tiny.params_of(tiny.CASES[case][1])
        for step, fmt in enumerate(formats):
            out = str(tmp_path / f"{case}_{step}")
            assert main([source, out, f"--format={fmt}"]) == 0
            tiny.assert_same(open_weights(out).params(), params)
            source = out
    assert "layout hf_siglip" in capsys.readouterr().out


def test_a_converted_model_computes_the_same(tmp_path):
    source = write(tmp_path / "a", "timm_vit clip")
    assert main([source, str(tmp_path / "b")]) == 0
    image = jax.random.normal(jax.random.key(0), (2, *tiny.SHAPE))
    features = []
    for folder in (source, tmp_path / "b"):
        weights = open_weights(folder)
        made = jax.jit(weights.module.apply)({"params": weights.params()}, image)
        features.append(np.asarray(made["features"]))
    np.testing.assert_array_equal(*features)


def test_what_cannot_be_written_is_one_line_and_2(tmp_path, capsys):
    source = write(tmp_path / "a", "timm_vit")
    for argv, message in (
        ([source, str(tmp_path / "b"), "--format=open_clip"], "has no layout for a ViT"),
        ([source, source], "exists already"),
        ([str(tmp_path / "no"), str(tmp_path / "b")], "no such file or folder"),
    ):
        assert main(argv) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (tmp_path / "b").exists()
