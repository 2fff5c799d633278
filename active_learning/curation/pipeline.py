"""Curation from a source to its results: read, find copies, cross-fit, estimate, write."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from active_learning.curation import chosen, crossfit, duplicates, pairs, tables
from active_learning.curation.crossfit import CrossFit, Examples, Fit
from active_learning.curation.examples import READ, UNLABELED, Loaded, Progress, load
from active_learning.curation.features import PatchFeatures, patch_features
from active_learning.curation.findings import caption_records, copy_records, label_records
from active_learning.curation.page import thumbnail, write_page
from active_learning.curation.records import Record, Summary
from active_learning.curation.sharing import KIND, Sharing
from active_learning.curation.trunk import Trunk
from active_learning.storage import workers
from active_learning.storage.pieces import Pieces, signature
from active_learning.storage.workers import ALL, Task

WORK = "work"  # folder of finished pieces, within the results
COPIES = 16_384  # examples that are compared with all others at once
LOOKING = "looking for copies"


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
    section: Any,
    out: Path,
    options: Options,
    name: str,
    progress: Progress | None = None,
    task: Task = ALL,
) -> Summary | None:
    """Finds what is wrong with a data set and writes scores, summary and page to `out`.

    The same call again continues where it stopped: features and folds are kept in `out`/work.

    Args:
      section: The source, e.g. of `section_of`.
      out: The results' folder.
      options: What to compute. Several workers fit all repeats, whatever `minutes` is.
      name: Title of the page.
      progress: Called with (share of the current part, what it is).
      task: What is computed here, where several workers share it.

    Returns:
      The summary; None where others are to finish.

    Raises:
      DataError: what cannot be read, in one line.
      ConfigError: Who else is at work there, or the tasks whose pieces are missing.
    """
    began, work = time.monotonic(), out / WORK
    sharing = Sharing(work, out, task)
    tell = progress or (lambda share, what: None)
    with workers.held(work, task, KIND, out):
        try:
            found = _find(section, options, began, tell, sharing)
            if found is None:
                return None
            train, test, records, described = found
            summary = _write(train, test, records, described, options, out, name)
            for path in work.glob(f"{READ}*.npz"):  # as large as the pictures
                path.unlink(missing_ok=True)
            workers.remove_locks(work, KIND)
            return summary
        finally:
            if not sharing.is_shared:
                workers.remove_locks(work, KIND)


def _find(
    section: Any, options: Options, began: float, tell: Progress, sharing: Sharing
) -> tuple[Loaded, Loaded | None, list[Record], dict[str, Any]] | None:
    """Both sets, all records and what describes the data set; None where others finish."""
    train, test = load(section, sharing, options.label, options.text, tell)
    near, leaks = _copies(train, test, tell, sharing)
    groups = duplicates.groups_of(len(train), near)
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
            judgement = judge(train, rows, groups, options, sharing, tell, seconds)
            if judgement is None:
                return None
            records, described = records + judgement[0], judgement[1]
    return None if sharing.is_worker else (train, test, records, described)


def _copies(
    train: Loaded, test: Loaded | None, tell: Progress, sharing: Sharing
) -> tuple[list[tuple[int, int, float]], list[tuple[int, int, float]]]:
    """Near duplicates of training examples among each other, and in the test set."""
    tell(0.0, LOOKING)
    prints = duplicates.prints(train.images, train.digests)
    others: list[duplicates.Prints | None] = [None]
    if test is not None:
        others.append(duplicates.prints(test.images, test.digests))
    spans = [range(at, min(at + COPIES, len(train))) for at in range(0, len(train), COPIES)]

    def make(number: int) -> dict[str, np.ndarray]:
        other, at = divmod(number, len(spans))
        pairs_there = duplicates.near_pairs(prints, others[other], spans[at])
        return {"pairs": np.array(pairs_there, np.float64).reshape(-1, 3)}

    names = [f"copies-{number}" for number in range(len(others) * len(spans))]
    digests = [part.digests for part in (train, test) if part is not None]
    found: tuple[list, ...] = ([], [])
    for number, piece in enumerate(
        sharing.each(Pieces(sharing.work, signature(*digests)), names, make)
    ):
        of_set = found[number // len(spans)]
        of_set.extend((int(a), int(b), alike) for a, b, alike in piece["pairs"].tolist())
        tell((number + 1) / len(names), LOOKING)
    return found[0], found[1]


def _write(
    train: Loaded,
    test: Loaded | None,
    records: list[Record],
    described: dict[str, Any],
    options: Options,
    out: Path,
    name: str,
) -> Summary:
    """Ranks all records and writes tables, page and summary."""
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


def _features(
    train: Loaded, rows: np.ndarray, options: Options, sharing: Sharing, tell: Progress
) -> np.ndarray:
    digests = train.digests[rows]
    if options.trunk is not None:
        return options.trunk.features(train.picture, rows, digests, sharing, tell)
    pieces = Pieces(sharing.work, signature(digests, options.features))

    def make(number: int) -> dict[str, np.ndarray]:
        del number  # all rows at once: components are of all of them
        features = patch_features(
            train.images[rows],
            options.features,
            options.cross_fit.seed,
            lambda at, whole: tell(at / whole, "features"),
        )
        return {"features": features}

    sharing.all(pieces, ["features"], make)
    return pieces.get("features")["features"]


def _labels(
    train: Loaded,
    rows: np.ndarray,
    groups: np.ndarray,
    options: Options,
    sharing: Sharing,
    tell: Progress,
    seconds: float,
) -> tuple[list[Record], dict] | None:
    digests = train.digests[rows]
    features = _features(train, rows, options, sharing, tell)
    labels, images = train.labels[rows], train.images[rows]
    examples = Examples(features, labels, len(train.names), groups[rows], images)
    settings = options.cross_fit
    of_folds = (settings.folds, settings.width, settings.pixels, settings.kernel)
    mark = signature(digests, labels, of_folds, settings.training, settings.seed, options.made_of)
    pieces = Pieces(sharing.work, mark)
    if sharing.is_shared:
        seconds = float("inf")
        _share_fits(crossfit.fits(examples, settings), pieces, sharing, tell)
        if sharing.is_worker:
            return None
    evidence = crossfit.cross_fit(examples, settings, pieces, tell, seconds)
    return label_records(train, rows, evidence, crossfit.suspicion(evidence, labels))


def _captions(
    train: Loaded,
    rows: np.ndarray,
    groups: np.ndarray,
    options: Options,
    sharing: Sharing,
    tell: Progress,
    seconds: float,
) -> tuple[list[Record], dict] | None:
    del seconds  # one pass, in closed form
    assert train.captions is not None  # else its labels are judged
    digests = train.digests[rows]
    features = _features(train, rows, options, sharing, tell)
    texts = pairs.text_embeddings([train.captions[row] for row in rows])
    mark = signature(digests, texts, options.cross_fit, options.made_of)
    pieces = Pieces(sharing.work, mark)
    data = features, texts, groups[rows], options.cross_fit
    if sharing.is_shared:
        _share_fits(pairs.fits(*data)[0], pieces, sharing, tell)
        if sharing.is_worker:
            return None
    images, fold = pairs.image_embeddings(*data, pieces, tell)
    return caption_records(train, rows, *pairs.similarities(images, texts), fold)


def _share_fits(fits: dict[str, Fit], pieces: Pieces, sharing: Sharing, tell: Progress) -> None:
    """Makes the fits of this process; none waits for those of others."""
    names = list(fits)

    def make(number: int) -> dict[str, np.ndarray]:
        made = fits[names[number]]()
        tell((number + 1) / len(names), "models")
        return made

    sharing.mine(pieces, names, make)


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
