"""Text from files of any origin: what can be encoded and printed, and captions in values."""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from active_learning.data.errors import DataError

CAPTION_COLUMNS = ("caption", "captions", "text", "texts", "txt", "title", "sentence", "sentences")


def clean(text: str) -> str:
    """Makes text encodable: lone surrogates become U+FFFD, NUL is dropped, the form is NFC."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return unicodedata.normalize("NFC", text.replace("\0", ""))


def encoded(name: str) -> bytes:
    """Any `str`, also a file name that is not UTF-8, as bytes; for hashes."""
    return name.encode("utf-8", "surrogatepass")


def printable(name: str) -> str:
    """A name for messages and files: on one line, what UTF-8 cannot encode as escapes."""
    name = name.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def clean_value(value: Any) -> Any:
    """A column's value as JSON and UTF-8 can hold it: texts cleaned, not-a-number as None."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {clean(str(key)): clean_value(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [clean_value(one) for one in value]
    return value


def is_missing(value: Any) -> bool:
    """Whether a value says nothing: None, not-a-number, or text of spaces only."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str) and not value.strip()


def captions(value: Any) -> list[str]:
    """Returns the captions in a value: a text, a number, or a list of those, without empty ones.

    Raises:
      DataError: The value holds objects, e.g. a caption for each language.
    """
    if isinstance(value, Mapping):
        keys = ", ".join(str(key) for key in value)
        raise DataError(
            f"objects with the keys {keys}: name one, e.g. 'COLUMN.{next(iter(value), 'key')}'"
        )
    if isinstance(value, list | tuple):
        return [text for one in value for text in captions(one)]
    if is_missing(value):
        return []
    text = clean(value if isinstance(value, str) else str(value))
    return [text] if text.strip() else []


def column_of(names: Sequence[str], wanted: str) -> str | None:
    """Returns the column that `wanted` means, None where there is none.

    That is a column of this name, 'COLUMN.KEY' of a column of objects, or, where `wanted` is a
    usual name of a caption column, the first other usual name that is there.
    """
    if wanted in names:
        return wanted
    if "." in wanted and wanted.partition(".")[0] in names:
        return wanted
    if wanted in CAPTION_COLUMNS:
        folded = {name.casefold(): name for name in names}
        return next((folded[name] for name in CAPTION_COLUMNS if name in folded), None)
    return None


def values_of(columns: Mapping[str, Sequence[Any]], name: str) -> Sequence[Any]:
    """The values of a column that `column_of` gave."""
    if name in columns:
        return columns[name]
    column, _, key = name.partition(".")
    return [_member(value, key) for value in columns[column]]


def _member(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(key)
    if isinstance(value, list | tuple):
        return [_member(one, key) for one in value]
    return None
