"""Curation from a source to its results: read, find copies, cross-fit, estimate, write."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from active_learning.curation import chosen, duplicates, pairs, tables
from active_learning.curation.crossfit import CrossFit, Evidence, Examples, cross_fit, suspicion
from active_learning.curation.examples import UNLABELED, Loaded, Progress, load
from active_learning.curation.features import PatchFeatures, patch_features
from active_learning.curation.findings import caption_records, copy_records, label_records
from active_learning.curation.page import thumbnail, write_page
from active_learning.curation.records import Record, Summary
from active_learning.curation.trunk import Trunk
from active_learning.storage.pieces import Pieces, signature

WORK = "work"  # folder of finished pieces, within the results


@dataclass(frozen=True)
class Options:
    """What to compute.

    Attributes:
      label: Column of the labels, "": the source's own.
      text: Column of the captions, "": the source's own.
      run: Folder of a training run on the same source, whose choices are shown.
      trunk: A published model whose features are used; None: features are fitted to the images.
      minutes: Further repeats of cross-fitting begin only within this time.
      cross_fit: Models and folds.
      features: Of the frozen features.
    """

    label: str = ""
    text: str = ""
    run: Path | None = None
    trunk: Trunk | None = None
    minutes: float = 20.0
    cross_fit: CrossFit = field(default_factory=CrossFit)
    features: PatchFeatures = field(default_factory=PatchFeatures)

    @property
    def made_of(self) -> object:
        """What the features are: their settings, or the hash of a published model."""
        return self.features if self.trunk is None else self.trunk.mark


def curate(
    section: Any, out: Path, options: Options, name: str, progress: Progress | None = None
) -> Summary:
    """Finds what is wrong with a data set and writes scores, summary and page to `out`.

    The same call again continues where it stopped: features and folds are kept in `out`/work.

    Args:
      section: The source, e.g. of `section_of`.
      out: The results' folder.
      options: What to compute.
      name: Title of the page.
      progress: Called with (share of the current part, what it is).

    Raises:
      DataError: what cannot be read, in one line.
    """
    began = time.monotonic()
    tell = progress or (lambda share, what: None)
    train, test = load(section, options.label, options.text, tell)
    tell(0.0, "looking for copies")
    prints = duplicates.prints(train.images, train.digests)
    near = duplicates.near_pairs(prints)
    leaks = (
        []
        if test is None
        else duplicates.near_pairs(prints, duplicates.prints(test.images, test.digests))
    )
    groups = duplicates.groups_of(len(train), near)
    tell(1.0, "looking for copies")
    records = copy_records(train, test, near, groups, leaks)
    judged = np.flatnonzero((train.labels != UNLABELED) & (train.digests != ""))
    captioned = train.captions is not None
    described: dict[str, Any] = {"notes": ()}
    if captioned or len(np.unique(train.labels[judged])) > 1:
        rows = np.flatnonzero(train.digests != "") if captioned else judged
        few = len(np.unique(groups[rows])) < 2 * options.cross_fit.folds
        if few:
            described["notes"] = (f"{len(rows)} examples are too few to judge by cross-fitting",)
        else:
            seconds = 60 * options.minutes - (time.monotonic() - began)
            judge = _captions if captioned else _labels
            found, described = judge(train, rows, groups, options, out / WORK, tell, seconds)
            records += found
    records = _complete(train, records)
    if options.run is not None:
        counts, of_run = chosen.rows_of(options.run, train.ids)
        records = _with_remarks(train, records, chosen.remarks(counts, of_run))
        treated = chosen.note(options.run, counts, of_run, train.keys, records)
        described["notes"] = (*described["notes"], treated)
    records = tables.ranked(records)
    summary = tables.summarize(name, train, test, records, described)
    tables.write_scores(out, records)
    write_page(out, records, _pictures(train, records), summary)
    tables.write_summary(out, summary)
    return summary


def _features(train: Loaded, rows: np.ndarray, options: Options, work: Path, tell: Callable):
    digests = train.digests[rows]
    if options.trunk is not None:
        return options.trunk.features(train.picture, rows, digests, work, tell)
    pieces = Pieces(work, signature(digests, options.features))
    piece = pieces.load("features")
    if piece is None:
        features = patch_features(
            train.images[rows],
            options.features,
            options.cross_fit.seed,
            lambda at, whole: tell(at / whole, "features"),
        )
        piece = {"features": features}
        pieces.save("features", piece)
    return piece["features"]


def _labels(
    train: Loaded,
    rows: np.ndarray,
    groups: np.ndarray,
    options: Options,
    work: Path,
    tell: Callable,
    seconds: float,
) -> tuple[list[Record], dict]:
    digests = train.digests[rows]
    features = _features(train, rows, options, work, tell)
    labels, images = train.labels[rows], train.images[rows]
    examples = Examples(features, labels, len(train.names), groups[rows], images)
    settings = options.cross_fit
    of_folds = (settings.folds, settings.width, settings.pixels, settings.kernel)
    mark = signature(digests, labels, of_folds, settings.training, settings.seed, options.made_of)
    evidence: Evidence = cross_fit(examples, settings, Pieces(work, mark), tell, seconds)
    return label_records(train, rows, evidence, suspicion(evidence, labels))


def _captions(
    train: Loaded,
    rows: np.ndarray,
    groups: np.ndarray,
    options: Options,
    work: Path,
    tell: Callable,
    seconds: float,
) -> tuple[list[Record], dict]:
    del seconds  # one pass, in closed form
    assert train.captions is not None  # else its labels are judged
    digests = train.digests[rows]
    features = _features(train, rows, options, work, tell)
    texts = pairs.text_embeddings([train.captions[row] for row in rows])
    mark = signature(digests, texts, options.cross_fit, options.made_of)
    images, fold = pairs.image_embeddings(
        features, texts, groups[rows], options.cross_fit, Pieces(work, mark), tell
    )
    return caption_records(train, rows, *pairs.similarities(images, texts), fold)


def _complete(train: Loaded, records: list[Record]) -> list[Record]:
    """Adds a record 'ok' for every example that has none."""
    seen = {record.key for record in records}
    return records + [
        Record(train.paths[row], key, train.given(row), "", 0.0, 1, "ok")
        for row, key in enumerate(train.keys)
        if key not in seen
    ]


def _with_remarks(train: Loaded, records: list[Record], lines: Mapping[int, str]) -> list[Record]:
    """Records whose detail says how a run treated the example."""
    line_of = {train.keys[row]: line for row, line in lines.items()}
    return [
        replace(r, detail="; ".join(filter(None, (r.detail, line_of.get(r.key, "")))))
        for r in records
    ]


def _pictures(train: Loaded, records: list[Record]) -> dict[str, bytes]:
    """Thumbnails of the 2,000 records the page will show first, by rank."""
    row_of = {key: row for row, key in enumerate(train.keys) if train.digests[row]}
    shown = sorted((r for r in records if r.issue != "ok"), key=lambda r: r.rank)
    keys = list(dict.fromkeys(r.key for r in shown if r.key in row_of))[:2000]
    return {key: thumbnail(train.picture(row_of[key])) for key in keys}
