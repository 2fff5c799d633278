"""Cross-fitting: every example is judged only by models that did not train on it.

Two kinds of small models share the frozen features: a kernel classifier in closed form and a
multi-layer perceptron, whose training is watched. With a model for pixels there is a third kind.
Each finished piece is saved, so that a killed process continues where it stopped.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, Integer, UInt8

from active_learning.curation import kernel, scores, trained
from active_learning.curation.folds import assign_folds
from active_learning.curation.kernel import KernelSettings
from active_learning.curation.trained import Training
from active_learning.models import MLP
from active_learning.storage.pieces import Pieces

# Called with (finished share of the planned work, what was done).
Tick = Callable[[float, str], None]
Fit = Callable[[], dict[str, np.ndarray]]  # makes a piece


@dataclass(frozen=True)
class CrossFit:
    """Settings of cross-fitting.

    Attributes:
      folds: Parts; each is judged by models that trained on the others.
      repeats: Draws of the folds, at most; the first is always finished.
      width: Hidden units of the perceptron on the features.
      pixels: Further models on pixels, e.g. `ViT(width=64, depth=2)`; `num_classes` is set here.
      kernel: Settings of the kernel classifier.
      training: Settings of the perceptron's and the pixel models' training.
      seed: Of everything random.
    """

    folds: int = 5
    repeats: int = 2
    width: int = 256
    pixels: tuple[Any, ...] = ()
    kernel: KernelSettings = field(default_factory=KernelSettings)
    training: Training = field(default_factory=Training)
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Examples:
    """What is judged.

    Attributes:
      features: Unit vectors.
      labels: Given labels.
      classes: Number of classes.
      groups: Equal numbers for copies of one picture.
      images: Only read by models on pixels.
    """

    features: Float[np.ndarray, "n d"]
    labels: Integer[np.ndarray, "n"]
    classes: int
    groups: Integer[np.ndarray, "n"]
    images: UInt8[np.ndarray, "n H W C"] | None = None


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the models say of every example.

    Attributes:
      kernel: Out-of-fold probabilities of the kernel classifier, one set a repeat.
      trained: The same of the trained networks, the mean over their checkpoints.
      last: The same at the last checkpoint.
      margins: Mean margin over checkpoints and networks that trained on the example.
      learned: Mean share of the checkpoints before it was learned, of the same networks.
      forgotten: Mean number of times it was forgotten, of the same networks.
      votes: Classes of the nearest neighbors.
      fold: The fold of the first repeat.
    """

    kernel: Float[np.ndarray, "r n C"]
    trained: Float[np.ndarray, "s n C"]
    last: Float[np.ndarray, "s n C"]
    margins: Float[np.ndarray, "s n"]
    learned: Float[np.ndarray, "s n"]
    forgotten: Float[np.ndarray, "s n"]
    votes: Float[np.ndarray, "n C"]
    fold: Int64[np.ndarray, "n"]

    @property
    def probabilities(self) -> Float[np.ndarray, "n C"]:
        """All out-of-fold predictions as one, either kind of model with half of the weight."""
        return scores.combine([self.kernel.mean(axis=0), self.trained.mean(axis=0)])


