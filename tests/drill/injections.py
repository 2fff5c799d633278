"""Markup and other mischief in a run folder: the report shows it as text, and calls nobody."""

import json
import random
import re
import shutil
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

from tests.drill import commands
from tests.drill.kills import Straight
from tests.drill.table import Case

MARK = "drill7"
_PAYLOADS = (
    f"<script>alert('{MARK}')</script>",
    f"<img src=x onerror={MARK}()>",
    f'"><svg/onload={MARK}()>',
    f"</style><script src=http://{MARK}.example/x.js></script>",
    f"javascript:{MARK}()",
    f"[{MARK}](http://{MARK}.example)",
    f"| {MARK} | <b>bold</b> |",
    f"&lt;{MARK}&gt;<iframe srcdoc='{MARK}'>",
    f"{{{{{MARK}}}}}{{% {MARK} %}}",
    f"%s%n{{0}}$({MARK})`{MARK}`",
    f"../../../{MARK}",
    f"{MARK}\u202e\u0000\u2028<i>",
    f"$\\input{{{MARK}}}$ $\\frac$ {MARK}",
    f"{MARK}" * 2000,
    f"<!--{MARK}--><base href=http://{MARK}.example>",
)
_CALLS = {"href", "src", "srcset", "srcdoc", "action", "data", "xlink:href", "style", "poster"}
_NEVER = {"iframe", "base", "object", "embed", "b", "link", "form"}


class _Active(HTMLParser):
    """Finds what a payload has made active in a page: elements, handlers, addresses, scripts."""

    def __init__(self, page: str):
        super().__init__()
        self.found, self._in = [], ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self._in = tag
        values = {name: value or "" for name, value in attrs}
        marked = {name for name, value in values.items() if MARK in value}
        if tag in _NEVER or any(name in _CALLS or name.startswith("on") for name in marked):
            self.found.append(tag)
        self.found += [name for name in values if MARK in name]

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in in ("script", "style") and MARK in data:
            self.found.append(self._in)


def injections(count: int, seed: int, straight: Straight) -> Iterator[Case]:
    """A payload in place of a text, of a key, or of a file's name."""
    draw = random.Random(seed + 4)
    for n in range(count):
        payload, place = _PAYLOADS[n % len(_PAYLOADS)], draw.choice(list(_PLACES))
        check = partial(_inject, payload, place, n, draw.random(), straight)
        yield Case(f"payload {n % len(_PAYLOADS)} in {place}", check)


def _in_json(path: Path, payload: str, draw: random.Random, keys: bool) -> None:
    """Replaces a random text, or the name of a random key, in a JSON file."""
    tree = json.loads(path.read_text())
    spots = []

    def walk(node) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            if isinstance(value, dict | list):
                walk(value)
            if (keys and isinstance(node, dict)) or (not keys and isinstance(value, str)):
                spots.append((node, key))

    walk(tree)
    if spots:
        node, key = draw.choice(spots)
        if keys:
            node[payload] = node.pop(key)
        else:
            node[key] = payload
    path.write_text(json.dumps(tree))


def _name(run: Path, payload: str, draw: random.Random) -> None:
    del draw
    tree = json.loads((run / "config.json").read_text())
    tree["name"] = tree["config"]["name"] = payload
    tree["class_names"] = [payload] * len(tree.get("class_names") or [1])
    (run / "config.json").write_text(json.dumps(tree))


def _metrics(run: Path, payload: str, draw: random.Random) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        value = draw.choice([0.5, float("nan"), 1e308, payload, [payload], {payload: payload}])
        row[f"test/{payload}"] = value
        row[payload] = 0.25
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


_PLACES = {
    "names": _name,
    "metrics": _metrics,
    "a text of config.json": lambda r, p, d: _in_json(r / "config.json", p, d, False),
    "a key of config.json": lambda r, p, d: _in_json(r / "config.json", p, d, True),
    "a text of summary.json": lambda r, p, d: _in_json(r / "summary.json", p, d, False),
    "a key of summary.json": lambda r, p, d: _in_json(r / "summary.json", p, d, True),
}


def _inject(payload: str, place: str, n: int, own: float, straight: Straight) -> str:
    folder, _, _ = straight.of("trained reference")
    home = straight.folder / "injected" / str(n)
    run = home / (re.sub(r"[/\x00]", "", payload)[:100] if n % 4 == 0 else "run")
    shutil.copytree(folder, run, ignore=shutil.ignore_patterns("checkpoints", "reference"))
    _PLACES[place](run, payload, random.Random(own))
    before = sorted(home.rglob("*"))
    done = commands.run("report", run, "--out", home / "report")
    if problem := done.fault():
        return problem
    for path in (home / "report").rglob("*"):
        if path.suffix in (".html", ".svg") and (
            active := _Active(path.read_text(errors="replace")).found
        ):
            return f"{path.name} holds it as markup ({active[0]})"
    made = [p for p in home.rglob("*") if p not in before and home / "report" not in p.parents]
    outside = [p for p in made if p != home / "report"]
    shutil.rmtree(home)
    return f"wrote {outside[0]}" if outside else ""
