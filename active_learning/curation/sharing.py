"""What the workers of one curation share: pieces that each makes, waits for, or takes over.

A later part of the work needs all pieces of an earlier one. A worker makes its own ones first. It
then waits for those of workers that are at work, and makes those of workers that are not: they have
not been started, or have died. So all workers together are as fast as there are workers, and each
of them alone would come to the end.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from active_learning.storage import workers
from active_learning.storage.pieces import Pieces, check_all, make_all
from active_learning.storage.workers import ALL, Task

KIND = "curate"  # of the locks
PAUSE = 1.0  # seconds between two looks at what others have done
Make = Callable[[int], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Sharing:
    """How a process shares the pieces of a curation.

    Attributes:
      work: Folder of the locks and pieces.
      out: The results' folder, for messages.
      task: The part of this process.
    """

    work: Path
    out: Path
    task: Task = ALL

    @property
    def is_worker(self) -> bool:
        """Whether others finish what this process does."""
        return self.task.count > 1

    @property
    def is_shared(self) -> bool:
        """Whether there are workers."""
        return self.is_worker or self.task.finish

    def all(self, pieces: Pieces, names: Sequence[str], make: Make) -> None:
        """Returns when all pieces are there.

        Args:
          pieces: Where they are kept.
          names: Their names, in the same order for all workers.
          make: Content of the piece of a number.

        Raises:
          ConfigError: The last step finds that some are missing.
        """
        self.mine(pieces, names, make)
        while missing := [number for number, name in enumerate(names) if not pieces.has(name)]:
            left = [number for number in missing if not self._others_do(number)]
            if not left:
                time.sleep(PAUSE)
                continue
            # Several workers that take over begin with different ones.
            number = left[self.task.index % len(left)]
            pieces.save(names[number], make(number))

    def mine(self, pieces: Pieces, names: Sequence[str], make: Make) -> None:
        """Makes the pieces of this process; the last step checks that all are there."""
        make_all(pieces, names, self.task, make)
        if self.task.finish:
            missing = [number for number, name in enumerate(names) if not pieces.has(name)]
            check_all(missing, len(names), self.work, KIND, self.out)

    def each(
        self, pieces: Pieces, names: Sequence[str], make: Make
    ) -> Iterator[Mapping[str, np.ndarray]]:
        """All pieces, in their order; a process that is alone keeps none of them."""
        if not self.is_shared:
            yield from map(make, range(len(names)))
            return
        self.all(pieces, names, make)
        for name in names:
            yield pieces.get(name)

    def _others_do(self, number: int) -> bool:
        owner = number % self.task.count
        if owner == self.task.index:
            return False
        return workers.at_work(self.work, Task(owner, self.task.count), KIND)
