"""Resizing position embeddings and patch kernels, as each publisher's library does.

All kernels are linear and separable: a matrix (new size, old size) along each axis.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Matrix = Float[np.ndarray, "new old"]


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Cubic convolution with parameter a (Keys 1981) at distances x >= 0."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def bicubic(old: int, new: int) -> Matrix:
    """Torch's bicubic without antialias (a = -0.75); places beyond the border repeat it."""
    center = (np.arange(new) + 0.5) * old / new - 0.5
    out = np.zeros((new, old))
    for tap in range(-1, 3):
        place = np.floor(center).astype(int) + tap
        weight = _cubic(np.abs(center - place), -0.75)
        np.add.at(out, (np.arange(new), np.clip(place, 0, old - 1)), weight)
    return out


def _antialiased(
    old: int, new: int, kernel: Callable[[np.ndarray], np.ndarray], support: float
) -> Matrix:
    """Pillow's and torch's resizing with antialias: the kernel widens where the grid shrinks."""
    scale = old / new
    wide = max(scale, 1.0)
    center = (np.arange(new) + 0.5) * scale
    place = np.arange(old) + 0.5
    first = np.maximum((center - support * wide + 0.5).astype(int), 0)
    last = np.minimum((center + support * wide + 0.5).astype(int), old)
    inside = (np.arange(old) >= first[:, None]) & (np.arange(old) < last[:, None])
    weight = np.where(inside, kernel(np.abs(place - center[:, None]) / wide), 0.0)
    return weight / weight.sum(axis=1, keepdims=True)


def bicubic_antialias(old: int, new: int) -> Matrix:
    """Torch's bicubic with antialias (a = -0.5), as Pillow's."""
    return _antialiased(old, new, lambda x: _cubic(x, -0.5), 2.0)


def bilinear_antialias(old: int, new: int) -> Matrix:
    """Torch's bilinear with antialias, as Pillow's."""
    return _antialiased(old, new, lambda x: np.maximum(1 - x, 0.0), 1.0)


def bilinear_corners(old: int, new: int) -> Matrix:
    """Linear between the outermost places (scipy.ndimage.zoom of order 1)."""
    place = np.zeros(new) if new == 1 else np.arange(new) * (old - 1) / (new - 1)
    return np.maximum(1 - np.abs(place[:, None] - np.arange(old)), 0.0)


KERNELS: dict[str, Callable[[int, int], Matrix]] = {
    "bicubic": bicubic,
    "bicubic_antialias": bicubic_antialias,
    "bilinear_antialias": bilinear_antialias,
    "bilinear_corners": bilinear_corners,
}


def resize_positions(
    position: Float[np.ndarray, "old D"],
    prefix: int,
    old: tuple[int, int],
    new: tuple[int, int],
    kernel: str,
) -> Float[np.ndarray, "new D"]:
    """Position embeddings of another grid of patches.

    Args:
      position: One row a position: `prefix` ones that are kept, then the grid, row by row.
      prefix: Positions of the class token and registers.
      old: Rows and columns of the grid.
      new: Rows and columns wanted.
      kernel: A key of KERNELS.
    """
    if old == new:
        return position
    grid = position[prefix:].reshape(*old, -1).astype(np.float64)
    rows, columns = KERNELS[kernel](old[0], new[0]), KERNELS[kernel](old[1], new[1])
    resized = np.einsum("Yy,Xx,yxd->YXd", rows, columns, grid, optimize=True)
    resized = resized.reshape(-1, position.shape[1]).astype(position.dtype)
    return np.concatenate([position[:prefix], resized])


def patch_resampler(old: int, new: int) -> Float[np.ndarray, "old new"]:
    """Pseudoinverse of resizing a patch from side `old` to side `new`, along one axis.

    Applied to a patch of side `new` before an embedding for `old`, it does what `resize_patch` does
    to the embedding.
    """
    return np.linalg.pinv(bilinear_antialias(old, new))


def resize_patch(
    kernel: Float[np.ndarray, "old D"], old: int, new: int
) -> Float[np.ndarray, "new D"]:
    """A patch embedding for another patch size (FlexiViT, arXiv 2212.08013, section 3.4).

    The pseudoinverse of resizing, so that an enlarged patch has the embedding of the original.

    Args:
      kernel: One row for each of old * old * channels inputs, in that order.
      old: Side of its patches.
      new: Side wanted.
    """
    if old == new:
        return kernel
    inverse = patch_resampler(old, new).T
    cells = kernel.reshape(old, old, -1, kernel.shape[1]).astype(np.float64)
    resized = np.einsum("Yy,Xx,yxcd->YXcd", inverse, inverse, cells, optimize=True)
    return resized.reshape(-1, kernel.shape[1]).astype(kernel.dtype)
