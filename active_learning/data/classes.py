"""The one rule by which labels become classes, for every source and for `prepare`.

Values. A label is a whole number, a text or a truth value. `3`, `3.0`, `"3"`, `" 3.0"` and `"003"`
are the number 3; `true` and `false` count in any case; None, not-a-number and empty text are
missing; -1 (any negative number) says "no label". Lists, objects and other fractions are refused.

Names given with the data (class folders, ClassLabel features, `class_names`): a text is looked up
among the names, also where it looks like a number; a number that is no text is a place in the list
of names.

No names: the classes are those of the training examples' labels. Where all are whole numbers, they
are in numerical order (0, 1, 2, 10): every number from the lowest to the highest where at least
half of these occur, else (numbers that are far apart) those that do. Otherwise they are the
different texts in alphabetical order. `data.classes=N` says that the classes are the numbers 0 ..
N-1, whether they occur or not.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int32, Integer

from active_learning.data import text
from active_learning.data.errors import DataError

_CHUNK = 1 << 24  # labels that are counted at a time
MISSING = -1  # class number of a label that is missing or no class
_WHOLE = re.compile(r"[+-]?[0-9]+(\.0*)?")
_FRACTION = re.compile(r"[+-]?([0-9]*\.[0-9]+(e[+-]?[0-9]+)?|[0-9]+e-[0-9]+)", re.IGNORECASE)
_BOOLS = {"false": 0, "true": 1}


def whole(value: Any) -> int | None:
    """The whole number that a label is, else None."""
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return int(value) if float(value).is_integer() else None
    if isinstance(value, str):
        value = value.strip()
        if len(value) < 40 and _WHOLE.fullmatch(value) and value.isascii():
            return int(value.partition(".")[0])
    return None


def name_of(value: Any) -> str | None:
    """The text of a label, None where it is missing.

    Raises:
      ValueError: The label is a list, an object or a fraction.
    """
    if text.is_missing(value):
        return None
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, str):
        return text.printable(unicodedata.normalize("NFC", value.strip()))
    number = whole(value)
    if number is not None:
        return str(number)
    if isinstance(value, float | np.floating):
        raise ValueError(f"holds {value}; a class is a whole number or a name")
    kind = "a list" if isinstance(value, list | tuple | np.ndarray) else f"a {type(value).__name__}"
    raise ValueError(f"holds {kind} ({str(value)[:40]}); one label an example is needed")


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Names in the order of their classes: numerical where all are whole numbers, else by text."""
    names = sorted(set(names))
    numbers = [whole(name) for name in names]
    if all(number is not None for number in numbers):
        return tuple(name for _, name in sorted(zip(numbers, names, strict=True)))
    return tuple(names)


@dataclass(frozen=True)
class Classes:
    """The classes of a data set.

    `given`: the names came with the data, so that a number is a place among them.
    """

    names: tuple[str, ...]
    given: bool = False

    @cached_property
    def _by_name(self) -> dict[str, int]:
        return {unicodedata.normalize("NFC", name): k for k, name in enumerate(self.names)}

    @cached_property
    def _by_number(self) -> dict[int, int]:
        numbers = [whole(name) for name in self.names]
        return {n: k for k, n in enumerate(numbers) if n is not None}

    @cached_property
    def _are_bools(self) -> bool:
        return {name.casefold() for name in self.names} == set(_BOOLS)

    def number(self, value: Any) -> int:
        """The class of one label, MISSING where it is none. Raises ValueError as `name_of` does."""
        name = name_of(value)
        if name is None:
            return MISSING
        place = whole(value)
        if self.given and place is not None and not isinstance(value, str):
            return place if 0 <= place < len(self.names) else MISSING
        if name in self._by_name:
            return self._by_name[name]
        if self._are_bools:
            wanted = _BOOLS.get(name.casefold(), place)
            return next(
                (k for k, n in enumerate(self.names) if _BOOLS[n.casefold()] == wanted), MISSING
            )
        if isinstance(value, bool | np.bool_):
            name, place = str(int(value)), int(value)
        if place in self._by_number:
            return self._by_number[place]
        if (
            self.given
            and not self._by_number
            and place is not None
            and 0 <= place < len(self.names)
        ):
            return place
        return MISSING

    def numbers(self, values: Sequence[Any], where: str) -> Int32[np.ndarray, "n"]:
        """The class of each label, MISSING where it is none.

        DataError naming `where` for a label that cannot be one.
        """
        known: dict[Any, int] = {}
        out = np.empty(len(values), np.int32)
        for row, value in enumerate(values):
            try:
                key = (type(value), value)
                if key not in known:
                    known[key] = self.number(value)
                out[row] = known[key]
            except (ValueError, TypeError) as error:
                raise DataError(f"{where} {_reason(error, value)}") from error
        return out


