"""Arms of an experiment: named configs x seeds, each run once, cached by its config's hash,
resumable, summed before they start.

A finished run is also packed (what it is, what it measured; no weights, no pictures) into a small
file that is committed beside the results: the tables can be made again without a single update, and
an experiment that takes longer than a machine is kept goes on elsewhere. The same command in a
second terminal shares the work: each run is locked by who trains it.
"""

import contextlib
import fcntl
import gzip
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from active_learning import distributed
from active_learning.config import config_hash
from active_learning.metrics import LOG, read_summary
from active_learning.settings import Config
from active_learning.train import loop
from active_learning.train.signals import PreemptionGuard


@dataclass(frozen=True)
class Arm:
    """One config at one budget (a share of the full run), for each of the seeds."""

    config: Config
    budget: float
    seeds: tuple[int, ...]

    @property
    def cost(self) -> float:
        """In full-length runs, without scoring."""
        return self.budget * len(self.seeds)

    def runs(self, out: Path) -> Iterable[tuple[Config, Path]]:
        for seed in self.seeds:
            config = replace(self.config, seed=seed)
            if config.reference.path:
                shared = f"{config.reference.path}-seed{seed}"
                config = replace(
                    config,
                    reference=replace(config.reference, path=str(out / "references" / shared)),
                )
            slug = re.sub(r"[^a-z0-9.]+", "-", config.name.lower()).strip("-")
            yield (
                config,
                out / "runs" / f"{slug}-{self.budget:.2f}-seed{seed}-{config_hash(config)}",
            )


def show(arms: list[Arm]) -> None:
    """The list, with its sum of full-length runs."""
    for arm in arms:
        print(f"  {arm.config.name:40s} budget {arm.budget:5.0%}  seeds {len(arm.seeds)}")
    print(f"  {sum(arm.cost for arm in arms):.1f} full-length runs in all, references not counted")


FILES = ("config.json", "summary.json", "metrics.jsonl")


def pack(folder: Path, packed: Path) -> None:
    """Writes a finished run's files into one; the same run gives the same bytes."""
    files = {name: (folder / name).read_text() for name in FILES}
    packed.parent.mkdir(parents=True, exist_ok=True)
    packed.write_bytes(gzip.compress(json.dumps(files).encode(), mtime=0))


def packed_files(packed: Path) -> dict[str, str]:
    """Names and texts of the files of a packed run."""
    return json.loads(gzip.decompress(packed.read_bytes()))


def unpack(packed: Path, folder: Path) -> None:
    """The inverse of `pack`."""
    files = packed_files(packed)
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / name).write_text(files[name])


@contextlib.contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Whether `folder` is ours alone inside the block; without `wait` False at once when another
    process has it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextlib.contextmanager
def shared_by(workers: int) -> Iterator[None]:
    """Inside the block `workers - 1` copies of this command share the work, each process on a core
    of its own where the system allows: two small models on a core each train faster than one after
    the other on both.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if workers < 2:
        yield
        return
    command = [sys.executable, *sys.orig_argv[1:], "--workers=1"]
    copies = []
    for n in range(1, workers):
        if cores:
            os.sched_setaffinity(0, {cores[n % len(cores)]})  # a child starts with its parent's
        copies.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
    if cores:
        os.sched_setaffinity(0, {cores[0]})
    try:
        yield
    finally:
        for copy in copies:
            copy.wait()
        if cores:
            os.sched_setaffinity(0, cores)


def _complete(summary: dict | None) -> bool:
    return summary is not None and summary["complete"]


def trained(config: Config, folder: Path) -> dict:
    """The summary of a run, trained or found complete; SystemExit when it was asked to stop.

    The guard is what lets the untrained reference of a control be a run without updates.
    """
    with PreemptionGuard() as guard:
        summary = loop.run(config, folder, guard)
    if not _complete(summary):
        raise SystemExit(f"stopped at {folder}; the same command continues it")
    return summary


def done(arms: list[Arm], out: Path, store: Path) -> list[Path]:
    """Folders of the runs that are complete, here or packed in `store`; runs nothing."""
    folders = [folder for arm in arms for _, folder in arm.runs(out)]
    for folder in folders:
        packed = store / f"{folder.name}.json.gz"
        if packed.exists() and not _complete(read_summary(folder)):
            unpack(packed, folder)
    return [folder for folder in folders if _complete(read_summary(folder))]


def _finished(config: Config, folder: Path, store: Path | None) -> dict:
    """The summary of a run that is complete: in its folder, packed in `store`, or after it has been
    run.
    """
    packed = None if store is None else store / f"{folder.name}.json.gz"
    if packed is not None and packed.exists() and not _complete(read_summary(folder)):
        unpack(packed, folder)
    if not _complete(read_summary(folder)):
        own = config.reference.own_runs(config)
        if config.reference.path and set(own) == {""}:
            path = Path(config.reference.path)
            with locked(path, wait=True):  # several arms share it
                trained(own[""], path)
        trained(config, folder)
    if packed is not None and not packed.exists():
        pack(folder, packed)
    return read_summary(folder)


def run_all(arms: list[Arm], out: Path, store: Path | None = None) -> Iterator[list[Path]]:
    """Runs what is not complete yet, seed by seed, so that every arm has its first seed early.
    Yields the finished run folders after each seed, at the end all. `store`: where finished runs
    are packed, and taken from.
    """
    distributed.enable_compilation_cache()
    todo = sorted((run for arm in arms for run in arm.runs(out)), key=lambda run: run[0].seed)
    folders, elsewhere, start = [], [], time.monotonic()

    def finish(config: Config, folder: Path, wait: bool) -> None:
        began = time.monotonic()
        with locked(folder, wait) as ours:
            if not ours:
                elsewhere.append((config, folder))
                return
            summary = _finished(config, folder, store)
        spent, total = time.monotonic() - began, time.monotonic() - start
        headline = ("_full/accuracy", "_full/recall")
        accuracy = next(
            (v for k, v in summary["final"].items() if k.endswith(headline)), float("nan")
        )
        folders.append(folder)
        done = f"[{len(folders)}/{len(todo)}] {folder.name}"
        LOG.info("%s: %.4f  (%.0f s, %.0f min so far)", done, accuracy, spent, total / 60)

    for n, run in enumerate(todo, 1):
        finish(*run, wait=False)
        if n < len(todo) and todo[n][0].seed != run[0].seed and folders:
            yield folders
    for run in elsewhere[:]:
        finish(*run, wait=True)
    yield folders
