"""Decisions applied to a training set: what is left out, and which labels are new.

Examples are known by content (`contents.content_keys`), so that decisions survive other names,
other places and preparation. The files themselves are never changed.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from active_learning.data import classes
from active_learning.data.decisions import Decisions, read_decisions, read_labels
from active_learning.data.errors import DataError
from active_learning.data.sources import contents
from active_learning.data.sources.listing import Listing
from active_learning.data.sources.source import Memory

_BLOCK = 512  # images of an array that are digested at a time


def read(keep: str, labels: str) -> Decisions:
    """What `data.keep` and `data.labels` say together; of two new labels the latter's holds."""
    decided = read_decisions(keep) if keep else Decisions()
    new = read_labels(labels) if labels else {}
    return dataclasses.replace(decided, relabel={**decided.relabel, **new})


def decided(listing: Listing, keep: str, labels: str, column: str) -> Listing:
    """The listing with decisions applied; reads every image once to know it by content.

    Args:
      listing: The training examples.
      keep: Value of `data.keep`; '': all stay.
      labels: Value of `data.labels`; '': no label is new.
      column: Column of the labels.

    Raises:
      DataError: Decisions that cannot be read, are of other data, or name no class.
    """
    if not keep and not labels:
        return listing
    decisions = read(keep, labels)
    names = [listing.files.name(row) for row in range(len(listing.files))]
    keys = contents.content_keys(contents.digests_of(listing.files, where=listing.where), names)
    dropped, new = _outcome(decisions, keys, listing.where, _flags(keep, labels))
    columns = dict(listing.columns)
    if new:
        if column not in columns:
            raise DataError(
                f"{_flags(keep, labels)}: gives {len(new)} examples a new label, but "
                f"{listing.where} has no column {column!r}"
            )
        known = listing.classes(column)
        numbers = {row: _number(known, name, listing.where) for row, name in new.items()}
        columns[column] = _with_values(columns[column], known, numbers)
    note = f"{len(dropped)} of {len(keys)} examples left out, {len(new)} relabeled"
    return dataclasses.replace(
        listing,
        columns=columns,
        notes={**listing.notes, _flags(keep, labels): note},
        dropped=frozenset(dropped),
        decisions=decisions.digest,
    )


def decided_memory(source: Memory, keep: str, labels: str, column: str) -> Memory:
    """As `decided`, for arrays; they are known by their pixels. Kept rows keep their ids."""
    if not keep and not labels:
        return source
    decisions = read(keep, labels)
    dropped, new = _outcome(decisions, memory_keys(source), source.location, _flags(keep, labels))
    columns = {name: values.copy() for name, values in source.label_columns.items()}
    if new:
        names = source.class_names or tuple(str(k) for k in range(source.num_classes))
        known = classes.Classes(names, given=True)
        for row, name in new.items():
            columns[column][row] = _number(known, name, source.location)
    rows = np.setdiff1d(np.arange(len(source)), sorted(dropped))
    return dataclasses.replace(
        source,
        image=source.image[rows],
        label_columns={name: values[rows] for name, values in columns.items()},
        about={**(source.about or {}), "decisions": decisions.digest},
        stored_ids=source.ids[rows],
    )


def memory_keys(source: Memory) -> tuple[str, ...]:
    """Keys of arrays, as `curate` gives them: of shape and pixels."""
    digests = []
    for start in range(0, len(source), _BLOCK):
        digests += contents.pixel_digests(np.asarray(source.image[start : start + _BLOCK]))
    return contents.content_keys(digests, [f"training {row}" for row in range(len(source))])


def _flags(keep: str, labels: str) -> str:
    named = {"config.data.keep": keep, "config.data.labels": labels}
    return " ".join(f"{key}={value!r}" for key, value in named.items() if value)


def _outcome(
    decisions: Decisions, keys: Sequence[str], where: str, flags: str
) -> tuple[set[int], dict[int, str]]:
    """Rows that are left out, and the new label of others."""
    named = decisions.keys
    if named and named.isdisjoint(keys):
        raise DataError(
            f"{flags}: none of the {len(named)} keys there is among the {len(keys)} examples of "
            f"{where}; it was made from other data"
        )
    dropped = {row for row, key in enumerate(keys) if not decisions.keeps(key)}
    if len(dropped) == len(keys):
        raise DataError(f"{flags}: leaves out all {len(keys)} examples of {where}")
    new = {
        row: decisions.relabel[key]
        for row, key in enumerate(keys)
        if row not in dropped and key in decisions.relabel
    }
    return dropped, new


def _number(known: classes.Classes, name: str, where: str) -> int:
    number = known.number(name)
    if number == classes.MISSING:
        some = ", ".join(known.names[:10]) + (", ..." if len(known.names) > 10 else "")
        raise DataError(f"new label {name!r}: no class of {where} (there are: {some})")
    return number


def _with_values(
    values: Sequence[object], known: classes.Classes, numbers: Mapping[int, int]
) -> list[object]:
    """A column with other values in some rows, written as the column writes that class."""
    of_class: dict[int, object] = {}
    for value in values:
        if len(of_class) == len(known.names):
            break
        of_class.setdefault(known.number(value), value)
    out = list(values)
    for row, number in numbers.items():
        out[row] = of_class.get(number, known.names[number])
    return out
