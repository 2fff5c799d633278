"""Typed configs: frozen dataclasses, built from an ml_collections ConfigDict and checked early.

A config file builds its ConfigDict with `section(Config, ...)`: every field of the dataclass (or
Flax module) becomes a key that a flag can override. `freeze` turns the ConfigDict back into the
dataclass; a ConfigError names the dotted key of anything that cannot run.
"""

from active_learning.config.durations import is_zero, to_steps
from active_learning.config.errors import ConfigError, near
from active_learning.config.flags import check_arm, check_file, from_flags, frozen, unreadable
from active_learning.config.registry import (
    import_for_configs,
    kind_of,
    register,
    register_functions,
    register_values,
)
from active_learning.config.sections import (
    Section,
    changed,
    check_ranges,
    fields_of,
    freeze,
    section,
    setting,
)
from active_learning.config.stored import (
    FORMAT,
    config_hash,
    differences,
    from_json,
    hashed,
    identity,
    to_json,
)

__all__ = [
    "FORMAT",
    "ConfigError",
    "Section",
    "changed",
    "check_arm",
    "check_file",
    "check_ranges",
    "config_hash",
    "differences",
    "fields_of",
    "freeze",
    "from_flags",
    "from_json",
    "frozen",
    "hashed",
    "identity",
    "import_for_configs",
    "is_zero",
    "kind_of",
    "near",
    "register",
    "register_functions",
    "register_values",
    "section",
    "setting",
    "to_json",
    "to_steps",
    "unreadable",
]
