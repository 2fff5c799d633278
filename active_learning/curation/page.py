"""The findings of curation as one self-contained HTML page that works from disk.

The page shows the most suspect examples with their pictures, records a decision for each (keep,
relabel, drop) and downloads the decisions as CSV.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import jinja2
import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup
from PIL import Image

from active_learning.curation.records import Cut, Estimate, Record, Summary
from active_learning.data.decisions import DECISION_COLUMNS
from active_learning.report.text import clean

TEMPLATES = "active_learning.curation.templates"
MAX_PICTURES = 2000
MAX_BYTES = 20 * 10**6
# Records without a picture (unreadable files) that the page lists at most.
MAX_WITHOUT_PICTURE = 500
# More classes than this make a list of confusions instead of a table.
MAX_TABLE = 24
MAX_PAIRS = 40
MAX_TEXT = 300
# Width from which on an interval is shown instead of the estimate within it.
WIDE = 0.5
# Characters of a path, key or label; a caption is a label.
MAX_NAME = 1000
FORMATS = {b"\xff\xd8\xff": "jpeg", b"\x89PNG\r\n\x1a\n": "png", b"RIFF": "webp"}


def thumbnail(image: UInt8[np.ndarray, "H W C"], side: int = 128, quality: int = 70) -> bytes:
    """Encode an image as WebP with its longer side at most `side` pixels.

    At the defaults a photograph takes 3 to 5 kB, so that 2,000 fit on a page.
    """
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = BytesIO()
    picture.save(out, "WEBP", quality=quality)
    return out.getvalue()


def write_page(
    folder: Path, records: Sequence[Record], images: Mapping[str, bytes], summary: Summary
) -> Path:
    """Write `index.html`.

    The page holds the most suspect records, at most 2,000 pictures and 20 MB. It says how many
    records it leaves out.

    Args:
      folder: Where to write; created if missing.
      records: What was found; records whose issue is "ok" are ignored.
      images: Key of a record -> JPEG, PNG or WebP file, see `thumbnail`.
      summary: The dataset as a whole.

    Returns:
      The file.

    Raises:
      ValueError: A picture is in another format, or one picture alone exceeds the page.
    """
    flagged = sorted(
        (r for r in records if r.issue != "ok"), key=lambda r: (r.rank, r.issue, r.key)
    )
    # The rest is left for the tables, the style sheet and the script.
    shown = _fit(flagged, images, int(0.95 * MAX_BYTES))
    script = files(TEMPLATES).joinpath("page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("active_learning.curation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    html = environment.get_template("page.html").render(
        title=clean(summary.name),
        script_hash=f"sha256-{digest}",
        style=Markup(files(TEMPLATES).joinpath("page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        data=Markup(_json(_data(shown, summary))),
        kicker=_kicker(summary, len(shown), len(flagged)),
        numbers=_numbers(summary, flagged),
        notes=[clean(note, 1000) for note in summary.notes],
        confidence=_percent(summary.confidence),
        names=[clean(c.name, 60) for c in summary.classes],
        classes=_classes(summary),
        **_confusion(summary),
    )
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "index.html"
    page.write_text(html, encoding="utf-8")
    return page


def _fit(flagged: list[Record], images: Mapping[str, bytes], budget: int) -> list[dict]:
    """The most suspect records, as the script reads them, that fit into `budget` bytes."""
    shown, keys, without = [], set[str](), 0
    for record in flagged:
        picture = images.get(record.key)
        without += picture is None
        if picture is None and without > MAX_WITHOUT_PICTURE:
            continue
        if picture is not None and record.key not in keys and len(keys) == MAX_PICTURES:
            continue
        entry = _record(record, picture)
        size = len(_json(entry)) + 1
        if size > MAX_BYTES // 4:
            raise ValueError(f"picture of {clean(record.path)!r}: {size:,} bytes; shrink it")
        if size <= budget:
            budget -= size
            shown.append(entry)
            if picture is not None:
                keys.add(record.key)
    return shown


def _data(shown: list[dict], summary: Summary) -> dict:
    cuts = [_cut(cut) for cut in summary.cuts] or _cuts(shown)
    likely = [n for n, cut in enumerate(cuts) if cut["precision"] >= 0.5]
    keys = "\0".join(sorted(record["key"] for record in shown))
    fingerprint = hashlib.sha256(keys.encode("utf-8", "replace"))
    return {
        "fingerprint": fingerprint.hexdigest()[:16],
        "columns": DECISION_COLUMNS,
        "classes": [c.name[:MAX_NAME] for c in summary.classes],
        "counts": {issue: count for issue, count in summary.counts.items() if count},
        "cuts": cuts,
        # Where the slider stands first: the largest cut of which half is wrong.
        "start": likely[-1] if likely else max(0, len(cuts) - 1),
        "records": shown,
    }


def _record(record: Record, picture: bytes | None) -> dict:
    """A record for the script. Key, path and labels stay as they are: they go into the CSV."""
    return {
        "path": record.path[:MAX_NAME],
        "key": record.key[:MAX_NAME],
        "label": record.label[:MAX_NAME],
        "suggested": record.suggested[:MAX_NAME],
        "score": round(record.score, 6),
        "rank": record.rank,
        "issue": record.issue,
        "fold": record.fold,
        "probability": None if record.probability is None else round(record.probability, 4),
        "group": record.group[:MAX_NAME],
        "detail": clean(record.detail, MAX_TEXT),
        "image": None if picture is None else _address(record, picture),
    }


def _address(record: Record, picture: bytes) -> str:
    kind = next((kind for magic, kind in FORMATS.items() if picture.startswith(magic)), None)
    if kind is None or (kind == "webp" and picture[8:12] != b"WEBP"):
        raise ValueError(f"picture of {clean(record.path)!r}: not a JPEG, PNG or WebP file")
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _cut(cut: Cut) -> dict:
    return {
        "score": cut.score,
        "count": cut.count,
        "precision": cut.precision.value,
        "low": cut.precision.low,
        "high": cut.precision.high,
        "recall": None if cut.recall is None else cut.recall.value,
    }


def _cuts(shown: list[dict], steps: int = 100) -> list[dict]:
    """Cuts over the records of the page, from their own probabilities, without intervals."""
    ranked = sorted((r for r in shown if r["issue"] == "label"), key=lambda r: -r["score"])
    if not ranked or any(r["probability"] is None for r in ranked):
        return []
    means = np.cumsum([r["probability"] for r in ranked]) / np.arange(1, len(ranked) + 1)
    places = np.unique(np.linspace(0, len(ranked) - 1, steps).astype(int))
    unknown = {"low": None, "high": None, "recall": None}
    return [
        {"score": ranked[n]["score"], "count": int(n) + 1, "precision": float(means[n])} | unknown
        for n in places
    ]


def _json(value: object) -> str:
    """JSON that is safe inside a script element and in UTF-8 (lone surrogates stay escaped)."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _percent(value: float) -> str:
    return f"{100 * value:.{1 if value < 0.0995 else 0}f} %"


