"""Run folders from strangers: a page whose text is text, or one line and exit code 2."""

import json
import os
import zipfile
from html.parser import HTMLParser

import numpy as np
import pytest

from active_learning.report.__main__ import main
from tests.report.folders import REFERENCE, write_run

PAYLOADS = {
    "script": "<script>alert(1)</script>",
    "image": '"><img src=x onerror=alert(1)>',
    "address": "javascript:alert(1)",
    "link": "[x](javascript:alert(1))",
    "quotes": "' onmouseover='alert(1)\" x=\"",
    "style": "</style><style>*{display:none}</style>",
    "comment": "--><svg/onload=alert(1)>",
    "template": "{{ 7 * 7 }}{% raw %}",
    "surrogate": "a\ud800b\udfff",
    "null": "a\x00b",
    "lines": "a\nb\r\nc\x1b[31m\u2028",
    "bidirectional": "abc\u202efed\u2066",
    "mathematics": r"$\frac{1$ ^_{ \undefined $",
    "glyphs": "_猫 🐈 ﷽",
    "huge": "long" * 250_000,
}
DAMAGED = {
    "deep object": ("config.json", '{"config": ' * 50_000),
    "deep list": ("config.json", '{"config": {"x": ' + "[" * 500 + "]" * 500 + "}}"),
    "deep line": ("metrics.jsonl", "[" * 100_000),
    "digits": ("summary.json", '{"step": ' + "9" * 10_000 + "}"),
    "infinite step": ("summary.json", '{"complete": true, "step": Infinity}'),
    "binary": ("config.json", "\x00\x01\x02"),
    "list": ("summary.json", "[1, 2]"),
    "text": ("metrics.jsonl", "<html>"),
    "empty": ("config.json", ""),
    "number line": ("metrics.jsonl", "12"),
}
# Key of a file, value: each is refused or has no effect.
VALUES = {
    "seed text": ("config.json", "seed", "<b>"),
    "seed fraction": ("config.json", "seed", 0.5),
    "seed huge": ("config.json", "seed", 10**400),
    "no updates": ("config.json", "total_steps", 0),
    "negative updates": ("config.json", "total_steps", -5),
    "name number": ("config.json", "name", 5),
    "names number": ("config.json", "class_names", 5),
    "names text": ("config.json", "class_names", "cat"),
    "names nested": ("config.json", "class_names", [["<b>"], {"a": 1}, None]),
    "config text": ("config.json", "config", "x"),
    "select text": ("config.json", "config", {"select": "x"}),
    "policy number": ("config.json", "config", {"select": {"policy": 5}}),
    "needs number": ("config.json", "config", {"select": {"policy": {"needs": 5}}}),
    "needs nested": ("config.json", "config", {"select": {"policy": {"needs": [[]]}}}),
    "reference list": ("config.json", "config", {"reference": [1]}),
    "path number": ("config.json", "config", {"reference": {"kind": "loaded", "path": 3}}),
    "final list": ("summary.json", "final", [1]),
    "final text": ("summary.json", "final", {"test_full/accuracy": "<b>"}),
    "final huge": ("summary.json", "final", {"test_full/accuracy": 1e308}),
    "flops huge": ("summary.json", "flops", {"learner_train": 1e308}),
    "window text": ("summary.json", "window_steps", "all"),
    "device object": ("summary.json", "device", {"<b>": [1] * 1000}),
    "reference text": ("summary.json", "reference", "x"),
    "reference huge": ("summary.json", "reference", {"accuracy": 10**400, "flops": -1e308}),
    "seconds null": ("summary.json", "train_seconds", None),
}
FIELDS = ("name", "class", "device", "key", "title", "metric", "caption", "folder")
CASES = [f"{field}: {name}" for field in FIELDS for name in PAYLOADS]
CASES += [f"damaged: {name}" for name in DAMAGED] + [f"value: {name}" for name in VALUES]
# All of them take a minute.
TESTED = CASES if os.environ.get("ALL_INJECTIONS") else CASES[::8]


class Text(HTMLParser):
    """Fails on any element, attribute or address that the template does not write itself."""

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "iframe", "object", "embed", "link", "a", "base", "form")
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href"):
                assert value.startswith(("data:image/png;base64,", "#")), value


def change(path, key, value):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {key: value}))


