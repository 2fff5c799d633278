"""Which part of a step the time goes to: a profile of the running step, its operations told apart
by the named scopes of step.py.
"""

import collections
import gzip
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

SCOPES = (
    "score_learner",
    "score_online",
    "score_reference",
    "select",
    "take",
    "learner",
    "online",
    "reference",
)
_NAMED = re.compile(r'%([\w.\-]+) = .*?metadata=\{op_name="([^"]*)"')


def scope_of(op_name: str) -> str:
    """The first named scope in an operation's path, 'rest' (augmentation, figures) where there is
    none.
    """
    return next((part for part in op_name.split("/") if part in SCOPES), "rest")


def shares(text: str, call: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Shares of the time of all operations, by scope.

    `text`: the compiled program that `call` runs once.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(repeats):
                last = call()
            jax.block_until_ready(last)
        (file,) = Path(folder).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    return shares_of(text, events)


def shares_of(text: str, events: list[dict]) -> dict[str, float]:
    """Shares from a trace's events; what only calls other operations (loops, branches) is left out,
    its operations are counted.
    """
    scopes = {name: scope_of(path) for name, path in _NAMED.findall(text)}
    spent: collections.Counter[str] = collections.Counter()
    for event in events:
        operation = event.get("args", {}).get("hlo_op")
        if operation and not re.match(r"while|call|conditional", operation):
            spent[scopes.get(operation, "rest")] += event["dur"]
    total = sum(spent.values())
    return (
        {name: spent[name] / total for name in sorted(spent, key=lambda name: -spent[name])}
        if total
        else {}
    )
