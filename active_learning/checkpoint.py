"""Checkpoints; the only importer of Orbax.

A step holds the train state and, as JSON, the data position, the ledger and the config hash. It
also holds checksums.json, the SHA-256 of each of its files, which is committed together with them
and verified before the step is used.
"""

import contextlib
import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from active_learning import distributed
from active_learning.config import ConfigError
from active_learning.distributed.finite import nonfinite
from active_learning.distributed.whole import is_key
from active_learning.metrics import LOG, StorageError, write_atomic

MANIFEST = "checksums.json"
# Written by Orbax after the manifest; they hold no part of the state.
_LATER = {"_CHECKPOINT_METADATA", "commit_success.txt", MANIFEST}
_NO_ROOM = ("no space left", "disk quota", "errno 28", "resource_exhausted")


class DamagedError(ConfigError):
    """No intact checkpoint is left; the message names the broken file."""


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, which leaves it to the training loop to look for a preemption.

    A look counts for all processes, and these look at every update (`train.signals`).
    """

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """Saves and restores the steps of one run. Saving is asynchronous; `close` waits for it.

    Args:
      folder: WORKDIR/checkpoints.
      max_to_keep: How many steps are kept. With one, a damaged file costs the whole run; with two,
        it costs the updates between two checkpoints, for twice the space.
      alone: Of several processes only this one, the first, has the folder: states are NumPy arrays,
        and nothing waits for the others.
    """

    def __init__(self, folder: Path, max_to_keep: int = 2, alone: bool = False):
        self._folder, self._saving, self._alone = Path(folder).absolute(), 0, alone
        _silence_background_traces()
        self._once(partial(_remove_endless_metadata, self._folder))
        own = {}
        if alone:
            own = {"active_processes": {0}, "barrier_sync_key_prefix": "alone"}
            self._guarded(self._folder.mkdir, parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=max_to_keep,
            cleanup_tmp_directories=True,
            create=not alone,  # Orbax does not make a folder for some of the processes.
            multiprocessing_options=ocp.options.MultiprocessingOptions(**own),
            # Orbax calls it on the first process, after the last file and before the commit.
            async_options=ocp.AsyncOptions(
                post_finalization_callback=self._write_manifest,
                # Else the processes number their saves, of which some are of the first one alone.
                create_directories_asynchronously=jax.process_count() == 1,
            ),
        )
        self._manager = self._guarded(_Manager, self._folder, options=options)

    def _once(self, function: Callable[[], Any]) -> Any:
        """Calls a function on the first process; its value on all that have the folder."""
        return function() if self._alone else distributed.run_on_primary(function)

    @property
    def empty(self) -> bool:
        """Whether no step has been committed."""
        return not _steps(self._folder)

    def has(self, step: int) -> bool:
        """Whether a step has been committed, once the last save is done."""
        self.wait()
        return step in self._manager.all_steps()

    def save(self, step: int, state: PyTree, meta: dict) -> None:
        """Starts to write (state, meta) as `step`; a step that exists already is left as it is.

        Raises:
          StorageError: This save, or the one before, could not be written; older steps are intact.
        """
        if self.has(step):
            return
        self._saving = step
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        self._guarded(self._manager.save, step, args=args)

    def restore(self, target: PyTree) -> tuple[PyTree, dict] | None:
        """Reads the newest intact step.

        A step with a wrong checksum, an unreadable file or weights that are not finite is reported
        and skipped. Once an older one is read, newer damaged ones are removed: the run saves them
        again.

        Args:
          target: Arrays, or (but for random keys) ShapeDtypeStructs, with the shapes and shardings
            to restore.

        Returns:
          (state, meta), or None when there is no step.

        Raises:
          DamagedError: Steps exist but none is intact; names the broken file.
          ConfigError: An intact step does not fit `target`.
        """
        steps, damages, restored = _steps(self._folder), [], None
        like = _numpy_like if self._alone else ocp.utils.to_shape_dtype_struct
        abstract = jax.tree.map(like, target)
        for step in steps:
            folder = self._folder / str(step)
            damage = self._once(partial(find_damage, folder))
            if damage is None:
                restored, damage = self._read(step, abstract)
            if damage is None and restored is not None:
                for newer in steps[: steps.index(step)]:
                    self._manager.delete(newer)
                state = restored.state
                if not self._alone:  # One that was alone has written the data of random keys.
                    state = jax.tree.map(_with_keys, state, target)
                return state, restored.meta
            damages.append(f"{folder}: {damage}")
            LOG.warning("%s: checkpoint is damaged (%s); trying an older one", folder, damage)
        if damages:
            raise DamagedError(f"{damages[0]}; no intact checkpoint is left")
        return None

    def _read(self, step: int, abstract: PyTree):
        """(what was read, None) or (None, why the step cannot be used)."""
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(step, args=args)
        except Exception as error:  # Orbax raises many kinds
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            if (self._folder / str(step) / MANIFEST).exists():
                raise ConfigError(
                    f"{self._folder}: none of the checkpoints {_steps(self._folder)} can be read "
                    f"into this config's state ({reason})"
                ) from error
            return None, reason
        bad = nonfinite(restored.state)
        return restored, bad and f"{bad} is not finite"

    def wait(self) -> None:
        """Waits for the last save. Raises StorageError when it failed."""
        self._guarded(self._manager.wait_until_finished)

    def close(self) -> None:
        """Waits for the last save and ends. Raises StorageError when it failed."""
        try:
            self.wait()
        finally:
            self._guarded(self._manager.close)

    def _write_manifest(self) -> None:
        for folder in self._folder.glob(f"{self._saving}.orbax-checkpoint-tmp*"):
            write_atomic(folder / MANIFEST, json.dumps(_checksums(folder), indent=1))

    def _guarded(self, function: Callable, *args, **kwargs):
        """Calls Orbax; a failure of the disk becomes a StorageError that says what is intact."""
        try:
            return function(*args, **kwargs)
        except (OSError, StorageError, ValueError, RuntimeError) as error:
            if not (reason := _storage_reason(error)):
                raise
            for folder in self._folder.glob(f"{self._saving}.orbax-checkpoint-tmp*"):
                shutil.rmtree(folder, ignore_errors=True)
            left = _steps(self._folder)
            intact = f"the checkpoint of update {left[0]} is intact" if left else "none is there"
            raise StorageError(
                f"{self._folder}: a checkpoint could not be written ({reason}); {intact}. "
                "Free some space and run the same command again"
            ) from error


def _with_keys(leaf: jax.Array, target: jax.Array) -> jax.Array:
    """Random keys from their data, where that was stored."""
    if is_key(target) and not is_key(leaf):
        return jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(target))
    return leaf


def _numpy_like(leaf: Any) -> np.ndarray:
    """An array of this shape and type that takes no memory, by which Orbax restores to NumPy."""
    leaf = jax.eval_shape(jax.random.key_data, leaf) if is_key(leaf) else leaf
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)


def _remove_endless_metadata(folder: Path) -> None:
    """Removes metadata of steps that nest too deep to be parsed, at which Orbax would raise.

    Orbax writes them after the checksums; no run needs them.
    """
    for step in _steps(folder):
        file = folder / str(step) / "_CHECKPOINT_METADATA"
        with contextlib.suppress(OSError, ValueError):
            try:
                json.loads(file.read_bytes())
            except RecursionError:
                LOG.warning("%s: removed, it cannot be read", file)
                file.unlink()


def _silence_background_traces() -> None:
    """Hides what Orbax's threads print of a failed save; the same error is raised to the caller."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_without_background_traces)
    if not isinstance(sys.unraisablehook, _WithoutClosedLoops):
        sys.unraisablehook = _WithoutClosedLoops(sys.unraisablehook)


