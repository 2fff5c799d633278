"""Ten kinds of small runs, and everything of a run folder that must be the same to the bit."""

import hashlib
import json
from pathlib import Path

import numpy as np

from tests import world
from tests.data.photos import write_folder
from tests.drill import commands

PARTS = ("learner", "online", "reference", "summary", "metrics", "chosen")
_SHARED = (
    "--config.batch_size=16",
    "--config.total=16 steps",
    "--config.learner.width=16",
    "--config.learner.depth=1",
    "--config.learner.heads=1",
    "--config.scorer.width=8",
    "--config.scorer.depth=1",
    "--config.evaluate.every=25 %",
    "--config.evaluate.subset=60",
    "--config.log.every=1 steps",
    "--config.log.chosen=true",
    "--config.checkpoint.every=3 steps",
)
_WINDOW = "--config.select.until=50 %"
_SHORT = (*_SHARED, _WINDOW)
_ARRAYS = "tests/drill/trained.py:arrays"
_SMALL = (
    "--config.data.size=16",
    "--config.data.small=8",
    "--config.learner.patch=8",
    "--config.scorer.patch=4",
)
KINDS = {
    "uniform": ("configs/arrays.py:uniform", _SHARED),
    "kernel reference": ("configs/arrays.py", _SHORT),
    "trained reference": (_ARRAYS, _SHORT),
    "cross-fitted": (_ARRAYS, (*_SHORT, "--config.reference.kind=crossfitted")),
    "co-trained": (_ARRAYS, (*_SHORT, "--config.reference.kind=cotrained")),
    "online reference": (_ARRAYS, (*_SHORT, "--config.reference.kind=online")),
    "filtered pool": (_ARRAYS, (*_SHORT, "--config.select.policy=offline_filter")),
    "selecting ahead": (_ARRAYS, (*_SHORT, "--config.select.schedule=ahead")),
    # A reference good enough for a reason to select.
    "window by the gate": (_ARRAYS, (*_SHARED, "--config.reference.total=100 steps")),
    "small views": (
        "tests/drill/trained.py:folder",
        (*_SHORT, *_SMALL, "--config.select.schedule=ahead"),
    ),
}


def write_data(folder: Path) -> Path:
    """Arrays, and a folder of pictures, for all kinds."""
    (folder / "arrays").mkdir(parents=True)
    world.write_arrays(folder / "arrays")
    write_folder(folder / "pictures", each=60)
    return folder


def arguments(kind: str, data: Path, workdir: Path) -> list[str]:
    """The arguments of `main` for a run of this kind."""
    name, flags = KINDS[kind]
    place = data / ("pictures" if name.endswith("folder") else "arrays")
    config = [f"--config={name}", f"--config.data.path={place}"]
    return [*config, f"--workdir={workdir}", *flags]


def train(kind: str, data: Path, workdir: Path, **options) -> commands.Done:
    """Trains or continues a run of this kind."""
    return commands.run("main", *arguments(kind, data, workdir), **options)


def content(workdir: Path, names: tuple[str, ...] = PARTS) -> dict[str, str]:
    """Hashes of what a run computed, by name; seconds and other habits are left out."""
    return {name: _hash(workdir, name) for name in names}


def _hash(workdir: Path, name: str) -> str:
    from active_learning.checkpoint import DamagedError, load_params
    from active_learning.config import ConfigError

    if name == "summary":
        summary = json.loads((workdir / "summary.json").read_text())
        return _json({k: summary[k] for k in ("complete", "step", "final", "flops")})
    if name == "metrics":
        return _json([_timeless(row) for row in _rows(workdir)])
    if name == "chosen":
        return _digest(_chosen(workdir))
    try:
        return _digest(load_params(workdir, name))
    except DamagedError:
        raise
    except ConfigError:  # The run has no such model.
        return "none"


def difference(workdir: Path, expected: dict[str, str], names: tuple[str, ...] = PARTS) -> str:
    """The first part of a run that is not what it must be; empty when all are."""
    result = content(workdir, names)
    return next((f"other {name}" for name in names if result[name] != expected[name]), "")


def _rows(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def _timeless(row: dict) -> dict:
    """A row without times, stalls and what follows from them."""
    habits = ("data/", "run/")
    return {k: v for k, v in row.items() if "seconds" not in k and not k.startswith(habits)}


def _chosen(workdir: Path) -> list[np.ndarray]:
    """The ids of each update; a run that was killed has written some of them twice."""
    rows: list[np.ndarray] = []
    for path in sorted((workdir / "chosen").glob("*.npy")):
        rows[int(path.stem) :] = list(np.load(path))
    return rows


def chosen_sets(workdir: Path) -> list[list[int]]:
    """The ids of each update in ascending order."""
    return [sorted(row.tolist()) for row in _chosen(workdir)]


def _json(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _digest(tree) -> str:
    import jax

    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]
