"""Limits on what data files may ask for: sizes that headers declare, and decompressed sizes.

A file above a limit is refused in one line that names `RAISE`. `scaled(factor)` raises all limits
for the process; the config key `data.limits` and `prepare --limits` call it.
"""

import dataclasses
from dataclasses import dataclass

RAISE = "raise the limit with data.limits (prepare: --limits) if the file is right"


@dataclass(frozen=True)
class Limits:
    """All limits, in pixels, bytes, rows or as a ratio."""

    pixels: int = 50_000_000  # of one decoded image
    image_bytes: int = 256 << 20  # of one encoded image
    text_bytes: int = 16 << 20  # of one .txt, .cls or .json member, or a record's header
    header_bytes: int = 1 << 20  # of a tar's long name or pax header
    table_bytes: int = 512 << 20  # of a table, after decompression
    ratio: int = 250  # decompressed size over stored size of an array, where it is large
    ratio_from: int = 64 << 20  # bytes from which `ratio` applies


_current = Limits()


def current() -> Limits:
    """The limits in force in this process."""
    return _current


def scaled(factor: int | float) -> None:
    """Sets all limits to `factor` times their defaults (but `ratio_from`)."""
    global _current
    default = Limits()
    raised = {
        f.name: int(getattr(default, f.name) * factor)
        for f in dataclasses.fields(Limits)
        if f.name != "ratio_from"
    }
    _current = dataclasses.replace(default, **raised)
