"""Sections: frozen dataclasses whose fields are the keys of a config file.

`section` builds the ConfigDict of a dataclass (or Flax module), whose keys flags can override;
`freeze` turns it back and checks every key, type and range.
"""

import dataclasses
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from active_learning.config.errors import ConfigError, near
from active_learning.config.registry import REGISTRY, kind_of, name_of_value, register

_PLAIN = {"int": int, "float": float, "str": str, "bool": bool, "tuple": tuple}


class Section:
    """Base of the dataclasses whose fields are keys of a config file.

    A base class with `variants` is a choice: its subclasses are alternatives that the key `kind`
    picks, and `section` offers the keys of all of them, so that a flag can switch.
    """

    kind_name = ""
    variants = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register(cls)


def setting(
    default: Any,
    *,
    at_least: float | int | None = None,
    above: float | int | None = None,
    at_most: float | int | None = None,
    below: float | int | None = None,
    one_of: Iterable[str] | None = None,
    hashed: bool = True,
) -> Any:
    """A dataclass field with its allowed range.

    Args:
      default: The default value; mappings and lists are copied for each instance.
      at_least: Smallest allowed number.
      above: Numbers must be larger than this.
      at_most: Largest allowed number.
      below: Numbers must be smaller than this.
      one_of: The allowed words.
      hashed: False for what cannot change a run's numbers; it is then no part of its identity.
    """
    limits = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    metadata: dict[str, Any] = {name: v for name, v in limits.items() if v is not None}
    if one_of is not None:
        metadata["one_of"] = tuple(one_of)
    hash_ = None if hashed else False
    if isinstance(default, dict | list):
        kind = type(default)
        return dataclasses.field(
            default_factory=lambda: kind(default), hash=hash_, metadata=metadata
        )
    return dataclasses.field(default=default, hash=hash_, metadata=metadata)


def changed(value: Any, changes: Mapping[str, Any]) -> Any:
    """A copy of a section with other values of some keys."""
    return dataclasses.replace(value, **changes)


def fields_of(cls: type) -> dict[str, dataclasses.Field]:
    """Config keys of a dataclass: its init fields without those that Flax adds to every module."""
    if not dataclasses.is_dataclass(cls):  # The base of a choice has no keys of its own.
        return {}
    flax_fields = ("parent", "name") if "parent" in cls.__dataclass_fields__ else ()
    return {f.name: f for f in dataclasses.fields(cls) if f.init and f.name not in flax_fields}


def _choice_of(cls: type) -> type | None:
    """The base with `variants` that a class belongs to, None for plain sections."""
    bases = [base for base in cls.__mro__ if vars(base).get("variants")]
    return bases[0] if bases else None


def _variants(base: type) -> dict[str, type]:
    return {k: c for k, c in REGISTRY.kinds.items() if issubclass(c, base) and c is not base}


def default_of(f: dataclasses.Field) -> Any:
    """Default of a field, made anew where it is mutable."""
    if f.default_factory is not dataclasses.MISSING:
        return f.default_factory()
    return f.default


def section(cls: type, /, **values: Any) -> Any:
    """Builds the ConfigDict of a dataclass, every field at its default or at `values`.

    Raises:
      ConfigError: A name that the class does not have, or a missing value without default.
    """
    from ml_collections import ConfigDict

    if cls.__name__ not in REGISTRY.kinds and kind_of(cls) not in REGISTRY.kinds:
        register(cls)
    base = _choice_of(cls)
    kind = kind_of(cls)
    if base is not None:
        kind = values.pop("kind", kind_of(cls) if cls is not base else base.default_kind)
    known = fields_of(cls)
    if base is not None:
        for variant in _variants(base).values():
            known = fields_of(variant) | known
    for name in values:
        if name not in known:
            raise ConfigError(f"{name!r} is no key of {cls.__name__}{near(name, known)}")
    out: dict[str, Any] = {"kind": kind}
    for name, f in known.items():
        value = values.get(name, default_of(f))
        if value is dataclasses.MISSING:
            raise ConfigError(f"{name!r} of {cls.__name__} has no default and must be given")
        out[name] = _to_node(value)
    return ConfigDict(out)


def _to_node(value: Any) -> Any:
    """A default in the form in which a ConfigDict holds it: sections as nodes, policies by name."""
    if isinstance(value, Section):
        return section(type(value), **{n: getattr(value, n) for n in fields_of(type(value))})
    name = name_of_value(value)
    return value if name is None else name


