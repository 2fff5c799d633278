"""Reading JSON from run folders that may be damaged or hostile: every fault is one `RunError`."""

import json
import math
from pathlib import Path
from typing import Any

from active_learning.report.text import clean

MAX_JSON_BYTES = 64 * 2**20
MAX_METRICS_BYTES = 2**30
MAX_DEPTH = 40
# Larger numbers are no measurement, and their squares would overflow.
MAX_NUMBER = 1e100


class RunError(ValueError):
    """A folder that cannot be reported on; the message is one line naming the file and fault."""

    def __init__(self, message: str):
        super().__init__(clean(message, 1000))


def number(value: Any) -> float | None:
    """Return `value` as a float if it is a finite number of sane size, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not -MAX_NUMBER < value < MAX_NUMBER or not math.isfinite(value):
        return None
    return float(value)


def read_text(path: Path, max_bytes: int = MAX_JSON_BYTES) -> str:
    """Return the text of a UTF-8 file of at most `max_bytes`.

    Raises:
      RunError: The file is too large, unreadable or not UTF-8.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise RunError(f"{path}: {size:,} bytes; at most {max_bytes:,} are read")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: damaged ({error})") from error


def parse(text: str, where: str) -> Any:
    """Parse JSON of bounded depth.

    Raises:
      RunError: It is no JSON, or is nested more than `MAX_DEPTH` levels deep.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise RunError(f"{where}: nested more than {MAX_DEPTH} levels deep") from error
    except ValueError as error:
        raise RunError(f"{where} is damaged ({error})") from error
    layer = [value]
    for _ in range(MAX_DEPTH):
        layer = [
            inner
            for outer in layer
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not layer:
            return value
    raise RunError(f"{where}: nested more than {MAX_DEPTH} levels deep")


def read_object(path: Path) -> dict:
    """Return the JSON object of a file; RunError if it holds anything else."""
    value = parse(read_text(path), str(path))
    if not isinstance(value, dict):
        raise RunError(f"{path} is damaged (not a JSON object)")
    return value


def get_float(record: dict, key: str, where: str) -> float:
    """Return the finite number `record[key]`; RunError if there is none."""
    value = number(record.get(key))
    if value is None:
        raise RunError(f"{where}: {key!r} is missing or not a finite number")
    return value


def get_count(record: dict, key: str, where: str) -> int:
    """Return the integer `record[key]` from 0 to 2^53; RunError otherwise."""
    value = get_float(record, key, where)
    if value != int(value) or not 0 <= value <= 2**53:
        raise RunError(f"{where}: {key!r} is {value:g}, not an integer from 0 to 2^53")
    return int(value)


def get_text(record: dict, key: str, where: str, default: str | None = None) -> str:
    """Return the string `record[key]`, or `default`; RunError if it is no string, or missing."""
    value = record.get(key, default)
    if not isinstance(value, str) or (default is None and not value):
        raise RunError(f"{where}: {key!r} is missing or not a string")
    return value


def get_object(record: dict, key: str, where: str) -> dict:
    """Return the object `record[key]`; RunError if it is missing or anything else."""
    value = record.get(key)
    if not isinstance(value, dict):
        raise RunError(f"{where}: {key!r} is missing or not an object")
    return value
