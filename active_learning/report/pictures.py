"""Strips of the images that an arm prefers most and least, early and late in its run."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from matplotlib.image import imsave

from active_learning.report.analysis import Arm
from active_learning.report.runs import Run
from active_learning.report.snapshots import Extremes, ScoreSnapshot, snapshots_in_window

# Images per strip.
SHOWN = 12


@dataclass(frozen=True)
class Cell:
    """One image of a strip."""

    png: str  # base64
    caption: str
    score: str
    corrupted: bool


@dataclass(frozen=True)
class Strip:
    """One row of images."""

    title: str
    detail: str
    cells: tuple[Cell, ...]


def run_with_snapshots(arm: Arm) -> tuple[Run, list[ScoreSnapshot]] | None:
    """Find a run with a snapshot inside its window: longest budget first, then seed order.

    Returns:
      The run with its first and last such snapshot, or None.
    """
    for group in reversed(arm.groups):
        for run in group.runs:
            snapshots = snapshots_in_window(run)
            if snapshots:
                return run, snapshots
    return None


def strips(run: Run, snapshots: list[ScoreSnapshot]) -> list[Strip]:
    """Return the most and the least preferred images of each snapshot."""
    parts = []
    for snapshot, when in zip(snapshots, ("early", "late"), strict=False):
        when = when if len(snapshots) == 2 else "the only snapshot"
        pairs = bool(snapshot.top.texts or snapshot.bottom.texts)
        titles = ("selected", "rejected") if pairs else ("most preferred", "least preferred")
        for title, side in zip(titles, (snapshot.top, snapshot.bottom), strict=True):
            parts.append(_strip(f"{title}, {when}", snapshot.step, side, run.class_names))
    return parts


def _strip(title: str, step: int, side: Extremes, names: tuple[str, ...]) -> Strip:
    known = side.clean_labels[:SHOWN] >= 0
    corrupted = side.corrupted[:SHOWN]
    what = "captions of another image" if side.texts else "labels wrong"
    detail = f"update {step:,}"
    if known.any():
        detail += f" · {corrupted.sum()} of {known.sum()} {what}"
    cells = tuple(
        Cell(
            png=png(side.images[n]),
            caption=_caption(side, n, names),
            score=f"score {float(side.scores[n]):.3g}",
            corrupted=bool(corrupted[n]),
        )
        for n in range(len(known))
    )
    return Strip(title, detail, cells)


def _caption(side: Extremes, n: int, names: tuple[str, ...]) -> str:
    corrupted = side.corrupted[n]
    if side.texts:
        return side.texts[n] + (" (another's)" if corrupted else "")
    label = _class(side.labels[n], names)
    return f"labeled {label}, is {_class(side.clean_labels[n], names)}" if corrupted else label


def _class(label: np.integer, names: tuple[str, ...]) -> str:
    return names[int(label)] if 0 <= int(label) < len(names) else str(int(label))


def png(image: np.ndarray) -> str:
    """Encode a (H, W, 1, 3 or 4) uint8 image as base64 PNG."""
    out = io.BytesIO()
    rgb = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
    imsave(out, rgb, format="png", metadata={"Software": None})  # pyright: ignore[reportArgumentType]
    return base64.b64encode(out.getvalue()).decode()
