"""The error of every config and command line, and its hint."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A config that cannot run: one line naming the key, its value and what was expected."""


def near(name: str, known: Iterable[str]) -> str:
    """'; did you mean X?' when a known name is close, else the list of known names."""
    known = [str(k) for k in known]
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"
