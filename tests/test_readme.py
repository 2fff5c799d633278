"""The README's code runs as written, its commands exist, and its tables match the results."""

import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_first_screen_has_all_that_a_newcomer_needs():
    head = "\n".join(README.splitlines()[:40])
    for needed in ("docs/noise_desk_final.png", "make demo", "make test", "config.data.path=DIR"):
        assert needed in head, needed


def test_its_tables_are_short():
    blocks = re.findall(r"<!-- table ([\w:]+) -->\n(.*?)<!-- end -->", README, re.S)
    assert [name for name, _ in blocks] == ["noise_desk_final:summary", "noise_long_final:summary"]
    for _, block in blocks:
        assert len([line for line in block.splitlines() if line.startswith("|")]) == 2 + 4


def test_every_relative_link_leads_to_a_file():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"):
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (ROOT / link).exists(), f"{page.name}: {link}"


def test_the_example_trains_a_model_of_ones_own():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 30
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
    pages = [README, *(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))]
    blocks = r"```(?:bash|sh|console)\n(.*?)```"
    commands = "\n".join(block for page in pages for block in re.findall(blocks, page, re.S))
    assert "active_learning.main" in commands
    for module in re.findall(r"python -m ([\w.]+)", commands):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    for config in re.findall(r"--config=(configs/\w+\.py)", commands):
        assert (ROOT / config).exists(), config
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", commands, re.M):
        assert f"\n{target}:" in makefile, target


def test_the_tables_are_what_the_results_say():
    from experiments.readme import filled

    for text in (README, *(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))):
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
