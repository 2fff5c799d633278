"""The config: frozen dataclasses, made from an ml_collections ConfigDict and checked before anything expensive starts.

A config file builds its ConfigDict with `section(Config, ...)`: every field of the dataclass (or Flax module) becomes a key that a flag can
override, and `type` keeps the class. `freeze` turns it back into the dataclass; ConfigError names the dotted key of what cannot run.
Durations are one value with its unit: '2400 steps' (or '2400'), '10 epochs', '300000 examples', '35 %' of the run.
"""

import dataclasses
import difflib
import functools
import hashlib
import importlib
import json
import re
from collections.abc import Mapping
from typing import Any

_UNITS = {
    "": "steps",
    "step": "steps",
    "epoch": "epochs",
    "example": "examples",
    "percent": "%",
    "%": "%",
}
_DURATION = re.compile(r"\s*([0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?(?:e[0-9]+)?)\s*([A-Za-z]+|%)?\s*")
_PLAIN = {"int": int, "float": float, "str": str, "bool": bool, "tuple": tuple}


class ConfigError(ValueError):
    """A config that cannot run; one line that names the key, what it holds and what was expected."""


def to_steps(
    duration: str | int, key: str, *, batch_size: int, pool: int, total: int | None = None
) -> int:
    """A duration in updates of the learner (rounded); examples and epochs are those the learner sees, `pool` examples are an epoch.

    Raises ConfigError naming `key` for an unknown unit, two durations at once, or a percentage where `total` is None.
    """
    text = str(duration)
    found = _DURATION.fullmatch(text)
    if not found:
        several = len([m for m in re.finditer(r"[0-9]+\s*(?:[A-Za-z]+|%)", text)]) > 1
        hint = (
            "two durations, give one"
            if several
            else "expected a number with steps, epochs, examples or %"
        )
        raise ConfigError(f"{key}={text!r}: {hint}")
    number, unit = float(found[1]), (found[2] or "").lower()
    unit = _UNITS.get(unit, _UNITS.get(unit.removesuffix("s")))
    if unit is None:
        raise ConfigError(
            f"{key}={text!r}: unknown unit {found[2]!r}, expected steps, epochs, examples or %"
        )
    if unit == "%" and total is None:
        raise ConfigError(f"{key}={text!r}: a share of what? give steps, epochs or examples")
    scale = {
        "steps": 1.0,
        "epochs": pool / batch_size,
        "examples": 1.0 / batch_size,
        "%": (total or 0) / 100.0,
    }
    return round(number * scale[unit])


def _fields(kind: type) -> dict[str, dataclasses.Field]:
    return {
        f.name: f
        for f in dataclasses.fields(kind)
        if f.init and not (f.name in ("parent", "name") and f.kw_only)
    }


def _default(f: dataclasses.Field) -> Any:
    if f.default_factory is not dataclasses.MISSING:
        return f.default_factory()
    return f.default


