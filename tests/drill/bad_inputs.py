"""Damaged data of every kind: an example is left out and counted, or one line names the file."""

import random
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from tests import pairs_world
from tests.data.photos import blob, write_folder
from tests.drill import commands
from tests.drill.damage import DAMAGES
from tests.drill.table import Case

SECONDS, BYTES = 10.0, 1 << 30
_LOADED = 400 << 20  # what the libraries take before any data is read
_HARM = (
    ("empty.jpg", b""),
    ("../up.jpg", b"x"),
    ("a" * 200 + ".png", b"x"),
    ("b\u00e4r.png", b"\x89PNG\r\n\x1a\n"),
    (".DS_Store", b"\x00" * 100),
    ("notes.txt", b"hello"),
)


def _pictures(root: Path) -> None:
    write_folder(root, each=12)


def _table(root: Path) -> None:
    root.mkdir()
    lines = ["path,label"]
    for n in range(24):
        (root / f"{n}.png").write_bytes(blob("red" if n % 2 else "blue", n))
        lines.append(f"{n}.png,{'red' if n % 2 else 'blue'}")
    (root / "train.csv").write_text("\n".join(lines) + "\n")


def _jsonl(root: Path) -> None:
    root.mkdir()
    lines = []
    for n in range(24):
        (root / f"{n}.png").write_bytes(blob("red" if n % 2 else "blue", n))
        lines.append(f'{{"file_name": "{n}.png", "label": {n % 2}}}')
    (root / "train.jsonl").write_text("\n".join(lines) + "\n")


def _tars(root: Path) -> None:
    root.mkdir()
    pairs_world.write_tars(root, train=24, test=8)


def _arrays(root: Path) -> None:
    root.mkdir()
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        image = rng.integers(0, 255, (24, 8, 8, 3)).astype(np.uint8)
        np.savez(root / f"{part}.npz", image=image, label=np.arange(24) % 3)


def _parquet(root: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    root.mkdir()
    images = [{"bytes": blob("red", n), "path": f"{n}.png"} for n in range(24)]
    table = pyarrow.table({"image": images, "label": [n % 3 for n in range(24)]})
    parquet.write_table(table, root / "train-00000-of-00001.parquet")


SOURCES = {
    "folder": _pictures,
    "csv": _table,
    "jsonl": _jsonl,
    "tar": _tars,
    "npz": _arrays,
    "parquet": _parquet,
}


def inputs(count: int, seed: int, folder: Path) -> Iterator[Case]:
    """One damaged file, or one that does not belong there, in a set that is right otherwise."""
    draw = random.Random(seed + 3)
    folder.mkdir(parents=True, exist_ok=True)
    for name, write in SOURCES.items():
        if not (folder / name).exists():
            write(folder / name)
    for n in range(count):
        kind, how = draw.choice(list(SOURCES)), draw.choice([*DAMAGES, "more", "renamed"])
        own = draw.random()
        check = partial(_damaged, folder / kind, folder / "damaged" / str(n), how, own)
        yield Case(f"{how}, {kind} #{n}", check)


def _damaged(source: Path, place: Path, how: str, own: float) -> str:
    draw = random.Random(own)
    shutil.copytree(source, place / "data")
    path = draw.choice(sorted(p for p in (place / "data").rglob("*") if p.is_file()))
    if how == "more":
        name, content = draw.choice(_HARM)
        (path.parent / Path(name).name).write_bytes(content)
    elif how == "renamed":
        path.rename(path.with_suffix(draw.choice([".jpg", ".csv", ".tar", ".npz", ".parquet", ""])))
    else:
        DAMAGES[how](path, draw)
    done = commands.run("prepare", place / "data", place / "out", limit=6 * SECONDS)
    problem = done.fault()
    if (
        not problem and done.code and done.cpu > SECONDS
    ):  # By the clock a busy machine would decide.
        problem = f"refused after {done.cpu:.0f} CPU seconds"
    if not problem and done.peak > BYTES + _LOADED:
        problem = f"takes {done.peak / 2**20:.0f} MiB"
    if not problem:
        shutil.rmtree(place)
    return f"{path.name}: {problem}" if problem else ""
