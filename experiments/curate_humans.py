"""Ambiguous rather than wrong: curation beside the votes of about 50 people for each image.

CIFAR-10H holds votes for the 10,000 test images of CIFAR-10. The given label is the vote of one of
these people, drawn by seed 0, so 5 % of the labels are wrong and most of these mistakes are
understandable. The entropy of all votes says how ambiguous an image is to people; curation sees
neither the votes nor the true labels.
"""

from pathlib import Path

import numpy as np

from active_learning.curation import scores
from active_learning.curation.crossfit import Evidence
from active_learning.curation.findings import judged
from active_learning.curation.scores import label_probability

# An image is ambiguous to people if fewer than this fraction of them agree.
AGREE = 0.8


def votes(data: Path, examples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, true labels and votes of the first examples."""
    with np.load(data / "cifar10n" / "test.npz") as archive:
        return tuple(archive[name][:examples] for name in ("image", "label", "votes"))


def drawn_labels(counts: np.ndarray, seed: int = 0) -> np.ndarray:
    """For each image the vote of one person, drawn uniformly from its voters."""
    at = np.random.default_rng(seed).random(len(counts)) * counts.sum(axis=1)
    return (counts.cumsum(axis=1) <= at[:, None]).sum(axis=1)


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Entropy of each row, in nats."""
    logs = np.log(np.where(probabilities > 0, probabilities, 1.0))
    return -(probabilities * logs).sum(axis=1)


def ambiguity(evidence: Evidence, labels: np.ndarray, counts: np.ndarray) -> dict:
    """How our predictions and kinds of findings relate to the disagreement of people.

    `auc`: of finding the images on which fewer than 80 % of the people agree, by the entropy of
    the out-of-fold predictions and by the suspicion that the label is wrong. `kinds`: for each kind
    of finding its number, the mean entropy of the votes in nats, the fraction of images that are
    ambiguous to people, and the fraction of people who agree with the given label.
    """
    p = evidence.probabilities
    human = counts / counts.sum(axis=1, keepdims=True)
    unclear, disagreement = human.max(axis=1) < AGREE, entropy(human)
    agree = label_probability(human, labels)
    kind = np.array(judged(p, labels)[0])
    ranked = {"entropy of the predictions": entropy(p), "1 - largest probability": -p.max(axis=1)}
    correlation = np.corrcoef(scores.ranks(entropy(p)), scores.ranks(disagreement))[0, 1]
    return {
        "unclear": round(float(unclear.mean()), 4),
        "rank_correlation": round(float(correlation), 4),
        "auc": {
            name: round(scores.area_under_roc(score, unclear), 4) for name, score in ranked.items()
        },
        "kinds": {
            name: {
                "number": int((kind == name).sum()),
                "entropy": round(float(disagreement[kind == name].mean()), 4),
                "unclear": round(float(unclear[kind == name].mean()), 4),
                "agree_with_label": round(float(agree[kind == name].mean()), 4),
            }
            for name in ("ok", "ambiguous", "label")
        },
    }


def table(result: dict) -> str:
    """The table of docs/curate.md."""
    lines = [
        "| finding | images | entropy of the votes | ambiguous to people "
        "| people who agree with the label |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in result["kinds"].items():
        lines.append(
            f"| {name} | {row['number']:,} | {row['entropy']:.2f} | {row['unclear']:.1%} | "
            f"{row['agree_with_label']:.1%} |"
        )
    return "\n".join(lines)
