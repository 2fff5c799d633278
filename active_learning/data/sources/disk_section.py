"""From a listing of encoded images to the training and test sources.

Decides which rows are used, their classes, and what is held out.
"""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Int32

from active_learning.config import setting
from active_learning.data import classes, limits, splits, text
from active_learning.data.classes import Classes
from active_learning.data.errors import DataError
from active_learning.data.rows import AllBut
from active_learning.data.sources import paths
from active_learning.data.sources.columns import class_numbers, distinct, rows_without_captions
from active_learning.data.sources.keep import decided
from active_learning.data.sources.listing import Listing, unique_ids, unusable
from active_learning.data.sources.on_disk import LARGEST, Disk, found_size, take, used
from active_learning.data.sources.problems import Problems
from active_learning.data.sources.source import Opened, SourceSection, check_small


@dataclass(frozen=True)
class DiskSection(SourceSection):
    """Keys that all sources on disk share.

    Attributes:
      reads_remote: Whether `path` may be an address, e.g. of a bucket.
    """

    reads_remote: ClassVar[bool] = False

    # Where data lie is no part of a run's identity; their content hash is compared instead.
    path: str = setting("", hashed=False)
    # px: images are resized to cover size x size, and the center is cut out; 0: their own size, at
    # most LARGEST.
    size: int = setting(64, at_least=0, at_most=4096)
    # px of the view that scorers see; 0: the same view (see docs/data.md).
    small: int = setting(0, at_least=0, at_most=4096)
    # Column trained on; '': there is none (captions only).
    label: str = "label"
    # Column with the true labels, for reports and the test set; '': unknown.
    clean_label: str = ""
    # Column that must hold a caption; '': captions may be missing.
    text: str = ""
    # Number of classes; 0: found from the data.
    classes: int = setting(0, at_least=0, at_most=2**24)
    # Fraction that becomes the test set, stratified, by picture, where the data bring none of their
    # own.
    holdout: float = setting(0.1, above=0.0, below=1.0)
    # Decoding threads; 0: one a core.
    threads: int = setting(0, at_least=0, at_most=4096, hashed=False)
    # Decisions of the curation page, a table of keys, or FILE:CONDITION over its scores: only what
    # they keep is trained on (docs/curate.md). Compared by content, as all data are.
    keep: str = setting("", hashed=False)
    # The same with new labels: relabeled rows, or FILE:CONDITION for the suggested ones.
    labels: str = setting("", hashed=False)
    # Examples that are shuffled at a time, in chunks of neighbors from all over the set; 0: all.
    # It saves requests where a set lies in a bucket and is larger than `cache_gb` (docs/data.md).
    shuffle: int = setting(0, at_least=0, at_most=2**40)
    # Factor on all limits of data/limits.py.
    limits: float = setting(1.0, above=0.0, at_most=1e6, hashed=False)

    def check(self) -> None:
        """Raises DataError naming the first key that cannot be."""
        if not self.path:
            raise DataError("config.data.path='': give the path of your data")
        paths.check_kind(self.path, "config.data.path", self.reads_remote)
        if self.size and not 8 <= self.size <= 4096:
            raise DataError(
                f"config.data.size={self.size}: expected 8 .. 4096 px, or 0 (found from the images)"
            )
        check_small(self.small, self.size or LARGEST)
        if not 0 < self.holdout < 1:
            raise DataError(
                f"config.data.holdout={self.holdout}: expected a fraction between 0 and 1"
            )
        for key, least in (("threads", self.threads), ("classes", self.classes)):
            if least < 0:
                raise DataError(f"config.data.{key}={least}: expected 0 or more")
        if not 0 < self.limits < float("inf"):
            raise DataError(f"config.data.limits={self.limits}: expected a factor above 0")

    def listings(self) -> tuple[Listing, Listing | None]:
        """The training examples, and the test examples where the data bring some.

        Raises DataError or OSError.
        """
        raise NotImplementedError

    def checked_listings(self) -> tuple[Listing, Listing | None]:
        """Returns `listings` after checking the keys, with decisions applied to the training set.

        Raises:
          DataError: Names the key, file or folder that cannot be used or read.
        """
        self.check()
        limits.scaled(self.limits)
        try:
            train, test = self.listings()
            return decided(train, self.keep, self.labels, self.label), test
        except OSError as error:
            why = (
                "no permission to read it" if isinstance(error, PermissionError) else error.strerror
            )
            where = text.printable(str(error.filename or self.path))
            raise DataError(f"{where}: {why or error}") from error

    def open(self) -> Opened:
        """Lists and checks; of images only a few are read, to find their size.

        Raises DataError naming key, file or folder.
        """
        return self._opened(*self.checked_listings())

    def with_text(self, column: str) -> "DiskSection":
        return self if self.text else dataclasses.replace(self, text=column)

    def _opened(self, train: Listing, test: Listing | None) -> Opened:
        """Both sources; without a test listing a fraction of the training examples is held out."""
        known = self._classes(train)
        made = self._source(train, known)
        if self.label and not self.classes:
            classes.check_several(made.class_names, train.where)
        size = self.size or found_size(made.files, made.rows, made.problems.where)
        made = dataclasses.replace(made, size=size)
        check_small(self.small, size)
        test_label = self.clean_label or self.label
        if test is not None and (why := self._unlabeled(test)):
            made.problems.notes = {
                **made.problems.notes,
                test.where: f"{why}; {self.holdout:.0%} of the training set is held out instead",
            }
            test = None
        if test is not None:
            judged = dataclasses.replace(self._source(test, known, is_test=True), size=size)
            return Opened(made, judged, test_label)
        count = max(1, round(self.holdout * len(made)))
        if count >= len(made):
            raise DataError(
                f"{train.where}: {len(made)} examples are too few to hold out {self.holdout:.0%} "
                f"as a test set"
            )

        def split() -> dict[str, np.ndarray]:
            strata = made.labels(self.label) if self.label else np.zeros(len(made), np.int32)
            sizes = {"test": count, "train": len(made) - count}
            return splits.split(strata, sizes, groups=made.picture_ids, ids=made.ids)

        held = made.kept(f"test set of {count} by {self.label!r}", split)
        if not len(held["test"]) or not len(held["train"]):
            raise DataError(
                f"{train.where}: too few different pictures to hold some out as a test set; give "
                f"one by data.test_path, or a folder named test"
            )
        rest, judged = (take(made, held[name], f"{name} of {count}") for name in ("train", "test"))
        return Opened(rest, judged, test_label)

    @property
    def _label_columns(self) -> list[str]:
        return [column for column in (self.label, self.clean_label) if column]

    def _classes(self, train: Listing) -> Classes:
        """The classes, by the rule of data/classes.py."""
        if names := train.names_of(self._label_columns or [""]):
            return classes.Classes(names, given=True)
        wanted = [c for c in self._label_columns if c in train.columns]
        values = (value for column in wanted for value in distinct(train.columns[column]))
        return classes.of_labels(
            values, self.classes, f"{train.where}: column {' and '.join(wanted)!r}"
        )

    def _unlabeled(self, test: Listing) -> str:
        """Why a test set cannot judge: none of its examples has a label; '' when it can."""
        column = self.clean_label or self.label
        if not column or len(test.files) == 0:
            return ""
        if column not in test.columns:
            return f"the test set has no column {column!r}"
        if all(map(_says_no_label, distinct(test.columns[column]))):
            return f"no example of the test set has a {column} (all are missing or -1)"
        return ""

    def _source(self, listing: Listing, known: Classes, is_test: bool = False) -> Disk:
        n = len(listing.files)
        if n == 0:
            raise DataError("; ".join([f"{listing.where}: no examples", *listing.left_out.lines()]))
        problems = Problems(listing.where, n, notes=listing.notes, left_out=listing.left_out)
        unused = unusable(listing, problems)
        labels = self._labels(listing, known, unused, problems, is_test)
        self._leave_out_textless(listing, unused, problems)
        ids = unique_ids(listing, unused, problems)
        rows = AllBut(n, unused)
        about = {
            "kind": listing.kind,
            "where": text.printable(os.path.basename(listing.where.rstrip("/"))),
            "ids": listing.ids_by,
        }
        if listing.decisions:
            about["decisions"] = listing.decisions
        texts = {c: v for c, v in listing.columns.items() if c not in labels}
        source = Disk(
            listing.files, rows, ids, labels, texts, len(known.names), known.names, self.size,
            self.clean_label, problems, about, self.small, self.threads, self.shuffle,
            catalog=listing.catalog,
        )  # fmt: skip
        return used(source, len(unused) > 0)

    def _labels(
        self,
        listing: Listing,
        known: Classes,
        unused: set[int],
        problems: Problems,
        is_test: bool,
    ) -> dict[str, Int32[np.ndarray, "n"]]:
        """Class numbers of each label column.

        Rows without a class are counted and join `unused`.
        """
        wanted = self._label_columns
        if is_test and self.clean_label:
            # The test set is judged by the true labels alone, where it has no others.
            wanted = [c for c in wanted if c in listing.columns or c == self.clean_label]
        labels = {}
        for column in wanted:
            if column not in listing.columns:
                raise listing.missing(column)
            where = f"{listing.where}: column {column!r}"
            labels[column], missing = class_numbers(known, listing.columns[column], where)
            for row in missing.tolist():
                if row in unused:
                    continue
                unused.add(row)
                value, name = listing.columns[column][row], listing.files.name(row)
                number = classes.whole(value)
                if is_test and number is not None and number < 0:
                    problems.left_out.add(
                        f"test examples with {column} {number}, which says 'no label'", name
                    )
                elif number is not None and number < 0:
                    problems.add(
                        name, f"{column} {value!r} is not a class: negative numbers say 'no label'"
                    )
                else:
                    problems.add(name, f"{column} {_short(value)} is not a class")
        return labels

    def _leave_out_textless(self, listing: Listing, unused: set[int], problems: Problems) -> None:
        """Counts rows without a caption; they join `unused`."""
        if not self.text:
            return
        column = text.column_of(tuple(listing.columns), self.text)
        if column is None:
            raise listing.missing(self.text)
        if column != self.text:
            problems.notes = {
                **problems.notes,
                listing.where: f"captions are those of column {column!r}",
            }
        values = text.values_of(listing.columns, column)
        try:
            without = rows_without_captions(values)
        except DataError as error:
            raise DataError(f"{listing.where}: column {column!r} holds {error}") from error
        for row in without:
            if row not in unused:
                unused.add(row)
                problems.add(listing.files.name(row), f"no {column}")


def _says_no_label(value: object) -> bool:
    number = classes.whole(value)
    return text.is_missing(value) or (number is not None and number < 0)


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def listed(names: Sequence[str], most: int = 10) -> str:
    """Names for an error, at most `most` of them."""
    return ", ".join(text.printable(n) for n in names[:most]) + (
        f" and {len(names) - most} more" if len(names) > most else ""
    )
