"""From evidence to records: what is said of each example, and by which rule."""

import numpy as np
from jaxtyping import Float, Int64

from active_learning.curation import estimate, scores
from active_learning.curation.crossfit import Evidence
from active_learning.curation.examples import Loaded
from active_learning.curation.records import Issue, Record

AMBIGUOUS = 0.6  # the given label is at least this times as probable as the likeliest other
MISFIT = 0.1  # share of pairs shown as suspect where nothing says how many are wrong


def copy_records(
    train: Loaded,
    test: Loaded | None,
    near: list[tuple[int, int, float]],
    groups: Int64[np.ndarray, "n"],
    leaks: list[tuple[int, int, float]],
) -> list[Record]:
    """Records of unreadable examples, of copies (all of a group but its first), and of leaks.

    A leak's record is that of the *training* example, for it is the one to drop. An exact copy of
    any other member of its group is a duplicate, any other copy a near duplicate.
    """
    out = [
        Record(path, key, train.given(row), "", 1.0, 1, "unreadable", detail=problem)
        for row, (path, key, problem) in enumerate(
            zip(train.paths, train.keys, train.problems, strict=True)
        )
        if problem
    ]
    closest: dict[int, tuple[float, int]] = {}
    for i, j, similarity in near:
        for row, other in ((i, j), (j, i)):
            closest[row] = max(closest.get(row, (0.0, -1)), (similarity, -other))
    first_of = {digest: row for row, digest in reversed(list(enumerate(train.digests.tolist())))}
    for row in sorted(closest):
        if groups[row] == row:
            continue
        original = first_of[train.digests[row]]
        exact = original != row
        similarity, other = closest[row]
        source = original if exact else -other
        out.append(
            Record(
                train.paths[row],
                train.keys[row],
                train.given(row),
                train.given(source) if train.given(source) != train.given(row) else "",
                1.0 if exact else similarity,
                1,
                "duplicate" if exact else "near_duplicate",
                group=train.keys[groups[row]],
                detail=f"copy of {train.paths[source]}",
            )
        )
    best: dict[int, tuple[float, int]] = {}
    for i, j, similarity in leaks:
        best[i] = max(best.get(i, (0.0, 0)), (similarity, -j))
    for row, (similarity, place) in sorted(best.items()):
        assert test is not None  # leaks are pairs with its examples
        detail = f"also in the test set: {test.paths[-place]}"
        out.append(
            Record(train.paths[row], train.keys[row], train.given(row), "", similarity, 1, "leak",
                   group=test.keys[-place], detail=detail)
        )  # fmt: skip
    return out


def judged(
    probabilities: Float[np.ndarray, "m C"], labels: Int64[np.ndarray, "m"]
) -> tuple[list[Issue], Int64[np.ndarray, "m"]]:
    """What out-of-fold predictions say of each label, and the likeliest other class."""
    own = scores.label_probability(probabilities, labels)
    others = probabilities.copy()
    others[np.arange(len(labels)), labels] = -1.0
    rival = others.max(axis=1)
    issues: list[Issue] = [
        "ok" if second <= first else "ambiguous" if first >= AMBIGUOUS * second else "label"
        for first, second in zip(own, rival, strict=True)
    ]
    return issues, others.argmax(axis=1)


def label_records(
    train: Loaded,
    rows: Int64[np.ndarray, "m"],
    evidence: Evidence,
    score: Float[np.ndarray, "m"],
) -> tuple[list[Record], dict]:
    """A record for every judged example, and what the summary says of labels.

    `label`: the models predict another label. `ambiguous`: they do, but find the given one nearly
    as likely. The estimate says how many of them to expect to be wrong; the score ranks them.
    """
    labels, names = train.labels[rows], train.names
    p = evidence.probabilities
    measured = estimate.agreement(p, labels)
    fraction = estimate.corrupted_fraction(measured)
    wrong, at_low, at_high = (
        estimate.wrong_probability(p, labels, score, value)
        for value in (fraction.value, fraction.low, fraction.high)
    )
    issues, other = judged(p, labels)
    out = []
    for at, row in enumerate(rows.tolist()):
        issue = issues[at]
        out.append(
            Record(
                train.paths[row],
                train.keys[row],
                train.given(row),
                "" if issue == "ok" else names[other[at]],
                float(score[at]),
                1,
                issue,
                fold=int(evidence.fold[at]),
                probability=float(min(wrong[at], 1.0)),
            )
        )
    notes = [_judged_by(evidence, 1 - measured.all)]
    if fraction.high - fraction.low > 0.15:
        notes.append(
            "The models are too weak, or the classes too alike, to tell wrong labels from their "
            "own errors: read the fraction of wrong labels as its interval, "
            "and the list from the top."
        )
    return out, {
        "corrupted": fraction,
        "classes": estimate.per_class(p, labels, names),
        "confusion": estimate.confusion(p, labels, wrong),
        "cuts": estimate.cuts(score, (wrong, at_low, at_high)),
        "notes": tuple(notes),
    }


def _judged_by(evidence: Evidence, agreement: float) -> str:
    def some(count: int, what: str) -> str:
        return f"{count} {what}{'' if count == 1 else 's'}"

    kernels = some(len(evidence.kernel), "kernel classifier")
    networks = some(len(evidence.trained), "network")
    return (
        f"Judged by {kernels} and {networks} per example, none of which trained on it; they "
        f"predict the given label of {agreement:.0%} of the examples."
    )


def caption_records(
    train: Loaded,
    rows: Int64[np.ndarray, "m"],
    similarity: Float[np.ndarray, "m"],
    normalized: Float[np.ndarray, "m"],
    fold: Int64[np.ndarray, "m"],
) -> tuple[list[Record], dict]:
    """A record for every pair. How many are wrong is unknown: the worst tenth is marked."""
    score = scores.ranks(-normalized)
    out = [
        Record(
            train.paths[row],
            train.keys[row],
            train.given(row),
            "",
            float(score[at]),
            1,
            "label" if score[at] > 1 - MISFIT else "ok",
            fold=int(fold[at]),
            detail=f"similarity {similarity[at]:.3f}, normalized {normalized[at]:.3f}",
        )
        for at, row in enumerate(rows.tolist())
    ]
    note = (
        "Pairs are ranked by normalized similarity (s-CLIPLoss) of towers that did not see them; "
        f"the {MISFIT:.0%} that fits worst is listed. How many captions are wrong is not estimated."
    )
    return out, {"notes": (note,)}
