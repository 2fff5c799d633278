"""How often a training run chose each example, and what it last scored it: `chosen.parquet`."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from active_learning.data.errors import DataError

FILE = "chosen.parquet"


class ChoiceCounter:
    """Counts choices by id while a run trains; constant time per candidate, 28 bytes an example.

    A run that resumes reads back what it wrote (`read_counter`) and goes on counting.
    """

    def __init__(self, ids: Int64[np.ndarray, "n"]):
        """Starts with no choices of the examples with these ids."""
        self._order = np.argsort(ids, kind="stable")
        self.ids = np.asarray(ids, np.int64)[self._order]
        self.chosen = np.zeros(len(ids), np.int64)
        self.candidate = np.zeros(len(ids), np.int64)
        self.score = np.full(len(ids), np.nan, np.float32)

    def add(
        self,
        candidates: Int64[np.ndarray, "B"],
        scores: Float[np.ndarray, "B"] | None,
        chosen: Int64[np.ndarray, "b"],
    ) -> None:
        """Counts one update: ids of the super-batch with their scores, and ids of the sub-batch."""
        rows = self._rows(candidates)
        np.add.at(self.candidate, rows, 1)
        if scores is not None:
            self.score[rows] = scores
        np.add.at(self.chosen, self._rows(chosen), 1)

    def _rows(self, ids: np.ndarray) -> np.ndarray:
        rows = np.searchsorted(self.ids, ids)
        if len(ids) and not (self.ids[np.minimum(rows, len(self.ids) - 1)] == ids).all():
            raise ValueError("an id that is not among the run's examples")
        return rows

    def write(self, run: Path) -> Path:
        """Writes `chosen.parquet` in the run's folder, as a whole."""
        import pyarrow as pa
        import pyarrow.parquet as parquet

        columns = {"id": self.ids, "candidate": self.candidate, "chosen": self.chosen}
        path, partial = run / FILE, run / f".{FILE}.{os.getpid()}"
        parquet.write_table(pa.table(columns | {"last_score": self.score}), partial)
        partial.replace(path)
        return path


def read_counter(run: Path) -> ChoiceCounter:
    """What a run counted so far. Raises DataError naming the folder or file."""
    import pyarrow.parquet as parquet

    path = run / FILE
    if not path.is_file():
        raise DataError(f"{run}: no {FILE} there; give the folder of a run that wrote one")
    try:
        table = parquet.read_table(path, columns=["id", "candidate", "chosen", "last_score"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: not readable ({' '.join(str(error).split())})") from error
    columns = {name: table[name].to_numpy() for name in table.column_names}
    out = ChoiceCounter(columns["id"])
    out.candidate, out.chosen = columns["candidate"].copy(), columns["chosen"].copy()
    out.score = columns["last_score"].astype(np.float32)
    return out


def remarks(run: Path, ids: Int64[np.ndarray, "n"]) -> Mapping[int, str]:
    """One line by row of `ids` that the run knows: "chosen 3 of 9 times, last score 0.41"."""
    counter = read_counter(run)
    row_of = {one: row for row, one in enumerate(counter.ids.tolist())}
    out = {}
    for place, one in enumerate(ids.tolist()):
        row = row_of.get(one)
        if row is not None and counter.candidate[row]:
            score = counter.score[row]
            last = "" if np.isnan(score) else f", last score {score:.2f}"
            times = f"{counter.chosen[row]} of {counter.candidate[row]} times"
            out[place] = f"chosen {times}{last}"
    if not out:
        raise DataError(f"{run}: its examples are not those of the source (no id in common)")
    return out
