"""Configs from the command line."""

import dataclasses
import re
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from active_learning.config.errors import ConfigError, near
from active_learning.config.registry import kind_of
from active_learning.config.sections import fields_of, freeze

# Code that is not a user's config: folders of libraries, and this package.
_LIBRARIES = {"site-packages", "dist-packages", "importlib"}
_PACKAGE = Path(__file__).resolve().parents[1]


def check_arm(arm: str, *known: str) -> None:
    """For config files with arms, `--config=FILE:ARM`.

    Raises:
      ConfigError: `arm` is not one of the known names.
    """
    if arm not in known:
        raise ConfigError(f"arm {arm!r} after the colon: expected one of {', '.join(known)}")


def one_line(error: BaseException) -> str:
    """The reason why flags could not be parsed, in one line.

    Where the config file itself raised, it holds the file, its line number and the message. absl
    passes some errors of the file on as they are, and of others appends the traceback to its own.
    """
    if isinstance(error, SyntaxError):
        return f"{error.filename}: line {error.lineno}: {error.msg}"
    if isinstance(error, SystemExit):
        return f"{_place(error)}exits with {error.code!r} instead of returning a config"
    if isinstance(error, AttributeError) and "no attribute 'get_config'" in str(error):
        return "the file of --config defines no get_config()"
    first, *trace = str(error).strip().splitlines() or [type(error).__name__]
    if not trace:
        place = _place(error)
        return _of(place, error) if place else first
    places = re.findall(r'File "([^"]+)", line (\d+)', str(error))
    file = re.search(r"--config=([^:\s]+)", first)
    mine = [line for path, line in places if file and Path(path).name == Path(file[1]).name]
    head = first.removesuffix(" Error whilst parsing config file:").removesuffix(":")
    kind, _, message = trace[-1].partition(": ")
    if kind.rpartition(".")[2] == ConfigError.__name__:
        return f"{head}: {message}"
    where = f"line {mine[-1]}: " if mine else ""
    return f"{head}: {where}{trace[-1]}"


def _of(place: str, error: BaseException) -> str:
    """A raised error after the place that raised it; our own need no name of a class."""
    if isinstance(error, ConfigError):
        return f"{place}{error}"
    text = " ".join(str(error).split())
    return f"{place}{type(error).__name__}: {text}" if text else f"{place}{type(error).__name__}"


def _place(error: BaseException) -> str:
    """'FILE: line N: ' of the last frame that is neither a library's nor this package's."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename).resolve()
        inside = file.is_relative_to(_PACKAGE) or not _LIBRARIES.isdisjoint(file.parts)
        if not inside and not frame.filename.startswith("<"):
            return f"{frame.filename}: line {frame.lineno}: "
    return ""


def from_flags(argv: list[str]) -> tuple[Any, list[str]]:
    """Parses `--config=FILE[:ARG]` and its `--config.x.y=...` overrides.

    Returns:
      The frozen config (None when not given) and the remaining arguments.

    Raises:
      ConfigError: Names the flag that cannot be read.
    """
    from absl import flags, logging
    from ml_collections import config_flags

    values = flags.FlagValues()
    check_file(argv)
    holder = config_flags.DEFINE_config_file(
        "config", None, "config file", values, sys_argv=["", *argv]
    )
    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # What they warn of is an error here.
    try:
        rest = values(["", *argv], known_only=True)[1:]
    except (Exception, SystemExit) as error:  # A config file may raise anything.
        raise ConfigError(unreadable(argv, error)) from error
    finally:
        logging.set_verbosity(level)
    if holder.value is None:
        check_file(argv, parsed=True)
        return None, rest
    return frozen(values["config"]), rest


def unreadable(argv: list[str], error: BaseException) -> str:
    """The reason why these flags could not be parsed, in one line."""
    return _missing_key(argv, error) or one_line(error)


def _missing_key(argv: list[str], error: BaseException) -> str:
    """Names the flag whose key the config does not have; '' where that is not the error."""
    named = (
        re.match(r"\W*(\w+)\W", str(error))
        if isinstance(error, LookupError | AttributeError)
        else None
    )
    if named is None:
        return ""
    pattern = re.compile(rf"--?(config\.(?:\w+\.)*?{named[1]})(?:[.=]|$)")
    flags = [found[1] for word in argv if (found := pattern.match(word))]
    if not flags:
        return ""
    close = re.search(r'Did you mean "(\w+)"', str(error))
    hint = f"did you mean {close[1]!r}?" if close else "flags replace keys that the config has"
    return f"{flags[0]}: no such key; {hint}"


def check_file(argv: list[str], parsed: bool = False) -> None:
    """Checks the file that --config names.

    Args:
      argv: The command line.
      parsed: Whether it was parsed without a config coming out.

    Raises:
      ConfigError: There is no such file, or (when parsed) it returned no config.
    """
    for word in argv:
        file = word.partition("=")[2] if re.match(r"--?config=", word) else ""
        if file and not Path(file.partition(":")[0]).is_file():
            raise ConfigError(f"--config={file}: no such file{_beside(file)}")
        if file and parsed:
            raise ConfigError(f"--config={file}: get_config() returned None; return the config")


def _beside(file: str) -> str:
    """Which configs are in the folder of one that is not there, the nearest first; '' for none."""
    path = Path(file.partition(":")[0])
    names = [other.name for other in path.parent.glob("*.py") if other.name[0] != "_"]
    return near(path.name, names) if names else ""


def frozen(flag: Any) -> Any:
    """The frozen config behind an absl flag, with the sizes that its overrides give fixed.

    Raises:
      ConfigError: As `freeze`.
    """
    from ml_collections import config_flags

    given = config_flags.get_override_values(flag)
    try:
        config = freeze(checked_root(flag.value))
    except ConfigError as error:
        file = config_flags.get_config_filename(flag)
        raise ConfigError(f"{error}{_line_of(str(error), file, given)}") from error
    for key in given:
        _check_used(config, key)
    return dataclasses.replace(config, fit=tuple(k for k in config.fit if k not in given))


def _check_used(config: Any, key: str) -> None:
    """Refuses a flag for a key of another kind, which the config would ignore."""
    value, path = config, "config"
    for name in key.partition("[")[0].split("."):
        if name == "kind" or not dataclasses.is_dataclass(value):
            return
        known = fields_of(type(value))
        if name not in known:
            raise ConfigError(
                f"{path}.{name}: no key of kind {kind_of(type(value))!r}{near(name, known)}"
            )
        value, path = getattr(value, name), f"{path}.{name}"


def _line_of(message: str, file: str, given: Iterable[str]) -> str:
    """' (FILE, line N)' where exactly one line of a config file sets the key that is refused."""
    key = re.match(r"config\.([\w.]+)", message)
    if not key or key[1] in given:
        return ""
    pattern = re.compile(rf"\b{re.escape(key[1].rpartition('.')[2])}\s*=(?!=)")
    try:
        lines = Path(file).read_text().splitlines()
    except (OSError, ValueError):
        return ""
    places = [n for n, line in enumerate(lines, 1) if pattern.search(line)]
    return f" ({file}, line {places[0]})" if len(places) == 1 else ""


def checked_root(value: Any) -> Any:
    """What get_config() returned, if it is a config. Raises ConfigError."""
    # A ConfigDict, whose library is not imported here.
    kind = value.get("kind") if hasattr(value, "to_dict") else None
    if kind != "Config":
        raise ConfigError(
            "config: get_config() must return section(Config, ...), got "
            f"{type(value).__name__ if kind is None else kind}"
        )
    return value