def suspicion(evidence: Evidence, labels: Integer[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """The combined score in (0, 1), higher = more suspect.

    Mean of ranks: out-of-fold lift (weight 0.4), area under the margin of the networks that
    trained on the example, less its class's log-frequency (0.4), neighbors' votes (0.2).
    """
    probabilities = evidence.probabilities
    rows = np.arange(len(labels))
    frequency = np.log(np.maximum(probabilities.mean(axis=0), scores.FLOOR))[labels]
    area = -evidence.margins.mean(axis=0)
    area = area / max(float(area.std()), 1e-12) + frequency
    outside = scores.lift(probabilities, labels, sharpen=1.5, prior=1.0)
    return scores.rank_average([outside, area, -evidence.votes[rows, labels]], [0.4, 0.4, 0.2])


def cross_fit(
    examples: Examples,
    settings: CrossFit,
    pieces: Pieces,
    tick: Tick | None = None,
    seconds: float = float("inf"),
) -> Evidence:
    """Fits all models, or reads those that are finished.

    Args:
      examples: What is judged.
      settings: How.
      pieces: Where finished pieces are kept.
      tick: Called with (finished share of the planned work, what was done) after each piece.
      seconds: No repeat but the first begins that would end later, judged by the one before.
    """
    started, repeats = time.monotonic(), []
    networks = 1 + len(settings.pixels)
    planned = settings.repeats * (settings.folds + networks)

    def done(count: int, what: str) -> None:
        if tick is not None:
            tick(count / planned, what)

    made = fits(examples, settings)
    for repeat in range(settings.repeats):
        began = time.monotonic()
        if repeat and 2 * began - repeats[-1][2] - started > seconds:
            break
        fold = _folds(examples, settings, repeat)
        base = repeat * (settings.folds + networks)
        outputs = np.zeros((len(fold), examples.classes), np.float32)
        for part in range(settings.folds):
            name = f"kernel-r{repeat}-f{part}"
            outputs[fold == part] = piece_of(pieces, name, made[name])["outputs"]
            done(base + part + 1, f"models, repeat {repeat + 1}, fold {part + 1}")
        histories = []
        for number in range(networks):
            name = f"network{number}-r{repeat}"
            histories.append(piece_of(pieces, name, made[name]))
            done(base + settings.folds + number + 1, f"models, networks of repeat {repeat + 1}")
        repeats.append((outputs, histories, began, fold))
    labels, classes = examples.labels, examples.classes
    votes = scores.neighbor_votes(examples.features, labels, classes, groups=examples.groups)
    stacked = {
        key: np.stack([history[key] for _, histories, _, _ in repeats for history in histories])
        for key in ("trained", "last", "margins", "learned", "forgotten")
    }
    outputs = np.stack([kernel.probabilities(out, labels) for out, _, _, _ in repeats])
    return Evidence(kernel=outputs, votes=votes, fold=repeats[0][3], **stacked)


def fits(examples: Examples, settings: CrossFit) -> dict[str, Fit]:
    """What makes the piece of each model, by the piece's name.

    A piece is a fold of the kernel classifier, or all folds of a network, which train together.
    """
    mapped, out = LazyMap(examples.features, settings), {}
    for repeat in range(settings.repeats):
        fold = _folds(examples, settings, repeat)
        for part in range(settings.folds):
            fit = partial(_kernel_fit, examples, settings, mapped, fold == part)
            out[f"kernel-r{repeat}-f{part}"] = fit
        for number in range(1 + len(settings.pixels)):
            fit = partial(_network_fit, examples, settings, fold, repeat, number)
            out[f"network{number}-r{repeat}"] = fit
    return out


def piece_of(pieces: Pieces, name: str, fit: Fit) -> dict[str, np.ndarray]:
    """A piece, which is made and kept where it is not there."""
    piece = pieces.load(name)
    if piece is None:
        piece = fit()
        pieces.save(name, piece)
    return piece


class LazyMap:
    """The kernel map, computed when the first fold that is not finished asks for it."""

    def __init__(self, features: np.ndarray, settings: CrossFit):
        self._features, self._settings = features, settings
        self._mapped: kernel.Mapped | None = None

    def get(self) -> kernel.Mapped:
        """The map."""
        if self._mapped is None:
            self._mapped = kernel.kernel_map(
                self._features, self._settings.kernel, self._settings.seed
            )
        return self._mapped


def _folds(examples: Examples, settings: CrossFit, repeat: int) -> Int64[np.ndarray, "n"]:
    return assign_folds(examples.labels, examples.groups, settings.folds, repeat, settings.seed)


def _kernel_fit(
    examples: Examples, settings: CrossFit, mapped: LazyMap, held: np.ndarray
) -> dict[str, np.ndarray]:
    """Outputs for the examples that one fold holds out."""
    ridge = settings.kernel.ridge
    labels, classes = examples.labels, examples.classes
    return {"outputs": kernel.held_out_outputs(mapped.get(), labels, classes, held, ridge)}


def _network_fit(
    examples: Examples, settings: CrossFit, fold: np.ndarray, repeat: int, number: int
) -> dict[str, np.ndarray]:
    """History of one network's folds in one repeat, which train together."""
    if number == 0:
        model = MLP(num_classes=examples.classes, width=settings.width, depth=1)
        scale = np.sqrt(examples.features.shape[1])  # components of about unit size
        inputs = (examples.features * scale)[:, None, None].astype(np.float32)
    else:
        model = settings.pixels[number - 1].clone(num_classes=examples.classes)
        if examples.images is None:
            raise ValueError("models on pixels were given, but no images of the examples")
        inputs = examples.images
    held = np.stack([fold == part for part in range(settings.folds)])
    seed = settings.seed + 1000 * repeat + number
    folds = trained.train_folds(model, settings.training, inputs, examples.labels, held, seed)
    return history(folds, examples.labels)


def history(
    folds: list[trained.Dynamics], labels: Integer[np.ndarray, "n"]
) -> dict[str, np.ndarray]:
    """Out-of-fold probabilities, and what the networks that trained on an example say of it.

    Args:
      folds: One network a fold; each example is held out by one of them.
      labels: Given labels.

    Returns:
      trained, last: (n, C) out-of-fold, mean over the checkpoints and at the last one.
      margins, learned, forgotten: (n,) means over the other networks.
    """
    n, classes = folds[0].logits.shape[1:]
    outside = np.zeros((len(folds[0].logits), n, classes), np.float32)
    sums = np.zeros((3, n))
    for one in folds:
        outside[:, one.held] = kernel.softmax(one.logits[:, one.held])
        right = one.logits.argmax(axis=-1) == labels[None]
        margins = np.mean([scores.margin(logits, labels) for logits in one.logits], axis=0)
        features = np.stack([margins, scores.epoch_learned(right), scores.forgetting(right)])
        sums += np.where(one.held[None], 0.0, features)
    margins, learned, forgotten = sums / max(1, len(folds) - 1)
    return {
        "trained": outside.mean(axis=0),
        "last": outside[-1],
        "margins": margins,
        "learned": learned,
        "forgotten": forgotten,
    }