def _without_background_traces(record: logging.LogRecord) -> bool:
    if record.name == "asyncio":
        return "Task exception was never retrieved" not in record.getMessage()
    return not (record.exc_info and "orbax" in record.pathname)


@dataclass(frozen=True)
class _WithoutClosedLoops:
    """The former hook, but for writes that TensorStore ends after Orbax has given up on them."""

    former: Callable

    def __call__(self, unraisable) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self.former(unraisable)


def _storage_reason(error: BaseException | None) -> str | None:
    """The first cause that is a failure of storage, in one line; None when there is none."""
    while error is not None:
        if isinstance(error, StorageError):
            return str(error)
        if isinstance(error, OSError) and error.errno is not None:
            return error.strerror
        text = str(error)
        if any(words in text.lower() for words in _NO_ROOM):
            return "No space left on device"
        error = error.__cause__ or error.__context__
    return None


def _steps(folder: Path) -> list[int]:
    """Committed steps, the newest first."""
    if not folder.is_dir():
        return []
    return sorted((int(p.name) for p in folder.iterdir() if p.name.isdecimal()), reverse=True)


def _checksums(folder: Path) -> dict[str, dict]:
    """{"files": {relative path: {"size": bytes, "sha256": hex digits}}} of a step."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    names = [p.relative_to(folder).as_posix() for p in files]
    kept = [(n, p) for n, p in zip(names, files, strict=True) if n not in _LATER]
    with ThreadPoolExecutor(4) as pool:
        digests = list(pool.map(_sha256, (p for _, p in kept)))
    return {
        "files": {
            name: {"size": path.stat().st_size, "sha256": digest}
            for (name, path), digest in zip(kept, digests, strict=True)
        }
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_damage(folder: Path) -> str | None:
    """Compares the files of a committed step with its checksums.

    Returns:
      What is wrong with the first file that differs, or None: the step is intact, or it was written
      by a version that stored no checksums.
    """
    manifest = folder / MANIFEST
    if not manifest.exists():
        return None
    try:
        expected = json.loads(manifest.read_bytes())["files"]
        checksums = _checksums(folder)["files"]
        for name, entry in expected.items():
            if name not in checksums:
                return f"{name} is missing"
            if checksums[name]["size"] != entry["size"]:
                return f"{name} has {checksums[name]['size']} bytes, not {entry['size']}"
            if checksums[name]["sha256"] != entry["sha256"]:
                return f"{name} does not match its checksum"
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} is unreadable"
    return None


def newest_damage(run: Path) -> str | None:
    """Returns what is wrong with a run's newest checkpoint; None when it is intact or not there."""
    steps = _steps(Path(run) / "checkpoints")
    return find_damage(Path(run) / "checkpoints" / str(steps[0])) if steps else None


