"""Decisions about examples, read from a table or from a query over the scores.

A table is the CSV that the page downloads (columns `key`, `decision`, `new_label`) or any CSV or
Parquet file with a column `key`, whose rows are kept. Keys are those of
`sources.contents.content_keys`. A query is `FILE:CONDITION` over a table of
scores, e.g. `OUT/scores.parquet:score<0.9 and issue!='duplicate'`. Conditions are parsed here:
nothing is evaluated, and the only names are the table's columns.
"""

import csv
import hashlib
import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from active_learning.data.errors import DataError

_TOKEN = re.compile(
    r"\s*(?:(?P<number>-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)|(?P<text>'[^']*'|\"[^\"]*\")"
    r"|(?P<op><=|>=|==|!=|<|>|\(|\))|(?P<word>[A-Za-z_][A-Za-z0-9_]*))"
)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
Row = Mapping[str, Any]

# What the page's button downloads and `prepare` reads: one row per decided example.
# decision is keep, relabel or drop; new_label is given for relabel only.
DECISION_COLUMNS = ("key", "path", "label", "decision", "new_label")
DECISIONS = ("keep", "relabel", "drop")


@dataclass(frozen=True)
class Decisions:
    """What to do with examples, by key.

    Attributes:
      drop: Keys to leave out.
      relabel: New label by key.
      only: Where not None, every other key is left out too.
    """

    drop: frozenset[str] = frozenset()
    relabel: Mapping[str, str] = field(default_factory=dict)
    only: frozenset[str] | None = None

    def keeps(self, key: str) -> bool:
        """Whether an example stays."""
        return key not in self.drop and (self.only is None or key in self.only)

    @property
    def keys(self) -> frozenset[str]:
        """Every key that something is decided of."""
        return self.drop | frozenset(self.relabel) | (self.only or frozenset())

    @property
    def digest(self) -> str:
        """A hash of what is decided, whatever the file is called and however it is ordered."""
        only = None if self.only is None else sorted(self.only)
        decided = [sorted(self.drop), sorted(self.relabel.items()), only]
        return hashlib.sha256(json.dumps(decided).encode()).hexdigest()[:16]


def read_decisions(text: str) -> Decisions:
    """Reads `FILE` or `FILE:CONDITION`.

    With a condition an example is kept if all of its rows fulfill it; one without a row is not
    kept.

    Raises:
      DataError: a file that is missing or unreadable, a decision that is none, a condition that
        cannot be read; one line naming file and row or condition.
    """
    path, condition = _split(text)
    rows = read_rows(path)
    if condition:
        fulfills = parse(condition, tuple(rows[0]) if rows else ())
        failing = {row["key"] for row in rows if not fulfills(row)}
        return Decisions(only=frozenset(row["key"] for row in rows) - failing)
    if not rows or "decision" not in rows[0]:
        return Decisions(only=frozenset(row["key"] for row in rows))
    drop, relabel = set(), {}
    for number, row in enumerate(rows, 2):
        decision, new = row["decision"], row.get("new_label") or ""
        if decision not in DECISIONS:
            known = ", ".join(DECISIONS)
            raise DataError(f"{path}: row {number} decides {decision!r}; expected one of {known}")
        if decision == "relabel" and not new:
            raise DataError(f"{path}: row {number} relabels {row['key']} but gives no new_label")
        if decision == "drop":
            drop.add(row["key"])
        elif decision == "relabel":
            relabel[row["key"]] = new
    return Decisions(frozenset(drop), relabel)


def read_labels(text: str) -> dict[str, str]:
    """New labels by key, read from `FILE` or `FILE:CONDITION`.

    A table of decisions gives its relabeled rows, any other table with a column `new_label` the
    rows in which that is not empty. With a condition the rows that fulfill it get their
    `suggested` label.

    Raises:
      DataError: As `read_decisions`, or a table without such a column.
    """
    path, condition = _split(text)
    rows = read_rows(path)
    column = "suggested" if condition else "new_label"
    if rows and column not in rows[0]:
        raise DataError(f"{path}: no column {column!r} to take new labels from")
    if condition:
        fulfills = parse(condition, tuple(rows[0]) if rows else ())
        rows = [row for row in rows if fulfills(row)]
    elif rows and "decision" in rows[0]:
        rows = [row for row in rows if row["decision"] == "relabel"]
    return {row["key"]: str(row[column]) for row in rows if row[column]}


