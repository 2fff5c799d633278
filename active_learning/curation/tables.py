"""The results as files: scores.parquet, scores.csv and summary.json, each written as a whole."""

import csv
import dataclasses
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from active_learning.curation.estimate import SMALL_CLASS
from active_learning.curation.examples import UNLABELED, Loaded
from active_learning.curation.records import ISSUES, ClassSummary, Record, Summary

FIELDS = tuple(field.name for field in dataclasses.fields(Record))
MOST_NAMES = 10  # small classes named in a note


def ranked(records: Sequence[Record]) -> list[Record]:
    """Records by issue and falling score, with their ranks; ties go by key."""
    out = []
    for issue in ISSUES:
        flagged = sorted((r for r in records if r.issue == issue), key=lambda r: (-r.score, r.key))
        out += [dataclasses.replace(r, rank=place) for place, r in enumerate(flagged, 1)]
    return out


def summarize(
    name: str,
    train: Loaded,
    test: Loaded | None,
    records: Sequence[Record],
    described: Mapping[str, Any],
) -> Summary:
    """The summary; `described` holds what the models say (see `findings`)."""
    counts = Counter(record.issue for record in records)
    notes = list(described["notes"])
    classes = described.get("classes", ())
    if train.captions is None and train.names and not classes:
        sizes = np.bincount(train.labels[train.labels != UNLABELED], minlength=len(train.names))
        classes = tuple(
            ClassSummary(one, int(size)) for one, size in zip(train.names, sizes, strict=True)
        )
    small = [one for one in classes if one.count < SMALL_CLASS]
    if small:
        named = ", ".join(f"{one.name} ({one.count})" for one in small[:MOST_NAMES])
        more = f" and {len(small) - MOST_NAMES} more" if len(small) > MOST_NAMES else ""
        notes.append(f"Classes of fewer than {SMALL_CLASS} examples: {named}{more}.")
    unlabeled = int((train.labels == UNLABELED).sum())
    if train.captions is None and train.names and unlabeled:
        notes.append(f"{unlabeled} examples have no label.")
    if test is None:
        notes.append("The data bring no test set, so nothing was compared with one.")
    return Summary(
        name,
        len(train),
        described.get("corrupted"),
        classes,
        tuple(tuple(map(float, row)) for row in described.get("confusion", ())),
        described.get("cuts", ()),
        {issue: counts[issue] for issue in ISSUES if counts[issue]},
        notes=tuple(notes),
    )


def write_scores(out: Path, records: Sequence[Record]) -> None:
    """scores.parquet and scores.csv: one row a record, columns as the fields of `Record`."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    out.mkdir(parents=True, exist_ok=True)
    columns = {name: [vars(record)[name] for record in records] for name in FIELDS}
    kinds = {
        "score": pa.float64(),
        "probability": pa.float64(),
        "rank": pa.int64(),
        "fold": pa.int32(),
    }
    table = pa.table({n: pa.array(v, kinds.get(n, pa.string())) for n, v in columns.items()})
    with _replacing(out / "scores.parquet") as partial:
        parquet.write_table(table, partial)
    with _replacing(out / "scores.csv") as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(FIELDS)
        writer.writerows(
            ["" if vars(r)[name] is None else vars(r)[name] for name in FIELDS] for r in records
        )


def write_summary(out: Path, summary: Summary) -> None:
    """summary.json, written last: where it is, the results are complete."""
    with _replacing(out / "summary.json") as partial:
        partial.write_text(json.dumps(dataclasses.asdict(summary), indent=1) + "\n")


class _replacing:
    """A path to write to; it takes the real one's place when the block ends without an error."""

    def __init__(self, path: Path):
        self.path, self.partial = path, path.with_name(f".{path.name}.{os.getpid()}")

    def __enter__(self) -> Path:
        return self.partial

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self.partial.replace(self.path)
        else:
            self.partial.unlink(missing_ok=True)
