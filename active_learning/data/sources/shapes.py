"""Drawn shapes of ten classes, varied in color, size, rotation, texture and clutter.

Every image is a pure function of (seed, split, index), so the set is a finite pool with ids. A
known fraction of the training labels is corrupted, each of the other classes being equally likely
(symmetric label noise).
"""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, UInt8

from active_learning.config import setting
from active_learning.data.errors import DataError
from active_learning.data.order import hash64
from active_learning.data.sources.source import Memory, Opened, SourceSection, check_small

CLASSES = (
    "disc",
    "triangle",
    "square",
    "pentagon",
    "hexagon",
    "star 4",
    "star 5",
    "star 6",
    "cross",
    "crescent",
)
_PARAMETERS = 64  # uniform numbers an image is drawn from
_CHUNK = 1000


@dataclass(frozen=True)
class Shapes(SourceSection):
    """A set of `train` + `test` images of `size` px with columns `label` and `clean`.

    `noise`: fraction of corrupted labels in training.
    """

    seed: int = setting(0, at_least=0, below=2**31)
    size: int = setting(32, at_least=8, at_most=4096)
    train: int = setting(16_000, at_least=1, at_most=2**32)
    test: int = setting(4_000, at_least=1, at_most=2**32)
    noise: float = setting(0.4, at_least=0.0, at_most=10.0)
    label: str = "label"  # column trained on
    clean_label: str = "clean"  # column with the true labels, for reports and the test set
    # px of the view that scorers see, 0: the same view
    small: int = setting(0, at_least=0, at_most=4096)

    def open(self) -> Opened:
        """Draws both splits. Raises DataError naming the key."""
        for key, value, least in (
            ("size", self.size, 16),
            ("train", self.train, 1),
            ("test", self.test, 1),
        ):
            if value < least:
                raise DataError(f"config.data.{key}={value}: must be at least {least}")
        check_small(self.small, self.size)
        if not 0 <= self.noise < 1:
            raise DataError(f"config.data.noise={self.noise}: expected a fraction in [0, 1)")
        return Opened(
            self._split(0, self.train, self.noise), self._split(1, self.test, 0.0), "clean"
        )

    def _split(self, split: int, count: int, noise: float) -> Memory:
        indices = np.arange(count)
        clean = _classes(self.seed, split, indices)
        label = corrupted_labels(clean, uniform(2, self.seed, split, 1, indices), noise)
        images = _drawn(self.seed, self.size, split, count)
        about = {"kind": "shapes", "seed": self.seed, "noise": noise}
        return Memory(
            images,
            {"label": label, "clean": clean},
            len(CLASSES),
            "clean",
            CLASSES,
            about,
            "shapes",
            self.small,
        )


def _classes(seed: int, split: int, indices: np.ndarray) -> np.ndarray:
    return (hash64(seed, split, 0, indices) % np.uint64(len(CLASSES))).astype(np.int32)


@functools.lru_cache(maxsize=2)  # an experiment's runs share one set: its two splits
def _drawn(seed: int, size: int, split: int, count: int) -> UInt8[np.ndarray, "n s s 3"]:
    """The images of a split, read-only."""
    chunks = []
    for start in range(0, count, _CHUNK):
        indices = np.arange(start, min(start + _CHUNK, count))
        u = uniform(_PARAMETERS, seed, split, 2, indices)
        grain = uniform(size * size, seed, split, 3, indices).reshape(-1, size, size)
        chunks.append(draw(_classes(seed, split, indices), u, grain))
    images = np.concatenate(chunks)
    images.flags.writeable = False
    return images


def uniform(count: int, *words) -> Float[np.ndarray, "k n"]:
    """`count` uniform numbers in [0, 1) for each of the indices in the last of `words`."""
    *head, indices = words
    return (
        hash64(*head, np.asarray(indices)[:, None], np.arange(count)[None]).astype(np.float64)
        / 2.0**64
    )


def corrupted_labels(clean: np.ndarray, u: Float[np.ndarray, "k 2"], noise: float) -> np.ndarray:
    """Labels of which a fraction `noise` is replaced, each other class equally likely."""
    others = len(CLASSES) - 1
    step = 1 + np.minimum((others * u[:, 1]).astype(int), others - 1)
    return np.where(u[:, 0] < noise, (clean + step) % len(CLASSES), clean).astype(np.int32)