def near(name: str, known) -> str:
    """'; did you mean X?' when one of the known names is close, else the list of them."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"


class Section:
    """Base of the dataclasses whose fields are keys of a config file, nested ones included."""


def section(kind: type, /, **values: Any):
    """A ConfigDict of the dataclass `kind` with every field at its default or at `values`. ConfigError for a name it does not have."""
    from ml_collections import ConfigDict

    known = _fields(kind)
    for name in values:
        if name not in known:
            raise ConfigError(f"{name!r} is no key of {kind.__name__}{near(name, known)}")
    out: dict[str, Any] = {"type": kind}
    for name, f in known.items():
        value = values.get(name, _default(f))
        if value is dataclasses.MISSING:
            raise ConfigError(f"{name!r} of {kind.__name__} has no default and must be given")
        if isinstance(value, Section):
            value = section(type(value), **{n: getattr(value, n) for n in _fields(type(value))})
        out[name] = value
    return ConfigDict(out)


def freeze(node: Any, key: str = "config") -> Any:
    """The frozen dataclass behind a ConfigDict made by `section`. ConfigError for a wrong key or type, with its dotted name."""
    if not isinstance(node, Mapping) and not hasattr(node, "to_dict"):
        return tuple(node) if isinstance(node, list) else node
    if "type" not in node:
        return {name: freeze(node[name], f"{key}.{name}") for name in node}
    kind = node["type"]
    known, values = _fields(kind), {}
    for name in node:
        if name == "type":
            continue
        if name not in known:
            raise ConfigError(f"{key}.{name}: unknown key{near(name, known)}")
        values[name] = _checked(freeze(node[name], f"{key}.{name}"), known[name], f"{key}.{name}")
    try:
        return kind(**values)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}: {error}") from error


def _checked(value: Any, f: dataclasses.Field, key: str) -> Any:
    wanted = f.type if isinstance(f.type, type) else _PLAIN.get(str(f.type))
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # a duration given as a bare number
    if wanted in _PLAIN.values() and (
        not isinstance(value, wanted) or (wanted is int and isinstance(value, bool))
    ):
        raise ConfigError(
            f"{key}={value!r}: expected {wanted.__name__}, got {type(value).__name__}"
        )
    return value


def check_arm(arm: str, *known: str) -> None:
    """For a config file with arms, `--config=FILE:ARM`. Raises ConfigError with the known names unless `arm` is one of them."""
    if arm not in known:
        raise ConfigError(f"arm {arm!r} after the colon: expected one of {', '.join(known)}")


def one_line(error: Exception) -> str:
    """What is wrong with the flags; of a config file that raised, what it said, which the flags library puts at the end of a trace."""
    first, *trace = str(error).strip().splitlines()
    if not trace:
        return first
    return (
        f"{first.removesuffix(' Error whilst parsing config file:')} {trace[-1].partition(': ')[2]}"
    )


def from_flags(argv: list[str]) -> tuple[Any, list[str]]:
    """The frozen config of `--config=FILE[:ARG]` and its `--config.x.y=...` overrides (None when not given), and the other arguments.

    Raises ConfigError naming the flag that cannot be read.
    """
    from absl import flags
    from ml_collections import config_flags

    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file(
        "config", None, "config file", values, sys_argv=["", *argv]
    )
    try:
        rest = values(["", *argv], known_only=True)[1:]
    except (flags.Error, AttributeError, TypeError, KeyError, OSError, ValueError) as error:
        raise ConfigError(one_line(error)) from error
    return (None if holder.value is None else freeze(holder.value)), rest


def name_of(value: Any) -> str:
    """'module:qualname' of a class or function."""
    return f"{value.__module__}:{value.__qualname__}"


def to_json(value: Any) -> Any:
    """A config as JSON: dataclasses become dicts with their class under 'type', functions and classes their import path.

    A field with metadata {"late": True} is left out at its default: a key that came later changes no hash of the runs before it.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = {
            n: f
            for n, f in _fields(type(value)).items()
            if not (f.metadata.get("late") and getattr(value, n) == _default(f))
        }
        return {"type": name_of(type(value))} | {n: to_json(getattr(value, n)) for n in kept}
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(v) for v in value]
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if isinstance(value, functools.partial) and not value.args:
        return {"partial": name_of(value.func), "keywords": to_json(value.keywords)}
    return {"import": name_of(value)} if hasattr(value, "__qualname__") else repr(value)


def from_json(value: Any) -> Any:
    """The inverse of `to_json`, for configs this package wrote. Names are imported, so read only run folders you trust."""
    if isinstance(value, list):
        return tuple(from_json(v) for v in value)
    if not isinstance(value, dict):
        return value
    if set(value) == {"import"}:
        return _import(value["import"])
    if set(value) == {"partial", "keywords"}:
        return functools.partial(_import(value["partial"]), **from_json(value["keywords"]))
    fields = {k: from_json(v) for k, v in value.items() if k != "type"}
    return _import(value["type"])(**fields) if "type" in value else fields


def _import(name: str) -> Any:
    module, _, qualname = name.partition(":")
    found = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


def config_hash(tree: Any) -> str:
    """Twelve hex digits over what can change a run's numbers (not its name, logging or checkpoint habits, nor who holds what)."""
    tree = {
        k: v
        for k, v in to_json(_without_habits(tree)).items()
        if k not in ("name", "log", "checkpoint", "baseline", "fsdp")
    }
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]


def _without_habits(value: Any) -> Any:
    """A config whose fields with metadata {"habit": True} (how, not what: they change no number) are at their defaults."""
    if isinstance(value, Mapping):
        return {k: _without_habits(v) for k, v in value.items()}
    if not isinstance(value, Section):
        return value
    kept = {
        n: _default(f) if f.metadata.get("habit") else _without_habits(getattr(value, n))
        for n, f in _fields(type(value)).items()
    }
    return dataclasses.replace(value, **kept)


def differences(ours: Any, theirs: Any, key: str = "config") -> list[str]:
    """Dotted keys at which two JSON trees differ, with both values."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        names = sorted(set(ours) | set(theirs))
        return [
            line for n in names for line in differences(ours.get(n), theirs.get(n), f"{key}.{n}")
        ]
    return [] if ours == theirs else [f"{key}: {theirs!r} there, {ours!r} here"]
