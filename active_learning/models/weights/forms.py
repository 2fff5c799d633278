"""How published layouts store an array of ours: transposed, packed, with an axis for the heads.

A form converts between the arrays of a table row and the one tensor that holds them. `write` gets
our arrays and the tower they belong to (a ViT or Text, for its sizes); `read` gets the tensor and
the shapes of ours. Both only move numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Shapes = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class Form:
    """A way to store arrays.

    Attributes:
      write: (our arrays, tower) -> the tensor.
      read: (the tensor, shapes of our arrays) -> our arrays.
    """

    write: Callable[[Sequence[np.ndarray], Any], np.ndarray]
    read: Callable[[np.ndarray, Shapes], Sequence[np.ndarray]]


def _reshaped(tensor: np.ndarray, shapes: Shapes) -> list[np.ndarray]:
    return [tensor.reshape(shapes[0])]


def _parts(tensor: np.ndarray, shapes: Shapes) -> list[np.ndarray]:
    return [part.T for part in np.split(tensor, len(shapes))]


def _conv_from_dense(arrays: Sequence[np.ndarray], tower: Any) -> np.ndarray:
    kernel, patch = arrays[0], tower.patch
    return kernel.reshape(patch, patch, -1, kernel.shape[1]).transpose(3, 2, 0, 1)


def _with_heads(arrays: Sequence[np.ndarray], tower: Any) -> np.ndarray:
    return arrays[0].reshape(*arrays[0].shape[:-1], tower.heads, -1)


# The array itself.
SAME = Form(lambda arrays, _: arrays[0], _reshaped)
# A leading axis of size 1.
BATCHED = Form(lambda arrays, _: arrays[0][None], _reshaped)
# One axis.
FLAT = Form(lambda arrays, _: arrays[0].reshape(-1), _reshaped)
# torch's Linear: (out, in). Several arrays are stacked along the first axis (query, key, value).
LINEAR = Form(lambda arrays, _: np.concatenate([a.T for a in arrays]), _parts)
# torch's Conv2d over patches: (out, channels, height, width). Ours is a dense kernel over patches
# flattened as (height, width, channels).
CONV = Form(
    _conv_from_dense,
    lambda tensor, shapes: [tensor.transpose(2, 3, 1, 0).reshape(shapes[0])],
)
# Flax's Conv over patches: (height, width, channels, out).
FLAX_CONV = Form(
    lambda arrays, tower: arrays[0].reshape(tower.patch, tower.patch, -1, arrays[0].shape[1]),
    _reshaped,
)
# Flax's attention: query, key and value as (..., heads, head_dim), out as (heads, head_dim, out).
FLAX_HEADS = Form(_with_heads, _reshaped)
FLAX_HEADS_OUT = Form(
    lambda arrays, tower: arrays[0].reshape(tower.heads, -1, arrays[0].shape[1]), _reshaped
)
