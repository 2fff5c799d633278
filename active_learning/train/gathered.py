"""Checkpoints of several processes that see no common folder."""

from pathlib import Path
from typing import Any

from jaxtyping import PyTree

from active_learning import distributed
from active_learning.checkpoint import Checkpoints
from active_learning.distributed.whole import gathered, scattered


class GatheredCheckpoints:
    """`Checkpoints` that the first process alone writes and reads, for all.

    A state is gathered in its memory to be saved, and sent to the others when it is restored. What
    is written does not depend on the number of processes. All must call all methods but `close`.

    Args:
      folder: WORKDIR/checkpoints of the first process.
      max_to_keep: How many steps are kept.
    """

    def __init__(self, folder: Path, max_to_keep: int = 2):
        self._files: Checkpoints | None = None

        def begin() -> None:
            self._files = Checkpoints(folder, max_to_keep, alone=True)

        distributed.run_on_primary(begin)

    @property
    def _own(self) -> Checkpoints:
        """Of the first process."""
        assert self._files is not None, "only the first process has files"
        return self._files

    @property
    def empty(self) -> bool:
        """Whether no step has been committed."""
        return distributed.run_on_primary(lambda: self._own.empty)

    def save(self, step: int, state: PyTree, meta: dict) -> None:
        """As `Checkpoints.save`; raises on all processes."""
        if distributed.run_on_primary(lambda: self._own.has(step)):
            return
        whole = gathered(state)
        distributed.run_on_primary(lambda: self._own.save(step, whole, meta))

    def restore(self, target: PyTree) -> tuple[PyTree, dict] | None:
        """As `Checkpoints.restore`; raises on all processes."""
        read: list[PyTree] = []

        def one() -> dict[str, Any] | None:
            restored = self._own.restore(target)
            if restored is None:
                return None
            read.append(restored[0])
            return restored[1]

        meta = distributed.run_on_primary(one)
        return None if meta is None else (scattered(read[0] if read else None, target), meta)

    def wait(self) -> None:
        """Waits for the last save. Raises StorageError when it failed, on all processes."""
        distributed.run_on_primary(lambda: self._own.wait())

    def close(self) -> None:
        """Ends. Each process may call it alone, since the others may have failed elsewhere."""
        if self._files is not None:
            self._files.close()
