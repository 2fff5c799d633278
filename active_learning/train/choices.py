"""How often a run chose each example and what it last scored it: `chosen.parquet`.

The counts are kept by row of the training part, on the primary process, which sees the candidates
and choices of all; 16 bytes an example. Every checkpoint has its own file of counts, so that a run
that resumes from any of them goes on exactly.
"""

import os
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64, Integer

from active_learning.data.errors import DataError

FILE = "chosen.parquet"
FOLDER = "counts"  # of the counts at each checkpoint
_COLUMNS = ("chosen", "candidate", "score", "step")


class ChoiceCounter:
    """Counts while a run trains.

    Attributes:
      chosen: How often each example was trained on.
      candidate: How often it was a candidate.
      score: Its last score; NaN before the first.
      step: Update of its last score; 0 before the first.
    """

    def __init__(self, count: int):
        """Starts with no choices of `count` examples."""
        self.chosen = np.zeros(count, np.int32)
        self.candidate = np.zeros(count, np.int32)
        self.score = np.full(count, np.nan, np.float32)
        self.step = np.zeros(count, np.int32)

    def add(
        self,
        step: int,
        candidates: Integer[np.ndarray, "B"],
        scores: Float[np.ndarray, "B"] | None,
        chosen: Integer[np.ndarray, "b"],
    ) -> None:
        """Counts one update.

        Args:
          step: Updates done.
          candidates: Rows of the super-batch.
          scores: Their scores; None for a uniform update.
          chosen: Rows of the sub-batch.
        """
        np.add.at(self.candidate, candidates, 1)
        np.add.at(self.chosen, chosen, 1)
        if scores is not None:
            self.score[candidates] = scores
            self.step[candidates] = step

    def save(self, run: Path, step: int, keep: int) -> None:
        """Writes the counts of a checkpoint, and removes those of all but the last `keep`."""
        folder = run / FOLDER
        folder.mkdir(exist_ok=True)
        path = folder / f"{step:08d}.npz"
        partial = folder / f".{path.name}.{os.getpid()}"
        with partial.open("wb") as file:
            np.savez(
                file,
                chosen=self.chosen,
                candidate=self.candidate,
                score=self.score,
                step=self.step,
            )
        partial.replace(path)
        for old in sorted(folder.glob("*.npz"))[:-keep]:
            old.unlink()

    def restore(self, run: Path, step: int) -> bool:
        """Goes on from the counts at a checkpoint; False where there are none that fit."""
        path = run / FOLDER / f"{step:08d}.npz"
        try:
            with np.load(path, allow_pickle=False) as stored:
                columns = {name: stored[name] for name in _COLUMNS}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return False
        if any(vars(self)[name].shape != values.shape for name, values in columns.items()):
            return False
        for name, values in columns.items():
            vars(self)[name][:] = values
        return True

    def write(self, run: Path, ids: Int64[np.ndarray, "n"]) -> Path:
        """Writes `chosen.parquet` in the run's folder, as a whole."""
        import pyarrow as pa
        import pyarrow.parquet as parquet

        columns = {"id": ids, "candidate": self.candidate, "chosen": self.chosen}
        columns |= {"last_score": self.score, "last_step": self.step}
        path, partial = run / FILE, run / f".{FILE}.{os.getpid()}"
        parquet.write_table(pa.table(columns), partial)
        partial.replace(path)
        return path


class Counts(NamedTuple):
    """The content of `chosen.parquet`."""

    id: np.ndarray
    candidate: np.ndarray
    chosen: np.ndarray
    last_score: np.ndarray
    last_step: np.ndarray


def read_counts(run: Path) -> Counts:
    """What a run counted so far. Raises DataError naming the folder or file."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    path = run / FILE
    if not path.is_file():
        raise DataError(f"{run}: no {FILE} there; give the folder of a run that wrote one")
    try:
        table = parquet.read_table(path, columns=list(Counts._fields))
        return Counts(*(table[name].to_numpy() for name in Counts._fields))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{path}: not readable ({' '.join(str(error).split())})") from error
