"""Configs from the command line."""

import dataclasses
import re
from pathlib import Path
from typing import Any

from active_learning.config.errors import ConfigError
from active_learning.config.sections import freeze


def check_arm(arm: str, *known: str) -> None:
    """For config files with arms, `--config=FILE:ARM`.

    Raises:
      ConfigError: `arm` is not one of the known names.
    """
    if arm not in known:
        raise ConfigError(f"arm {arm!r} after the colon: expected one of {', '.join(known)}")


def one_line(error: Exception) -> str:
    """The reason why flags could not be parsed, in one line.

    Where the config file itself raised, absl appends its traceback; the line then holds the file's
    line number and message.
    """
    first, *trace = str(error).strip().splitlines() or [type(error).__name__]
    if not trace:
        return first
    places = re.findall(r'File "([^"]+)", line (\d+)', str(error))
    file = re.search(r"--config=([^:\s]+)", first)
    mine = [line for path, line in places if file and Path(path).name == Path(file[1]).name]
    head = first.removesuffix(" Error whilst parsing config file:").removesuffix(":")
    kind, _, message = trace[-1].partition(": ")
    if kind.rpartition(".")[2] == ConfigError.__name__:
        return f"{head}: {message}"
    where = f"line {mine[-1]}: " if mine else ""
    return f"{head}: {where}{trace[-1]}"


def from_flags(argv: list[str]) -> tuple[Any, list[str]]:
    """Parses `--config=FILE[:ARG]` and its `--config.x.y=...` overrides.

    Returns:
      The frozen config (None when not given) and the remaining arguments.

    Raises:
      ConfigError: Names the flag that cannot be read.
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
    return (None if holder.value is None else frozen(values["config"])), rest


def frozen(flag: Any) -> Any:
    """The frozen config behind an absl flag, with the sizes that its overrides give fixed.

    Raises:
      ConfigError: As `freeze`.
    """
    from ml_collections import config_flags

    given = config_flags.get_override_values(flag)
    config = freeze(checked_root(flag.value))
    return dataclasses.replace(config, fit=tuple(k for k in config.fit if k not in given))


def checked_root(value: Any) -> Any:
    """What get_config() returned, if it is a config. Raises ConfigError."""
    kind = value.get("kind") if hasattr(value, "to_dict") else None
    if kind != "Config":
        raise ConfigError(
            "config: get_config() must return section(Config, ...), got "
            f"{type(value).__name__ if kind is None else kind}"
        )
    return value
