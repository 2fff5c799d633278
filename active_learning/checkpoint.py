"""Checkpoints: the one importer of Orbax. A step holds the train state, and as JSON the data position, the ledger and the config hash."""

import json
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from active_learning.config import ConfigError
from active_learning.metrics import LOG


class Checkpoints:
    """Saves and restores steps under `folder`, keeping the newest `keep`. Saving is asynchronous; `close` waits for it."""

    def __init__(self, folder: Path, keep: int = 1):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(Path(folder).absolute(), options=options)

    def save(self, step: int, state: PyTree, meta: dict) -> None:
        """Writes (state, meta) as `step`; a step that exists already is left as it is."""
        if step in self._manager.all_steps():
            return
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        self._manager.save(step, args=args)

    def restore(self, target: PyTree) -> tuple[PyTree, dict] | None:
        """The newest readable step, with the shapes and shardings of `target` (arrays or ShapeDtypeStructs); None when there is none.

        A damaged step is skipped with a warning, and removed once an older one is read: the run will save that step again. Raises
        ConfigError when steps exist but none can be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, target)
        for step in steps:
            args = ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()
            )
            try:
                found = self._manager.restore(step, args=args)
            except Exception as error:  # Orbax raises many kinds for a damaged file
                LOG.warning(
                    "checkpoint of step %d cannot be read (%s); trying an older one",
                    step,
                    str(error).splitlines()[0],
                )
                continue
            for damaged in (newer for newer in steps if newer > step):
                self._manager.delete(damaged)
            return found.state, found.meta
        if steps:
            raise ConfigError(
                f"{self._manager.directory}: none of the checkpoints {steps} can be read into this config's state"
            )
        return None

    def close(self) -> None:
        """Waits for the last save and surfaces its error."""
        self._manager.wait_until_finished()
        self._manager.close()


def load_params(run: Path, which: str = "learner") -> PyTree:
    """Parameters of one model ("learner", "online" or "reference") of a run's newest checkpoint, as NumPy arrays.

    Raises ConfigError naming the folder when there is no checkpoint, no such model in it, or several of that name.
    """
    config = Path(run) / "config.json"
    if which == "reference" and config.exists():
        kind = json.loads(config.read_text())["config"].get("reference", {}).get("kind")
        if kind == "crossfitted":
            raise ConfigError(
                f"{run}: its references are cross-fitted, each a run of its own (fold0, fold1): name one of those"
            )
    folder = Path(run).absolute() / "checkpoints"
    steps = (
        sorted((int(p.name) for p in folder.iterdir() if p.name.isdigit()), reverse=True)
        if folder.is_dir()
        else []
    )
    if not steps:
        raise ConfigError(f"{run}: no checkpoint found there")
    saved = folder / str(steps[0]) / "state"
    reader = ocp.PyTreeCheckpointHandler()
    tree = reader.metadata(saved).tree
    if tree.get(which) is None:
        raise ConfigError(f"{run}: its state has no {which!r}")
    wanted = {which: {"params": tree[which]["params"]}}
    # As plain arrays: the devices it was saved on may not be here.
    plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    found = reader.restore(
        saved, args=ocp.args.PyTreeRestore(wanted, restore_args=plain, partial_restore=True)
    )
    reader.close()
    return found[which]["params"]
