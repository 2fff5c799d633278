"""The results of curation as plain values: one record per finding and a summary of the dataset.

Pure data: imports nothing beyond the standard library, so that the page, the table writers and
the code that trains the models share it without importing one another.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

# label:          the given label (or caption) is probably wrong.
# ambiguous:      two labels are about equally likely; not necessarily an error.
# duplicate:      byte-for-byte or pixel-for-pixel copy of another example of the dataset.
# near_duplicate: almost a copy (resized, recompressed, cropped).
# leak:           a test example that is also in the training set.
# unreadable:     cannot be decoded.
# ok:             nothing found; present in the full table, not on the page.
Issue = Literal["label", "ambiguous", "duplicate", "near_duplicate", "leak", "unreadable", "ok"]
ISSUES: tuple[str, ...] = get_args(Issue)


@dataclass(frozen=True)
class Record:
    """One example and what was found about it; one row of `scores.parquet` and of the page.

    An example with several issues has one record per issue; `(key, issue)` is unique.

    Raises:
      ValueError: `issue` is unknown, or `score` or `probability` lies outside [0, 1].
    """

    # Where a person finds the example: a path relative to the source, or `shard.tar:member`.
    path: str
    # Identity by content, stable when files are added, moved or renamed. Decisions refer to it.
    key: str
    # Given label by name, or the caption of a pair; "" if the example has none.
    label: str
    # Label that the models consider most likely; "" if there is nothing to suggest.
    suggested: str
    # In [0, 1], higher = more suspect. For duplicates and leaks the similarity; 1 if unreadable.
    score: float
    # 1 = the most suspect example among the records of its issue.
    rank: int
    issue: Issue
    # The fold that held the example out; -1 where no model judged it.
    fold: int = -1
    # Estimated probability that the label is wrong; None where it was not estimated. The mean of
    # it over the records above a cut is the estimated precision of that cut.
    probability: float | None = None
    # Duplicates and leaks: the same name for all examples of one group of copies.
    group: str = ""
    # One short line for people, e.g. "copy of train/cat/17.png" or the decoder's message.
    detail: str = ""

    def __post_init__(self) -> None:
        if self.issue not in ISSUES:
            raise ValueError(f"issue {self.issue!r} of {self.path!r}: use one of {list(ISSUES)}")
        values = {"score": self.score}
        if self.probability is not None:
            values["probability"] = self.probability
        for name, value in values.items():
            if not (math.isfinite(value) and 0 <= value <= 1):
                raise ValueError(f"{name} of {self.path!r} is {value}: it must lie in [0, 1]")


@dataclass(frozen=True)
class Estimate:
    """An estimated number with its interval at `Summary.confidence`."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassSummary:
    """One class: its size and the estimated fraction of its examples that are mislabeled."""

    name: str
    count: int
    corrupted: Estimate | None = None


@dataclass(frozen=True)
class Cut:
    """What results from treating every `label` record with at least this score as wrong."""

    score: float
    # Examples of the whole dataset with at least this score.
    count: int
    # Estimated fraction of them that are really wrong, and of all wrong labels that they hold.
    precision: Estimate
    recall: Estimate | None = None


@dataclass(frozen=True)
class Summary:
    """The dataset as a whole; `summary.json` and the head of the page."""

    # Title of the page, e.g. the folder's name.
    name: str
    num_examples: int
    # Estimated fraction of mislabeled examples; None without labels.
    corrupted: Estimate | None = None
    classes: tuple[ClassSummary, ...] = ()
    # Estimated number of examples with given label i (row) whose true label is j (column), in the
    # order of `classes`; the diagonal counts the correct ones. Empty without classes.
    confusion: tuple[tuple[float | int, ...], ...] = ()
    # By falling score (growing count), about 100 of them; empty if precision was not estimated.
    cuts: tuple[Cut, ...] = ()
    # Number of examples of the dataset per issue, for the page holds only the most suspect ones.
    counts: Mapping[str, int] = field(default_factory=dict)
    # Coverage of every `Estimate`.
    confidence: float = 0.95
    # Lines for people: how the models were trained, classes that are too small, caveats.
    notes: tuple[str, ...] = ()