def make(root, case):
    """Writes two runs of which one is hostile; returns the command line."""
    write_run(root, "uniform", 100, 1, [0.2, 0.5], baseline=True)
    run = write_run(root, "learn", 50, 1, [0.3, 0.6], reference=REFERENCE, snapshot=True)
    field, name = case.split(": ")
    if field == "damaged":
        file, text = DAMAGED[name]
        (run / file).write_text(text)
    elif field == "value":
        file, key, value = VALUES[name]
        change(run / file, key, value)
    return [str(root), "--out", str(root / "out"), *inject(run, field, PAYLOADS.get(name, ""))]


def inject(run, field, text):
    if field == "name":
        change(run / "config.json", "name", text)
    elif field == "class":
        change(run / "config.json", "class_names", [text, text + "2"])
    elif field == "device":
        change(run / "summary.json", "device", text)
    elif field == "key":
        other = write_run(run.parent, "learn", 50, 2, [0.3, 0.6])
        change(other / "config.json", "config", {text: text})
    elif field == "title":
        return [f"--title={text}"]
    elif field == "metric":
        for folder in run.parent.glob("*_1"):  # Both runs.
            file = folder / "metrics.jsonl"
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            lines = [line | {text: line["test/accuracy"]} for line in lines]
            file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return [f"--metric={text}"]
    elif field == "caption":
        file = next((run / "snapshots").glob("*.npz"))
        with np.load(file) as arrays:
            content = dict(arrays)
        content |= {f"text_{side}": np.array([text] * 3) for side in ("top", "bottom")}
        np.savez(file, **content)
    elif field == "folder":  # Named in the error: its summary is gone.
        name = "".join(c for c in text if c not in "/\x00")[:60]
        name = name.encode("utf-8", "replace").decode()
        (run / "summary.json").unlink()
        run.rename(run.parent / name)
    return []


@pytest.mark.parametrize("case", TESTED)
def test_a_hostile_run_is_text_or_one_line(tmp_path, capsys, case):
    code = main(make(tmp_path, case))
    errors = capsys.readouterr().err
    assert code in (0, 2)
    if code == 2:
        assert errors.startswith("error: ") and errors.count("\n") == 1
        assert all(character.isprintable() for character in errors[:-1])
        assert len(errors) < 1100 and not (tmp_path / "out").exists()
        return
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    Text().feed(page)
    assert len(page) < 1_500_000
    assert not any(c in page for c in "\x00\x1b\u202e")
    table = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert "<" not in table.replace("\\<", "") and "](" not in table.replace("\\]", "")
    json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))


def test_template_syntax_in_a_name_is_not_evaluated(tmp_path):
    assert main(make(tmp_path, "name: template")) == 0
    assert "{{ 7 * 7 }}" in (tmp_path / "out" / "index.html").read_text()


SIDES = {
    "objects": {"label_top": np.array([{}, {}, {}], object)},
    "shape": {"label_top": np.zeros((3, 2), np.int32)},
    "fewer": {"score_top": np.zeros(2, np.float32)},
    "floats": {"image_top": np.zeros((3, 8, 8, 3), np.float32)},
    "side": {"image_top": np.zeros((3, 8, 4096, 1), np.uint8)},
    "texts": {"text_top": np.array(["a"])},
    "no images": {"image_top": np.zeros((3, 0, 8, 3), np.uint8)},
    "words": {"scores": np.array(["a", "b"])},
}


@pytest.mark.parametrize("name", [*SIDES, "bomb", "zip of text", "superscript"])
def test_a_hostile_snapshot_is_refused_with_one_line(tmp_path, capsys, name):
    command = make(tmp_path, "title: script")
    file = next(tmp_path.glob("learn*/snapshots/*.npz"))
    if name in SIDES:
        with np.load(file) as arrays:
            content = dict(arrays)
        np.savez(file, **(content | SIDES[name]))
    elif name == "superscript":
        file.rename(file.with_stem("²"))  # A digit, but not a decimal one.
    else:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("scores.npy", b"\0" * (300 * 2**20 if name == "bomb" else 20))
    expected = 0 if name == "superscript" else 2
    assert main(command) == expected
    errors = capsys.readouterr().err
    assert errors.count("\n") == (expected == 2)
    assert expected == 0 or str(file) in errors


def test_an_output_folder_that_cannot_be_made_is_one_line(tmp_path, capsys):
    make(tmp_path, "title: script")
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path), "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