def draw(
    classes: Int64[np.ndarray, "k"] | np.ndarray,
    u: Float[np.ndarray, "k n"],
    grain: Float[np.ndarray, "k s s"],
) -> UInt8[np.ndarray, "k s s 3"]:
    """Draws images from uniform numbers: background, clutter, shape, a bar, light and grain."""
    size = grain.shape[1]
    take = iter(u.T[:, :, None, None])
    y, x = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size), indexing="ij")
    x, y = x[None], y[None]
    edge = 2.0 / size

    def between(low, high):
        return low + (high - low) * next(take)

    back, other = 0.5 * _color(take), 0.5 * _color(take)
    front = (
        back + 0.3 + (0.7 - back) * _color(take)
    )  # lit from in front: every channel brighter than behind
    pattern = _pattern(x, y, take)
    image = back + (other - back) * (0.3 * pattern)[..., None]
    for _ in range(3):  # clutter behind the shape
        there = between(0, 1) < 0.5
        far = np.hypot(x - between(-1, 1), y - between(-1, 1)) - between(0.06, 0.2)
        image = _paint(image, np.where(there, far, 1.0), edge, 0.7 * _color(take))
    turn, radius, stretch = between(-0.2, 0.2), between(0.6, 0.85), between(0.9, 1.1)
    dx, dy = x - between(-0.15, 0.15), y - between(-0.15, 0.15)
    along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    distance = _shape(classes, along / (radius * stretch), across / (radius / stretch)) * radius
    hollow = between(0, 1) < 0.1  # some are outlines
    distance = np.where(hollow, np.abs(distance + 0.08) - 0.08, distance)
    texture = 0.2 * _pattern(x, y, take)[..., None]
    image = _paint(image, distance, edge, front * (1 - texture) + back * 0.3 * texture)
    tilt, place = between(0, np.pi), between(-0.7, 0.7)
    bar = np.abs(x * np.cos(tilt) + y * np.sin(tilt) - place) - between(0.03, 0.1)
    image = _paint(image, np.where(between(0, 1) < 0.4, bar, 1.0), edge, other)
    light = 1 + between(-0.35, 0.35) * x + between(-0.35, 0.35) * y
    image = (
        image * light[..., None] * between(0.7, 1.2)[..., None] + 0.16 * (grain - 0.5)[..., None]
    )
    return np.clip(255 * image + 0.5, 0, 255).astype(np.uint8)


def _color(take) -> np.ndarray:
    return np.concatenate([next(take) for _ in range(3)], axis=-1)[:, :, None, :].reshape(
        -1, 1, 1, 3
    )


def _paint(image: np.ndarray, distance: np.ndarray, edge: float, color: np.ndarray) -> np.ndarray:
    """Covers where distance < 0, blended over one pixel at the rim."""
    cover = np.clip(0.5 - distance / edge, 0, 1)[..., None]
    return image + (color - image) * cover


def _pattern(x: np.ndarray, y: np.ndarray, take) -> np.ndarray:
    """Values in [0, 1]: a gradient, stripes, checks or waves, by turns."""
    kind, angle, period, phase = (
        next(take),
        2 * np.pi * next(take),
        0.15 + 0.6 * next(take),
        2 * np.pi * next(take),
    )
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    stripes = np.sin(2 * np.pi * along / period + phase)
    checks = stripes * np.sin(2 * np.pi * across / period + phase)
    waves = np.sin(2 * np.pi * along / period + 3 * np.sin(2 * across + phase))
    gradient = np.clip(along, -1, 1)
    choice = np.minimum((kind * 4).astype(int), 3)
    return 0.5 + 0.5 * np.select(
        [choice == i for i in range(4)], [gradient, np.sign(stripes), np.sign(checks), waves]
    )


def _shape(classes: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance (about; negative inside) to each row's shape of radius 1."""
    out = np.empty(np.broadcast_shapes(x.shape, y.shape))
    for number, name in enumerate(CLASSES):
        rows = classes == number
        if rows.any():
            out[rows] = _DISTANCES[name](x[rows], y[rows])
    return out


def _polygon(n: int):
    def distance(x, y):
        angle = np.mod(np.arctan2(y, x), 2 * np.pi / n) - np.pi / n
        return np.hypot(x, y) * np.cos(angle) - np.cos(np.pi / n)

    return distance


def _star(n: int, inner: float):
    """A star of n points: in each half sector the straight line from the tip to the notch."""
    tip, notch = np.array([1.0, 0.0]), inner * np.array([np.cos(np.pi / n), np.sin(np.pi / n)])
    normal = np.array([notch[1] - tip[1], tip[0] - notch[0]])
    normal = normal / np.hypot(*normal)

    def distance(x, y):
        angle = np.abs(np.mod(np.arctan2(y, x) + np.pi / n, 2 * np.pi / n) - np.pi / n)
        r = np.hypot(x, y)
        return (r * np.cos(angle) - tip[0]) * normal[0] + (r * np.sin(angle) - tip[1]) * normal[1]

    return distance


def _cross(x, y):
    x, y = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x - 1, y - 0.32), np.maximum(y - 1, x - 0.32))


def _crescent(x, y):
    return np.maximum(np.hypot(x, y) - 1, 0.8 - np.hypot(x - 0.5, y))


_DISTANCES = {
    "disc": lambda x, y: np.hypot(x, y) - 0.9,
    "triangle": _polygon(3),
    "square": _polygon(4),
    "pentagon": _polygon(5),
    "hexagon": _polygon(6),
    "star 4": _star(4, 0.42),
    "star 5": _star(5, 0.45),
    "star 6": _star(6, 0.55),
    "cross": _cross,
    "crescent": _crescent,
}
