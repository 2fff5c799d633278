"""Text from run folders, made safe to print, to draw and to write as UTF-8."""

import re
import unicodedata

MAX_LENGTH = 200
# Controls, line separators, lone surrogates, and marks that reorder the text around them.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)


def clean(text: object, max_length: int = MAX_LENGTH) -> str:
    """Return `text` as one printable line.

    Characters that break a line, a terminal or UTF-8 (controls, lone surrogates, bidirectional
    overrides) become U+FFFD; whatever exceeds `max_length` characters is cut and ends in "…".
    This does not escape HTML: the templates do.
    """
    text = unicodedata.normalize("NFC", str(text)[: 4 * max_length])
    text = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)
    return text if len(text) <= max_length else text[: max_length - 1] + "…"


def plain(text: str) -> str:
    """Text that matplotlib reads neither as mathematics nor as a hidden label."""
    return clean(text, 70).replace("$", r"\$").lstrip("_") or " "