def freeze(node: Any, key: str = "config") -> Any:
    """Returns the frozen dataclass behind a ConfigDict made by `section`.

    Raises:
      ConfigError: A wrong key, type or value, with its dotted name.
    """
    # A ConfigDict is no Mapping, and its library is imported only where a config is built.
    if not isinstance(node, Mapping) and not hasattr(node, "to_dict"):
        return tuple(node) if isinstance(node, list) else node
    if "kind" not in node:
        return {name: freeze(node[name], f"{key}.{name}") for name in node}
    kind = str(node["kind"])
    if kind not in REGISTRY.kinds:
        raise ConfigError(f"{key}.kind={kind!r}: unknown{near(kind, REGISTRY.kinds)}")
    cls = REGISTRY.kinds[kind]
    return construct(cls, {n: node[n] for n in node if n != "kind"}, key, freeze)


def construct(cls: type, given: Mapping[str, Any], key: str, read: Callable) -> Any:
    """Builds an instance of `cls` from raw values.

    Keys of other variants of the same choice are ignored.
    """
    base, known, values = _choice_of(cls), fields_of(cls), {}
    others: set[str] = set()
    if base is not None:
        if cls is base:
            raise ConfigError(f"{key}.kind: expected one of {', '.join(_variants(base))}")
        others = {n for variant in _variants(base).values() for n in fields_of(variant)}
    for name, raw in given.items():
        if name in known:
            values[name] = _checked(read(raw, f"{key}.{name}"), known[name], f"{key}.{name}")
        elif name not in others:
            raise ConfigError(f"{key}.{name}: unknown key{near(name, known)}")
    try:
        return cls(**values)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}: {error}") from error


def _checked(value: Any, f: dataclasses.Field, key: str) -> Any:
    """The value as the field's type, within its declared range."""
    wanted: Any = _PLAIN.get(str(f.type), f.type)
    named = REGISTRY.values.get(wanted) if isinstance(wanted, type) else None
    if named is not None and isinstance(value, str):
        if value not in named:
            raise ConfigError(f"{key}={value!r}: unknown{near(value, named)}")
        return named[value]
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if wanted is str and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)  # a duration given as a bare number
    plain = wanted in _PLAIN.values()
    if plain and (not isinstance(value, wanted) or (wanted is int and isinstance(value, bool))):
        raise ConfigError(
            f"{key}={value!r}: expected {wanted.__name__}, got {type(value).__name__}"
        )
    concrete = isinstance(wanted, type) and wanted not in (Any, *_PLAIN.values())
    if concrete and not isinstance(value, wanted):
        raise ConfigError(f"{key}={_short(value)}: expected a {wanted.__name__}")
    origin = typing.get_origin(wanted)
    if origin is Mapping and not isinstance(value, Mapping):
        raise ConfigError(f"{key}={_short(value)}: expected values by name")
    if origin is tuple:
        item = typing.get_args(wanted)[0]
        kinds = (int, float) if item is float else (item,)
        if not isinstance(value, tuple) or not all(type(v) in kinds for v in value):
            raise ConfigError(
                f"{key}={_short(value)}: expected several values, all {item.__name__}"
            )
    _check_range(value, f.metadata, key)
    return value


def check_ranges(value: Any, key: str = "config") -> None:
    """Checks every field of a config, nested ones included, against its declared range.

    Raises:
      ConfigError: Names the dotted key.
    """
    if isinstance(value, Mapping):
        for name, item in value.items():
            check_ranges(item, f"{key}.{name}")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for name, f in fields_of(type(value)).items():
            item = getattr(value, name)
            _check_range(item, f.metadata, f"{key}.{name}")
            check_ranges(item, f"{key}.{name}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_range(value: Any, metadata: Mapping[str, Any], key: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key}={value}: expected a finite number")
    limited = bool(metadata.keys() - {"one_of"})
    if isinstance(value, Mapping | tuple | list):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, item in items:
            place = f"{key}.{name}" if isinstance(value, Mapping) else f"{key}[{name}]"
            if limited and (isinstance(item, bool) or not isinstance(item, int | float)):
                raise ConfigError(f"{place}={_short(item)}: expected a number")
            _check_range(item, metadata, place)
        return
    if (words := metadata.get("one_of")) and value not in words:
        raise ConfigError(f"{key}={value!r}: expected one of {', '.join(map(repr, words))}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    for name, fails, text in (
        ("at_least", lambda limit: value < limit, "at least"),
        ("above", lambda limit: value <= limit, "above"),
        ("at_most", lambda limit: value > limit, "at most"),
        ("below", lambda limit: value >= limit, "below"),
    ):
        if name in metadata and fails(metadata[name]):
            raise ConfigError(f"{key}={value}: must be {text} {metadata[name]}")
