"""Counts of what is not used: bad examples by name, everything else by reason."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from active_learning.data.errors import DataError
from active_learning.data.text import printable

LIMIT = 0.01  # fraction of a source's examples that may be bad
_NAMES = 10  # examples of a reason that are kept by name


class LeftOut:
    """Files, rows or members that are no examples: a count and the first names by reason."""

    def __init__(
        self,
        counts: Mapping[str, int] | None = None,
        names: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.counts = dict(counts or {})
        self.names = {reason: list((names or {}).get(reason, ())) for reason in self.counts}

    def add(self, reason: str, name: str = "", count: int = 1) -> None:
        """Counts `count` items of one reason."""
        self.counts[reason] = self.counts.get(reason, 0) + count
        names = self.names.setdefault(reason, [])
        if name and len(names) < _NAMES:
            names.append(printable(name))

    def merge(self, other: "LeftOut") -> "LeftOut":
        """Adds the counts of another listing; returns itself."""
        for reason, count in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + count
            names = self.names.setdefault(reason, [])
            names += other.names[reason][: _NAMES - len(names)]
        return self

    def lines(self) -> list[str]:
        """Returns one line a reason, e.g. 'left out: 60 files are .heic: a/1.heic, ...'."""
        out = []
        for reason, count in self.counts.items():
            names = self.names[reason]
            more = ", ..." if count > len(names) and names else ""
            out.append(
                f"left out: {count:,} {reason}" + (f": {', '.join(names)}{more}" if names else "")
            )
        return out


@dataclass
class Problems:
    """Bad examples of a source, by name with the reason.

    More than `limit` (None: LIMIT) of `total` raise DataError.
    """

    where: str
    total: int
    bad: dict[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(
        default_factory=dict
    )  # what concerns no example, e.g. an empty class
    left_out: LeftOut = field(default_factory=LeftOut)
    limit: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, name: str, reason: str) -> None:
        """Counts an example once, however often it is met. Raises DataError above the limit."""
        limit = LIMIT if self.limit is None else self.limit
        with self._lock:
            self.bad.setdefault(printable(name), printable(reason))
            if len(self.bad) <= limit * self.total:
                return
            first = "; ".join(f"{name} ({reason})" for name, reason in list(self.bad.items())[:10])
            count = f"{len(self.bad)} of {self.total} examples cannot be used"
        raise DataError(
            f"{self.where}: {count}, more than {limit:.0%}; remove or replace them: {first}"
        )

    def lines(self, most: int = 10) -> list[str]:
        """Returns what to print: notes, counts by reason, and the first bad examples by name."""
        out = [f"{name}: {reason}" for name, reason in self.notes.items()]
        out += [f"{self.where}: {line}" for line in self.left_out.lines()]
        if self.bad:
            out.append(f"{self.where}: {len(self.bad)} of {self.total} examples cannot be used")
        out += [f"  {name}: {reason}" for name, reason in list(self.bad.items())[:most]]
        return out + ([f"  and {len(self.bad) - most} more"] if len(self.bad) > most else [])