def _interval(estimate: Estimate) -> str:
    return f"{_percent(estimate.low)} to {_percent(estimate.high)}"


def _kicker(summary: Summary, shown: int, flagged: int) -> str:
    parts = [f"{summary.num_examples:,} examples"]
    if summary.classes:
        parts.append(f"{len(summary.classes):,} classes")
    if shown < flagged:
        parts.append(f"the {shown:,} most suspect of {flagged:,} findings are on this page")
    else:
        parts.append(f"{flagged:,} findings")
    return " · ".join(parts)


def _numbers(summary: Summary, flagged: list[Record]) -> list[dict]:
    numbers = []
    if summary.corrupted is not None:
        fraction, level = summary.corrupted, _percent(summary.confidence)
        text = "of the labels are probably wrong"
        value, detail = _percent(fraction.value), f"{level} interval: {_interval(fraction)}"
        if fraction.high - fraction.low > WIDE:
            value, detail = _interval(fraction), f"{level} interval; the models cannot say more"
        numbers.append({"value": value, "text": text, "detail": detail, "bad": True})
    for issues, text in (
        (("duplicate",), "exact duplicates"),
        (("near_duplicate",), "near duplicates"),
        (("leak",), "training pictures that are also in the test set"),
        (("unreadable",), "unreadable files"),
    ):
        count = sum(summary.counts.get(i, sum(r.issue == i for r in flagged)) for i in issues)
        if count or issues[0] in summary.counts:
            bad = count > 0 and issues[0] in ("leak", "unreadable")
            numbers.append({"value": f"{count:,}", "text": text, "detail": "", "bad": bad})
    return numbers


def _classes(summary: Summary) -> list[dict]:
    """Rows of the class table, the worst first, with their bars scaled to the largest interval."""
    largest = max((c.corrupted.high for c in summary.classes if c.corrupted), default=0) or 1
    rows = []
    for index, c in enumerate(summary.classes):
        row = {"index": index, "name": clean(c.name, 60), "count": f"{c.count:,}", "text": ""}
        if c.corrupted is not None:
            value, low, high = (
                100 * min(max(v, 0), largest) / largest
                for v in (c.corrupted.value, c.corrupted.low, c.corrupted.high)
            )
            # A point within so wide an interval says nothing: the interval stands in its place.
            is_wide = c.corrupted.high - c.corrupted.low > WIDE
            text = _interval(c.corrupted)
            if not is_wide:
                text = f"{_percent(c.corrupted.value)} ({text})"
            row |= {"text": text, "value": f"{value:.1f}", "wide": is_wide}
            row |= {"low": f"{low:.1f}", "width": f"{max(0.0, high - low):.1f}"}
        rows.append((-(c.corrupted.value if c.corrupted else -1), index, row))
    return [row for *_, row in sorted(rows, key=lambda entry: entry[:2])]


def _confusion(summary: Summary) -> dict:
    """The table of confusions, or the most frequent ones if there are many classes."""
    matrix = np.asarray(summary.confusion, np.float64)
    n = len(summary.classes)
    empty = {"confusion": [], "pairs": []}
    if matrix.size == 0:
        return empty
    if matrix.shape != (n, n):
        raise ValueError(f"confusion of shape {matrix.shape} with {n} classes: make it {n} x {n}")
    names = [clean(c.name, 60) for c in summary.classes]
    wrong = matrix * ~np.eye(n, dtype=bool)
    largest = wrong.max() or 1.0

    def cell(i: int, j: int) -> dict:
        text = f"{matrix[i, j]:,.0f}"
        return {
            "diagonal": i == j,
            "text": "" if text == "0" and i != j else text,
            "heat": f"{wrong[i, j] / largest:.3f}",
            "given": i,
            "suggested": j,
            "title": f"{names[i]} that are probably {names[j]}",
            "from": names[i],
            "to": names[j],
        }

    if n <= MAX_TABLE:
        rows = [{"name": names[i], "cells": [cell(i, j) for j in range(n)]} for i in range(n)]
        return empty | {"confusion": rows}
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_PAIRS]
    pairs = [cell(int(k) // n, int(k) % n) for k in order]
    return empty | {"pairs": [pair for pair in pairs if pair["text"]]}