def load_params(run: Path, which: str = "learner") -> PyTree:
    """Reads the parameters of one model from a run's newest checkpoint.

    Args:
      run: The run folder.
      which: "learner", "online" or "reference".

    Returns:
      NumPy arrays; the devices that the run used need not be there.

    Raises:
      ConfigError: No checkpoint, no such model in it, or several of that name.
      DamagedError: The checkpoint is damaged, or holds values that are not finite.
    """
    config = Path(run) / "config.json"
    if which == "reference" and config.exists():
        kind = json.loads(config.read_text())["config"].get("reference", {}).get("kind")
        if kind == "crossfitted":
            raise ConfigError(
                f"{run}: its references are cross-fitted, each a run of its own "
                "(fold0, fold1); name one of those"
            )
    folder = Path(run).absolute() / "checkpoints"
    steps = _steps(folder)
    if not steps:
        raise ConfigError(f"{run}: no checkpoint found there")
    newest = folder / str(steps[0])
    if (damage := find_damage(newest)) is not None:
        raise _damaged(newest, damage)
    params = _read_params(run, newest, which)
    if (bad := nonfinite({"params": params})) is not None:
        raise DamagedError(f"{newest}: {which}/{bad} is not finite")
    return params


def _damaged(step: Path, damage: str) -> DamagedError:
    return DamagedError(f"{step}: damaged ({damage}); its run's command, run again, repairs it")


def _read_params(run: Path, step: Path, which: str) -> PyTree:
    reader = ocp.PyTreeCheckpointHandler()
    # Orbax declares the path class of its own dependency, and takes any.
    folder = cast("Any", step / "state")
    try:
        tree = reader.metadata(folder).tree
        if tree.get(which) is None:
            raise ConfigError(f"{run}: its state has no {which!r}")
        wanted = {which: {"params": tree[which]["params"]}}
        # As plain arrays: the devices it was saved on may not be here.
        plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        args = ocp.args.PyTreeRestore(wanted, restore_args=plain, partial_restore=True)
        return reader.restore(folder, args=args)[which]["params"]
    except ConfigError:
        raise
    except Exception as error:  # Orbax raises many kinds for a damaged file
        raise _damaged(step, str(error).strip().splitlines()[0][:200]) from error
    finally:
        reader.close()


def params_hash(params: PyTree) -> str:
    """Sixteen hex digits over the names, types and values of all parameters."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        leaf = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype.str} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()[:16]
