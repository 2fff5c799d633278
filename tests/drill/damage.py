"""Damaged files of a run folder: noticed, repaired to the same bits, or refused by name."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.drill import commands, runs
from tests.drill.kills import Straight
from tests.drill.table import Case

_JUNK = (b"", b"{}", b"null", b"[" * 3000, b"\xff\xfe\x00", b"\x00" * 64, b'{"step": 1e999}')


def _flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(content))


def _cut(path: Path, draw: random.Random) -> None:
    os.truncate(path, draw.randrange(max(1, path.stat().st_size)))


def _zero(path: Path, draw: random.Random) -> None:
    del draw
    path.write_bytes(bytes(path.stat().st_size))


def _junk(path: Path, draw: random.Random) -> None:
    path.write_bytes(draw.choice(_JUNK))


def _remove(path: Path, draw: random.Random) -> None:
    del draw
    path.unlink()


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "a bit": _flip,
    "cut": _cut,
    "zeros": _zero,
    "junk": _junk,
    "gone": _remove,
}


def files(count: int, seed: int, straight: Straight) -> Iterator[Case]:
    """Two thirds hit checkpoints, the reference's among them, the rest all other files."""
    draw = random.Random(seed + 2)
    for n in range(count):
        kind = ("trained reference", "uniform", "filtered pool")[n % 3]
        how = draw.choice(list(DAMAGES))
        name = f"{how}, {kind} #{n}"
        own = draw.random()
        yield Case(name, partial(_damage, kind, n, how, own, straight))


def _damage(kind: str, n: int, how: str, own: float, straight: Straight) -> str:
    folder, expected, _ = straight.of(kind)
    workdir, draw = straight.folder / "damaged" / str(n), random.Random(own)
    shutil.copytree(folder, workdir)
    path = _pick(workdir, n, draw)
    DAMAGES[how](path, draw)
    name = path.relative_to(workdir).as_posix()
    if n % 2:  # as if it had been killed before its end: everything is read again
        (workdir / "summary.json").unlink(missing_ok=True)
    done = runs.train(kind, straight.data, workdir)
    if problem := done.fault():
        return f"{name}: {problem}"
    if done.code == 0:
        # The log of choices and metrics is written once and not read by the run itself.
        if problem := runs.difference(workdir, expected, ("learner", "online", "summary")):
            return f"{name}: {problem} and not noticed"
        judged = commands.run("evaluate", workdir)
        if problem := judged.fault():
            return f"{name}: evaluate: {problem}"
        if judged.code == 0 and not _same_numbers(workdir, judged.out):
            return f"{name}: evaluate tells other numbers"
    shutil.rmtree(workdir)
    return ""


def _pick(workdir: Path, n: int, draw: random.Random) -> Path:
    """A file, its place and not its size deciding how often it is hit."""
    paths = sorted(p for p in workdir.rglob("*") if p.is_file())
    stored = [p for p in paths if "checkpoints" in p.parts]
    others = [p for p in paths if "checkpoints" not in p.parts]
    return draw.choice(others if n % 3 == 0 else stored)


def _same_numbers(workdir: Path, out: str) -> bool:
    final = json.loads((workdir / "summary.json").read_text())["final"]
    told = json.loads(out[out.index("{") :])["test"]["accuracy"]
    return abs(told - final["test_full/accuracy"]) < 1e-6
