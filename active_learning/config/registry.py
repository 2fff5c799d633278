"""Short names for everything that a stored config may mention.

Stored configs hold registered names, never import paths: reading one back constructs registered
classes and functions only, and moving a module changes no run's identity.
"""

import dataclasses
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from active_learning.config.errors import ConfigError


class Registry:
    """Names of everything that a stored config may mention."""

    def __init__(self) -> None:
        self.kinds: dict[str, type] = {}
        self.functions: dict[str, Callable] = {}
        self.values: dict[type, dict[str, Any]] = {}

    def add_kind(self, cls: type, name: str) -> None:
        """Registers a class. Raises ConfigError for the name of one of this package's."""
        known = self.kinds.get(name)
        if known is not None and _is_ours(known) != _is_ours(cls):
            raise ConfigError(f"{name!r} is already the name of {known.__module__}.{name}")
        self.kinds[name] = cls


REGISTRY = Registry()


def _is_ours(cls: type) -> bool:
    return cls.__module__.split(".")[0] == __name__.split(".")[0]


def register(cls: type, name: str = "") -> type:
    """Makes a dataclass or Flax module readable in stored configs; usable as a decorator.

    Raises:
      ConfigError: A class of this package is already registered under that name.
    """
    REGISTRY.add_kind(cls, name or kind_of(cls))
    return cls


def register_functions(functions: Mapping[str, Callable]) -> None:
    """Makes functions readable in stored configs under the given names."""
    REGISTRY.functions.update(functions)


def register_values(cls: type, values: Mapping[str, Any]) -> None:
    """Makes ready-made instances of `cls`, such as policies, selectable by name."""
    REGISTRY.values.setdefault(cls, {}).update(values)


def import_for_configs(module: str) -> None:
    """Imports a user's module (dotted name or FILE.py) and registers what it defines.

    This is what `--import=MODULE` does: the only way in which reading a run folder can run code
    that is not part of this package.

    Raises:
      ConfigError: The module cannot be imported.
    """
    try:
        loaded = _load_file(Path(module)) if module.endswith(".py") else _load_name(module)
    except Exception as error:  # a user's module may raise anything
        raise ConfigError(f"--import={module}: {type(error).__name__}: {error}") from error
    for name, value in vars(loaded).items():
        if getattr(value, "__module__", "") != loaded.__name__:
            for cls, values in REGISTRY.values.items():
                if isinstance(value, cls) and value not in values.values():
                    values.setdefault(name, value)
        elif isinstance(value, type) and dataclasses.is_dataclass(value):
            register(value)
        elif inspect.isfunction(value):
            REGISTRY.functions.setdefault(value.__qualname__, value)


def _load_name(module: str) -> Any:
    return importlib.import_module(module)


def _load_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError("no such file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def kind_of(cls: type) -> str:
    """Short name of a class in stored configs."""
    return getattr(cls, "kind_name", "") or cls.__name__


def name_of_function(value: Callable) -> str:
    """Registered name of a function, else its qualified name."""
    for name, function in REGISTRY.functions.items():
        if function is value:
            return name
    return value.__qualname__


def name_of_value(value: Any) -> str | None:
    """Registered name of a ready-made value such as a policy, None when it has none."""
    for cls, values in REGISTRY.values.items():
        if isinstance(value, cls):
            return next((name for name, known in values.items() if known == value), None)
    return None