def _split(text: str) -> tuple[Path, str]:
    """File and condition; a colon within the file's name is no separator."""
    for suffix in (".csv", ".parquet"):
        name, found, condition = text.partition(f"{suffix}:")
        if found:
            return Path(name + suffix).expanduser(), condition.strip()
    return Path(text).expanduser(), ""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a CSV or Parquet file with a column `key`; numbers of a CSV stay text."""
    if path.suffix not in (".csv", ".parquet"):
        raise DataError(f"{path}: expected a .csv or .parquet file, or FILE:CONDITION")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        rows = _csv_rows(path) if path.suffix == ".csv" else _parquet_rows(path)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise DataError(f"{path}: not a readable table ({' '.join(str(error).split())})") from error
    if rows and "key" not in rows[0]:
        raise DataError(f"{path}: no column 'key'; there are: {', '.join(rows[0])}")
    return rows


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as lines:
        rows = list(csv.DictReader(lines))
    if any(None in row or None in row.values() for row in rows):
        raise ValueError("a row has more or fewer fields than the header")
    return rows


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as parquet

    return parquet.read_table(path).to_pylist()


def parse(condition: str, columns: Sequence[str]) -> Callable[[Row], bool]:
    """A condition as a function of a row.

    Grammar: comparisons COLUMN OP VALUE (OP: < <= > >= == !=; VALUE: a number or a quoted text),
    joined by `and`, `or`, `not` and parentheses.

    Raises:
      DataError: naming the condition and the place that cannot be read.
    """
    reader = _Reader(condition, columns)
    found = reader.either()
    if reader.peek() is not None:
        raise reader.error(f"unexpected {reader.peek()!r}")
    return found


class _Reader:
    """Recursive descent over the tokens of one condition."""

    def __init__(self, condition: str, columns: Sequence[str]):
        self.condition, self.columns, self.place = condition, columns, 0
        self.tokens: list[tuple[str, str]] = []
        at, text = 0, condition.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise self.error(f"cannot read {text[at:].strip()[:20]!r}")
            self.tokens.append((match.lastgroup or "", match[match.lastgroup or 0]))
            at = match.end()

    def error(self, why: str) -> DataError:
        example = "score<0.9 and issue!='duplicate'"
        return DataError(f"condition {self.condition!r}: {why}; write e.g. {example}")

    def peek(self) -> str | None:
        return self.tokens[self.place][1] if self.place < len(self.tokens) else None

    def take(self, *kinds: str) -> str:
        kind, text = self.tokens[self.place] if self.place < len(self.tokens) else ("", "its end")
        if kind not in kinds:
            raise self.error(f"expected a {' or a '.join(kinds)} at {text!r}")
        self.place += 1
        return text

    def either(self) -> Callable[[Row], bool]:
        parts = [self.both()]
        while self.peek() == "or":
            self.take("word")
            parts.append(self.both())
        return lambda row: any(part(row) for part in parts)

    def both(self) -> Callable[[Row], bool]:
        parts = [self.one()]
        while self.peek() == "and":
            self.take("word")
            parts.append(self.one())
        return lambda row: all(part(row) for part in parts)

    def one(self) -> Callable[[Row], bool]:
        if self.peek() == "not":
            self.take("word")
            inner = self.one()
            return lambda row: not inner(row)
        if self.peek() == "(":
            self.take("op")
            inner = self.either()
            if self.peek() != ")":
                raise self.error("a parenthesis is not closed")
            self.take("op")
            return inner
        return self.comparison()

    def comparison(self) -> Callable[[Row], bool]:
        column = self.take("word")
        if column not in self.columns:
            known = ", ".join(self.columns)
            raise self.error(f"no column {column!r} (there are: {known})")
        sign = self.take("op")
        if sign not in _COMPARE:
            raise self.error(f"expected a comparison after {column!r}, not {sign!r}")
        number = self.tokens[self.place][0] == "number" if self.peek() is not None else False
        text = self.take("number", "text")
        compare, value = _COMPARE[sign], float(text) if number else text[1:-1]

        def fulfilled(row: Row) -> bool:
            held = row[column]
            if not number:
                return compare("" if held is None else str(held), value)
            try:
                return compare(float(held), value)
            except (TypeError, ValueError):
                return sign == "!="  # an empty field equals no number and is neither less nor more

        return fulfilled
