"""Strips of the images that an arm prefers most and least, early and late, as HTML with every image inside the page."""

import base64
import io
from html import escape

import numpy as np
from matplotlib.image import imsave

from active_learning.report.analysis import Arm
from active_learning.report.runs import Probe, Run, RunError, probes_in_window

SHOWN = 12


def probed_run(arm: Arm) -> tuple[Run, list[Probe]] | None:
    """The first run (seed order, longest budget first) with a probe inside its window, and its first and last probe."""
    for group in reversed(arm.groups):
        for run in group.runs:
            probes = probes_in_window(run)
            if probes:
                return run, probes
    return None


def strips(run: Run, probes: list[Probe]) -> str:
    """Most and least preferred images of each probe."""
    parts = []
    for probe, when in zip(probes, ("early", "late"), strict=False):
        when = when if len(probes) == 2 else "the only probe"
        titles = (
            ("chosen", "rejected") if any(probe.texts) else ("most preferred", "least preferred")
        )
        for words, side, texts in zip(titles, (probe.top, probe.bottom), probe.texts, strict=True):
            parts.append(
                _strip(f"{words}, {when}", f"update {probe.step:,}", side, texts, run.class_names)
            )
    return "".join(parts)


def _strip(
    title: str,
    when: str,
    side: tuple[np.ndarray, ...],
    texts: tuple[str, ...],
    names: tuple[str, ...],
) -> str:
    images, labels, truths, scores = side
    known = truths[:SHOWN] >= 0
    wrong = known & (labels[:SHOWN] != truths[:SHOWN])
    what = "captions of another image" if texts else "labels wrong"
    share = f" · {wrong.sum()} of {known.sum()} {what}" if known.any() else ""
    said = [_said(*row, names) for row in zip(labels, truths, strict=True)]
    said = [
        f"{text} (another's)" if w else text for text, w in zip(texts, wrong, strict=False)
    ] or said
    cells = [_cell(*row) for row in zip(images[:SHOWN], said, wrong.tolist(), scores, strict=False)]
    return (
        f'<div class="strip"><h4>{escape(title)} <span>{escape(when)}{share}</span></h4>'
        f'<div class="images">{"".join(cells)}</div></div>'
    )


def _said(label, truth, names: tuple[str, ...]) -> str:
    wrong = truth >= 0 and label != truth
    return (
        f"labelled {_class(label, names)}, is {_class(truth, names)}"
        if wrong
        else _class(label, names)
    )


def _cell(image: np.ndarray, caption: str, wrong: bool, score) -> str:
    return (
        f'<figure class="{"thumb wrong" if wrong else "thumb"}" title="score {float(score):.3g}">'
        f'<img alt="{escape(caption)}" src="data:image/png;base64,{png(image)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _class(label, names: tuple[str, ...]) -> str:
    return names[int(label)] if 0 <= int(label) < len(names) else str(int(label))


def png(image: np.ndarray) -> str:
    """(H, W, C) uint8 with 1, 3 or 4 channels as base64 PNG."""
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4) or image.dtype != np.uint8:
        raise RunError(
            f"a probe's images must be uint8 (H, W, 1, 3 or 4), not {image.dtype} {image.shape}"
        )
    out = io.BytesIO()
    imsave(
        out,
        np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image,
        format="png",
        metadata={"Software": None},
    )
    return base64.b64encode(out.getvalue()).decode()
