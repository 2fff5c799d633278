"""What a training run thought of the examples: a line for each, and a comparison with the findings.

A run that trained on the suspect examples less often than on others agrees with the curator.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from active_learning.curation.records import Record
from active_learning.data.errors import DataError
from active_learning.train.choices import Counts, read_counts

_SUSPECT = ("label", "ambiguous")


def rows_of(run: Path, ids: Int64[np.ndarray, "n"]) -> tuple[Counts, Int64[np.ndarray, "n"]]:
    """The run's counts, and the row in them of each id, -1 where it has none.

    Raises DataError for a run on other data.
    """
    counts = read_counts(run)
    row_of = {one: row for row, one in enumerate(counts.id.tolist())}
    rows = np.array([row_of.get(one, -1) for one in ids.tolist()], np.int64)
    if not (rows >= 0).any():
        raise DataError(f"{run}: its examples are not those of the source (no id in common)")
    return counts, rows


def remarks(counts: Counts, rows: Int64[np.ndarray, "n"]) -> Mapping[int, str]:
    """One line by example that was a candidate: "chosen 3 of 9 times, last score 0.41"."""
    out = {}
    for place, row in enumerate(rows.tolist()):
        if row >= 0 and counts.candidate[row]:
            score = counts.last_score[row]
            last = "" if np.isnan(score) else f", last score {score:.2f}"
            times = f"{counts.chosen[row]} of {counts.candidate[row]} times"
            out[place] = f"chosen {times}{last}"
    return out


def note(
    run: Path,
    counts: Counts,
    rows: Int64[np.ndarray, "n"],
    keys: Sequence[str],
    records: Sequence[Record],
) -> str:
    """A sentence for people: how the run treated the suspect labels and the others."""
    suspect = {record.key for record in records if record.issue in _SUSPECT}
    totals = {True: [0, 0], False: [0, 0]}
    for key, row in zip(keys, rows.tolist(), strict=True):
        if row >= 0:
            pair = totals[key in suspect]
            pair[0] += int(counts.chosen[row])
            pair[1] += int(counts.candidate[row])
    known = rows[rows >= 0]
    never = float((counts.chosen[known] == 0).mean())
    parts = [f"Run {run.name}: {never:.0%} of its {len(known):,} examples were never chosen"]
    for is_suspect, what in ((True, "suspect labels"), (False, "the other examples")):
        chosen, candidates = totals[is_suspect]
        if candidates:
            parts.append(f"{what} were chosen {chosen / candidates:.0%} of the times they came up")
    return "; ".join(parts) + "."
