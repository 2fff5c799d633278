"""What `evaluate` says of image-text models beside retrieval: zero-shot and few-shot classification, agreement with people's judgements."""

from pathlib import Path

import numpy as np
from jaxtyping import PyTree

from active_learning.data.sources.source import DataError
from active_learning.evaluators import Embedder, few_shot, human, zero_shot
from active_learning.tasks import captions
from active_learning.train.build import Run


def classification(it: Run, embed: Embedder, params: PyTree, name: str) -> dict:
    """zero_shot and few_shot accuracy on the images of a set whose captions clearly name one of config.task.classes (or, where the data
    have labels, on all of them by their own class names), with the templates that were used."""
    task, part = it.config.task, it.data.parts[name]
    names = tuple(it.data.class_names) or task.classes
    if not names:
        return {}
    rows, labels = _labelled(part, it, names)
    images = embed.images(params, part.images(rows))
    classes = zero_shot.class_embeddings(embed, params, names, task.templates, part.captions.encode)
    known, known_labels = _labelled(it.data.train, it, names)
    known, known_labels = known[:2000], known_labels[:2000]
    probe = few_shot.few_shot(
        (embed.images(params, it.data.train.images(known)), known_labels), (images, labels)
    )
    figures = zero_shot.zero_shot(images, classes, labels) | {
        "images": len(labels),
        "classes": list(names),
    }
    return {"zero_shot": figures | {"templates": list(task.templates)}, "few_shot": probe}


def _labelled(part, it: Run, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    if it.data.class_names:
        return np.arange(len(part)), part.labels
    return captions.labelled(part, names)


def judged(it: Run, embed: Embedder, params: PyTree, file: Path) -> dict[str, float]:
    """Kendall's tau with the judgements of a file, over those whose image and caption are in the run's data (column `filename`)."""
    images, texts, found = {}, {}, human.read_judgements(file)
    for part in it.data.parts.values():
        names = part.source.texts("filename")
        for row, index in enumerate(part.indices):
            images[names[index]] = (part, row)
            texts[names[index]] = part.captions.tokens[index]
    usable = [j for j in found if j[0] in images and j[1] in texts and j[2] < len(texts[j[1]])]
    if not usable:
        raise DataError(f"{file}: none of its {len(found)} judgements is about images of this run")
    place_of = {name: n for n, name in enumerate(sorted({j[0] for j in usable}))}
    pixels = np.concatenate(
        [images[name][0].images(np.array([images[name][1]])) for name in place_of]
    )
    left = embed.images(params, pixels)[[place_of[j[0]] for j in usable]]
    right = embed.texts(params, np.stack([texts[owner][place] for _, owner, place, _ in usable]))
    return human.agreement(np.sum(left * right, axis=1), np.array([score for *_, score in usable]))
