"""Configs as JSON, and the identity of a run."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from active_learning.config.errors import ConfigError
from active_learning.config.registry import REGISTRY, kind_of, name_of_function, name_of_value
from active_learning.config.sections import construct, default_of, fields_of

# Part of every run's hash. Raise it when the default of a hashed key changes.
FORMAT = 2


def to_json(value: Any) -> Any:
    """A config as JSON: classes, functions and policies by their registered names, all keys."""
    return _tree(value, lambda f, v: True)


def hashed(value: Any) -> Any:
    """As `to_json`, without the keys that cannot change a run's numbers."""
    return _tree(value, lambda f, v: f.hash is not False)


def identity(value: Any) -> Any:
    """What identifies a run: hashed keys that differ from their defaults, as JSON."""

    def kept(f: dataclasses.Field, v: Any) -> bool:
        return f.hash is not False and to_json(v) != to_json(default_of(f))

    return _tree(value, kept)


def _tree(value: Any, kept: Callable[[dataclasses.Field, Any], bool]) -> Any:
    if (name := name_of_value(value)) is not None:
        return name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = {n: (f, getattr(value, n)) for n, f in fields_of(type(value)).items()}
        out = {n: _tree(v, kept) for n, (f, v) in pairs.items() if kept(f, v)}
        return {"kind": kind_of(type(value))} | out
    if isinstance(value, Mapping):
        return {str(k): _tree(v, kept) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_tree(v, kept) for v in value]
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if isinstance(value, functools.partial) and not value.args:
        keywords = _tree(value.keywords, kept)
        return {"function": name_of_function(value.func), "keywords": keywords}
    # Functions wrapped by jax are of types of their own, but keep the name of what they wrap.
    if callable(value) and hasattr(value, "__qualname__"):
        return {"function": name_of_function(value)}
    return None if value is dataclasses.MISSING else repr(value)


def from_json(value: Any, key: str = "config") -> Any:
    """The inverse of `to_json`; constructs registered classes, functions and policies only.

    Raises:
      ConfigError: A name that is not registered, with the flag that registers a user's own.
    """
    if isinstance(value, list):
        return tuple(from_json(v, f"{key}[{n}]") for n, v in enumerate(value))
    if not isinstance(value, dict):
        return value
    if "function" in value:
        function = _registered(REGISTRY.functions, value["function"], "function", key)
        keywords = from_json(value.get("keywords", {}), key)
        if set(value) - {"function", "keywords"} or not isinstance(keywords, dict):
            raise ConfigError(f"{key}: not a stored function")
        return functools.partial(function, **keywords) if keywords else function
    if "kind" in value:
        cls = _registered(REGISTRY.kinds, value["kind"], "kind", key)
        return construct(cls, {n: v for n, v in value.items() if n != "kind"}, key, from_json)
    return {k: from_json(v, f"{key}.{k}") for k, v in value.items()}


def _registered(known: Mapping[str, Any], name: Any, what: str, key: str) -> Any:
    if not isinstance(name, str) or name not in known:
        raise ConfigError(
            f"{key}: {what} {name!r} is not registered; if it is yours, give the module that "
            "defines it: --import=MODULE"
        )
    return known[name]


def config_hash(tree: Any) -> str:
    """Twelve hex digits over everything that can change a run's numbers (see `identity`)."""
    payload = json.dumps({"format": FORMAT, "config": identity(tree)}, sort_keys=True)
    return hashlib.sha256(payload.encode()).hexdigest()[:12]


def differences(ours: Any, theirs: Any, key: str = "config") -> list[str]:
    """Dotted keys at which two JSON trees differ, with both values."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        names = sorted(set(ours) | set(theirs))
        return [
            line for n in names for line in differences(ours.get(n), theirs.get(n), f"{key}.{n}")
        ]
    return [] if ours == theirs else [f"{key}: {theirs!r} there, {ours!r} here"]
