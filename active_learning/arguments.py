"""Command lines of the commands: one line for what cannot be read, and the nearest known flag."""

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlparse

from active_learning.storage.addresses import is_bucket

_FILE = re.compile(r"file:/", re.IGNORECASE)
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, `error: ...`, with exit code 2.

    Flags are never abbreviated. An unknown flag, or a word such as `small=64`, is refused with the
    flag that was probably meant.

    Args:
      module: The command, `active_learning.NAME`.
      description: The command's docstring.
      **options: Of `argparse.ArgumentParser`.
    """

    def __init__(self, module: str, description: str | None, **options: Any):
        super().__init__(
            prog=f"python -m {module}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,
        )

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # pyright: ignore
        """Parses all arguments; anything left over is an error."""
        words = list(sys.argv[1:] if args is None else args)
        for before, word in zip(["", *words], words, strict=False):
            self._check_word(before, word)
        known, rest = self.parse_known_args(words, namespace)
        if rest:
            unknown = next((word for word in rest if word.startswith("-")), rest[0])
            self.error(self._unknown(unknown))
        return known

    def folder(self, text: str, name: str) -> Path:
        """The folder that a positional argument `name` asks to write; an error if it is no path."""
        try:
            return path(text)
        except argparse.ArgumentTypeError as error:
            self.error(f"{name}: {error}")

    def error(self, message: str) -> NoReturn:
        """Prints one line and exits with 2."""
        line = " ".join(str(message).split())
        self.exit(2, f"error: {line.removeprefix('argument ')}\n")

    def _check_word(self, before: str, word: str) -> None:
        name, equals, _ = word.partition("=")
        takes_value = before.startswith("--") and "=" not in before
        if equals and not takes_value and f"--{name}" in self._option_string_actions:
            self.error(f"{word!r} is not a flag; did you mean --{word}?")

    def _unknown(self, word: str) -> str:
        name = word.partition("=")[0]
        if name.startswith("--config"):
            return f"{word!r}: keys of a config need --config=FILE"
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        close = difflib.get_close_matches(f"--{name.lstrip('-')}", known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(known))}"
        return f"{word!r} is not a flag; {hint}"


def number(
    kind: type[int] | type[float], at_least: int | float, at_most: int | float
) -> Callable[[str], int | float]:
    """The type of a flag whose value is a number in a range, for `Parser.add_argument`."""

    def read(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not at_least <= value <= at_most:  # nan is in no range
            name = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(
                f"{text!r}: expected {name} between {at_least:g} and {at_most:g}"
            )
        return value

    return read


def path(text: str) -> Path:
    """The type of a flag that names a local file or folder, for `Parser.add_argument`.

    `~` and `file:` are understood; other addresses are refused.
    """
    if _FILE.match(text):
        text = unquote(urlparse(text).path)
    elif match := _ADDRESS.match(text):
        raise argparse.ArgumentTypeError(
            f"{text!r}: {match[1]} addresses are not supported; give a local path"
        )
    if "\0" in text or not text:
        raise argparse.ArgumentTypeError(f"{text!r}: not a path")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # No such user.
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def run_path(text: str) -> Path | str:
    """The type of a flag that names a run to read: as `path`, or an address in a bucket."""
    return text if is_bucket(text) else path(text)


def without_flag(argv: Sequence[str], name: str) -> list[str]:
    """The arguments without a flag, which takes a value: `--name=X` or `--name X`."""
    rest, words = [], iter(argv)
    for word in words:
        if word == name:
            next(words, None)
        elif not word.startswith(f"{name}="):
            rest.append(word)
    return rest
