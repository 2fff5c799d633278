"""The README's own code runs as written."""

import re
from pathlib import Path

import numpy as np

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def test_the_example_trains_a_model_of_ones_own():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(code.strip().splitlines()) <= 30
    rng = np.random.default_rng(0)

    def batches():
        for step in range(3):
            yield {
                "image": rng.integers(0, 256, (256, 32, 32, 3)).astype(np.uint8),
                "label": rng.integers(0, 10, 256).astype(np.int32),
                "id": np.stack([np.zeros(256), np.arange(256) + 256 * step], axis=1).astype(
                    np.uint32
                ),
            }

    scope = {"batches": batches()}
    exec(code, scope)
    assert int(scope["state"].step) == 3
    chosen = scope["chosen"]
    assert chosen.indices.shape == (64,)
    assert float(np.abs(np.asarray(chosen.scores)).max()) > 0
    assert np.isfinite(float(scope["metrics"]["loss"]))


def test_every_module_and_file_that_a_command_names_exists():
    root = Path(__file__).resolve().parents[1]
    commands = "\n".join(re.findall(r"```(?:bash|sh|console)\n(.*?)```", README, re.S))
    for module in re.findall(r"python -m ([\w.]+)", commands):
        path = root / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    for config in re.findall(r"--config=(configs/\w+\.py)", commands):
        assert (root / config).exists(), config
    makefile = (root / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", commands, re.M):
        assert f"\n{target}:" in makefile, target


def test_the_tables_are_what_the_results_say():
    from experiments.readme import filled

    docs = Path(__file__).resolve().parents[1] / "docs"
    for text in (README, *(page.read_text() for page in sorted(docs.glob("*.md")))):
        assert filled(text) == text


def test_the_performance_page_is_what_the_results_say(monkeypatch):
    from experiments import performance

    text = performance.PAGE.read_text()
    assert performance.filled(text) == text

    def other(value):
        if isinstance(value, dict):
            return {name: other(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [other(inner) for inner in value]
        return 1.3 * value if isinstance(value, float) else value

    read = performance.read
    measured = ("bench_step_cpu", "bench_parts_cpu", "bench_scaling", "noise_desk_final")
    for name in [name for name in measured if (performance.RESULTS / f"{name}.json").exists()]:
        with monkeypatch.context() as patch:
            patch.setattr(
                performance,
                "read",
                lambda of, name=name: other(read(of)) if of == name else read(of),
            )
            assert performance.filled(text) != text, name
