"""Evaluations of image-text models beside retrieval on the run's own sets.

Zero-shot classification, few-shot and linear probes, retrieval on COCO's and Flickr's files, and
agreement with human judgements. Results carry the names that clip_benchmark uses.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree

from active_learning.data import captions
from active_learning.data.sources.source import DataError
from active_learning.evaluators import few_shot, human, image_sets, text_files, zero_shot
from active_learning.evaluators.embed import Embedder
from active_learning.evaluators.features import stored_features
from active_learning.evaluators.retrieval import clip_benchmark_names, retrieval_metrics

PROBED = 2000  # training images that the probes of a run's own data are fitted to


@dataclass(frozen=True)
class Towers:
    """A two-tower model to evaluate."""

    embed: Embedder
    params: PyTree
    # Texts to token ids.
    encode: Callable[[Sequence[str]], np.ndarray]
    # Side of its images in pixels.
    size: int
    # Names the model in files of features, such as a hash of its parameters.
    key: str = ""
    # Folder where features are kept; None: they are not.
    features: Path | None = None

    def image_features(self, name: str, labels: np.ndarray, part, rows: np.ndarray | None = None):
        """Embeddings of images, from the folder of features where they are kept."""
        file = None if self.features is None else self.features / f"{name}.npz"
        key = f"{name} by model {self.key}"
        return stored_features(
            file, key, labels, lambda: self.embed.images(self.params, part, rows)
        )

    def classes(self, names: Sequence[str], templates: Sequence[str]) -> np.ndarray:
        """Embedding of each class."""
        return zero_shot.class_embeddings(self.embed, self.params, names, templates, self.encode)


def classification(towers: Towers, task: Any, data: Any, name: str) -> dict:
    """Zero-shot and probe accuracy on a set of the run's data.

    Images whose captions clearly name one of `task.classes` count, with that class; where the data
    have labels, all images with their own class names.

    Args:
      towers: The model.
      task: Has `classes` and `templates`.
      data: Has `parts`, `train` and `class_names`.
      name: The set.

    Returns:
      zero_shot (with the templates used), few_shot and linear_probe; empty without class names.
    """
    names = tuple(data.class_names) or tuple(task.classes)
    if not names:
        return {}
    part, from_captions = data.parts[name], not data.class_names
    rows, labels = _labelled(part, names, from_captions)
    images = towers.image_features(name, labels, part, rows)
    known, known_labels = (x[:PROBED] for x in _labelled(data.train, names, from_captions))
    train = towers.image_features("train", known_labels, data.train, known)
    metrics = zero_shot.zero_shot(images, towers.classes(names, task.templates), labels)
    about = {"images": len(labels), "classes": list(names), "templates": list(task.templates)}
    return {"zero_shot": metrics | about} | _probes((train, known_labels), (images, labels))


def _labelled(part, names: tuple[str, ...], from_captions: bool) -> tuple[np.ndarray, np.ndarray]:
    if not from_captions:
        return np.arange(len(part)), part.labels
    mentioned = captions.mentioned([part.captions.texts[row] for row in part.indices], names)
    rows = np.flatnonzero(mentioned >= 0)
    if not len(rows):
        raise DataError(f"config.task.classes={names}: no captions name them")
    return rows, mentioned[rows]


def _probes(train: few_shot.Labelled, test: few_shot.Judged) -> dict:
    return {
        "few_shot": few_shot.few_shot(train, test),
        "linear_probe": few_shot.linear_probe(train, test),
    }


def labelled_images(
    towers: Towers, path: str, templates: Sequence[str], names_file: Path | None = None
) -> dict:
    """Zero-shot accuracy on labelled images at a path.

    Few-shot and linear probes too, where the path holds a training set.

    Args:
      towers: The model.
      path: Folder of class folders (ImageNet's validation set), table or shards.
      templates: Prompt templates with one `{}` each.
      names_file: Name of each class in order; None: the data's own.

    Raises:
      DataError: Naming path or file, where the number of names is not that of the classes.
    """
    train, test = image_sets.open_labelled(path, towers.size)
    names = test.class_names if names_file is None else text_files.read_names(names_file)
    if len(names) != len(test.class_names):
        raise DataError(
            f"{names_file}: {len(names)} class names, "
            f"but {path} has {len(test.class_names)} classes"
        )
    stem = Path(path).name
    images = towers.image_features(f"{stem}-test", test.labels, test.images)
    metrics = zero_shot.zero_shot(images, towers.classes(names, templates), test.labels)
    about = {"images": len(images), "classes": len(names), "templates": len(templates)}
    out = {"zero_shot": metrics | about}
    if train is not None:
        fitted = towers.image_features(f"{stem}-train", train.labels, train.images)
        out |= _probes((fitted, train.labels), (images, test.labels))
    return out


def captioned_images(towers: Towers, folder: Path, file: Path, split: str = "test") -> dict:
    """Retrieval on images with several captions each.

    Args:
      towers: The model.
      folder: Folder of the images.
      file: Captions, in a layout of `text_files.read_captions`.
      split: Split to take, where the file has splits.

    Returns:
      Recall under clip_benchmark's names, and the metrics of `retrieval_metrics`.
    """
    by_image = text_files.read_captions(file, split)
    images = image_sets.ImageSet(image_sets.Paths(folder, by_image.paths), towers.size)
    owner = np.repeat(np.arange(len(images)), [len(texts) for texts in by_image.captions])
    tokens = towers.encode([text for texts in by_image.captions for text in texts])
    metrics = retrieval_metrics(
        towers.embed.images(towers.params, images),
        towers.embed.texts(towers.params, tokens),
        owner,
    )
    metrics.pop("per_image")
    about = {"images": len(images), "captions": len(owner)}
    return clip_benchmark_names(metrics) | metrics | about


def judged(towers: Towers, data, file: Path) -> dict[str, float]:
    """Kendall's tau with the judgements of a file about images and captions of the run's data.

    Images are found by the data's column `filename`.

    Raises:
      DataError: Naming a file without judgements about these images.
    """
    images, texts = {}, {}
    for part in data.parts.values():
        names = part.source.texts("filename")
        for row, index in enumerate(part.indices):
            images[names[index]] = (part, row)
            texts[names[index]] = part.captions.texts[int(index)]
    judgements = human.read_judgements(file)
    usable = [j for j in judgements if j[0] in images and j[1] in texts and j[2] < len(texts[j[1]])]
    if not usable:
        raise DataError(
            f"{file}: none of its {len(judgements)} judgments is about images of this run"
        )
    place_of = {name: n for n, name in enumerate(sorted({j[0] for j in usable}))}
    left = towers.embed.images(towers.params, _Scattered([images[name] for name in place_of]))
    left = left[[place_of[j[0]] for j in usable]]
    tokens = data.train.captions.encode([texts[owner][place] for _, owner, place, _ in usable])
    right = towers.embed.texts(towers.params, tokens)
    return human.agreement(np.sum(left * right, axis=1), np.array([score for *_, score in usable]))


@dataclass(frozen=True)
class _Scattered:
    """Images of several parts, as (part, row)."""

    places: list[tuple]

    def __len__(self) -> int:
        return len(self.places)

    def images(self, rows: np.ndarray) -> np.ndarray:
        places = [self.places[row] for row in rows.tolist()]
        return np.concatenate([part.images(np.array([row])) for part, row in places])


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `evaluate` that name further sets for an image-text model."""
    group = parser.add_argument_group("image-text models")
    group.add_argument(
        "--judgements", type=Path, action="append", default=[], help="human judgements (Flickr8k)"
    )
    group.add_argument("--zero_shot", metavar="PATH", help="labelled images, e.g. ImageNet's val")
    group.add_argument("--class_names", type=Path, help="a name a line, in order of the classes")
    group.add_argument("--templates", type=Path, help="a prompt a line, {} stands for the name")
    group.add_argument("--captions", type=Path, help="caption file of COCO or Flickr30k")
    group.add_argument("--images", type=Path, help="folder of the images of --captions")
    group.add_argument("--caption_split", default="test", help="split of --captions, if it has any")
    group.add_argument("--features", type=Path, help="folder where image features are kept")


def evaluate_flags(towers: Towers, task, data, args: argparse.Namespace) -> dict:
    """Run the evaluations that the flags of `add_flags` ask for.

    Returns:
      Results by file or path.

    Raises:
      DataError: Naming the flag or file.
    """
    out = {file.name: judged(towers, data, file) for file in args.judgements}
    templates = tuple(task.templates)
    if args.templates is not None:
        templates = text_files.read_templates(args.templates)
    if args.zero_shot:
        out[args.zero_shot] = labelled_images(towers, args.zero_shot, templates, args.class_names)
    elif args.class_names is not None:
        raise DataError("--class_names: names the classes of --zero_shot=PATH, which is missing")
    if (args.captions is None) != (args.images is None):
        raise DataError("--captions=FILE and --images=FOLDER belong together; one is missing")
    if args.captions is not None:
        out[args.captions.name] = captioned_images(
            towers, args.images, args.captions, args.caption_split
        )
    return out