def _reason(error: Exception, value: Any) -> str:
    if isinstance(error, ValueError):
        return str(error)
    try:
        name_of(value)
    except ValueError as why:
        return str(why)
    return f"holds {type(value).__name__}; one label an example is needed"


def of_labels(values: Iterable[Any], count: int, where: str) -> Classes:
    """The classes of labels without names.

    `count` (0: unknown) is `data.classes`. Raises DataError naming `where`.
    """
    distinct: dict[Any, Any] = {}
    for value in values:
        try:
            distinct.setdefault((type(value), value), value)
        except TypeError as error:
            raise DataError(f"{where} {_reason(error, value)}") from error
    try:
        named = {name: value for value in distinct.values() if (name := name_of(value)) is not None}
    except ValueError as error:
        raise DataError(f"{where} {error}") from error
    numbers = {whole(name) for name in named}
    if None not in numbers:
        if count:
            return Classes(tuple(str(n) for n in range(count)))
        numbers = {n for n in numbers if n >= 0}
        if numbers and max(numbers) - min(numbers) < 2 * len(numbers):
            return Classes(tuple(str(n) for n in range(min(numbers), max(numbers) + 1)))
        return Classes(tuple(str(n) for n in sorted(numbers)))
    if {name.casefold() for name in named} <= set(_BOOLS):
        return Classes(tuple(_BOOLS))
    fractions = [name for name in named if whole(name) is None and _FRACTION.fullmatch(name)]
    if len(fractions) == sum(whole(name) is None for name in named) > 0:  # all are numbers
        raise DataError(f"{where} holds {fractions[0]}; a class is a whole number or a name")
    names = ordered(named)
    if count and len(names) != count:
        raise DataError(f"config.data.classes={count}: {where} has {len(names)} different labels")
    return Classes(names)


def check_several(names: Sequence[str], where: str) -> None:
    """DataError where there are fewer than two classes to tell apart."""
    if len(names) < 2:
        there = f"one class, {names[0]!r}" if names else "no class at all"
        raise DataError(
            f"{where}: {there}; two or more are needed: give the folder that holds the class "
            f"folders, or another label column"
        )


def matched(
    labels: Integer[np.ndarray, "n"], theirs: Sequence[str], ours: Sequence[str]
) -> Int32[np.ndarray, "n"]:
    """Renumbers labels from the class names `theirs` to `ours`; MISSING where there is none."""
    classes = Classes(tuple(ours))
    table = np.array([classes.number(name) for name in theirs] + [MISSING], np.int32)
    return table[labels]


def counts(labels: Integer[np.ndarray, "n"], names: Sequence[str]) -> dict[str, int]:
    """Examples of each class, by name in the order of the classes."""
    totals = np.zeros(len(names), np.int64)
    for start in range(0, len(labels), _CHUNK):
        part = labels[start : start + _CHUNK]
        totals += np.bincount(part[part >= 0], minlength=len(names))
    return {name: int(n) for name, n in zip(names, totals, strict=True)}


def line(by_name: Mapping[str, int], most: int = 10) -> str:
    """'3 classes: 0 = cat (20), 1 = dog (20), ...', with at most `most` names."""
    shown = [
        f"{k} = {text.printable(n)} ({c:,})" for k, (n, c) in enumerate(by_name.items()) if k < most
    ]
    more = f" and {len(by_name) - most} more" if len(by_name) > most else ""
    return f"{len(by_name)} classes: {', '.join(shown)}{more}"
