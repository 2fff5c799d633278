"""Fits the parameters of a weights file to a module of another size: head, resolution, patch."""

import re
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key, PyTree

from active_learning.config import ConfigError
from active_learning.models.resize import resize_patch, resize_positions
from active_learning.models.weights import table
from active_learning.models.weights.files import Weights
from active_learning.models.weights.layout import has_two_towers
from active_learning.models.weights.table import Assembly, Leaves, Line, Row

# Standard deviation of a head that does not begin at 0.
HEAD_DEVIATION = 0.01
_HEAD = ("head/kernel", "head/bias")
# The number of a block in names of ours and of every layout.
_BLOCK_NUMBER = re.compile(r"(?<=block_)\d+(?=/)|(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class Adaptation:
    """What becomes of the tensors of a file in a module.

    Attributes:
      weights: The file.
      module: The module whose parameters are wanted.
      image_shape: Of the images that it will see.
      lines: One line a tensor, and one for each parameter that no tensor holds.
    """

    weights: Weights
    module: Any
    image_shape: tuple[int, int, int]
    lines: tuple[Line, ...]
    _rows: tuple[Row, ...]
    _leaves: Leaves

    def params(self, key: Key[Array, ""], head: str = "zero") -> PyTree:
        """Reads the parameters, one tensor at a time.

        Args:
          key: Random key of a new head.
          head: "zero" or "normal": how a new head begins.

        Raises:
          ConfigError: The file is damaged.
        """
        assembly = Assembly(self.module, self.image_shape)
        for path, values in self.weights.read(self._rows):
            ours = _ours(path, self._drops_text)
            assembly.fill(ours, self._fitted(ours, values))
        for line in self.lines:
            if line.status == "new":
                assembly.fill(line.ours, _new_values(line, key, head))
        return assembly.params

    @property
    def _drops_text(self) -> bool:
        return has_two_towers(self.weights.module) and not has_two_towers(self.module)

    def _fitted(self, path: str, values: np.ndarray) -> np.ndarray:
        there, here = table.image_tower(self.weights.module), table.image_tower(self.module)
        if path in ("position", "image/position"):
            old = _grid(self.weights.about.image_shape, there.patch)
            new = _grid(self.image_shape, here.patch)
            kernel = self.weights.layout.resize
            return resize_positions(values, there.prefix_positions, old, new, kernel)
        if path in ("embed/kernel", "image/embed/kernel"):
            return resize_patch(values, there.patch, here.patch)
        return values


def _new_values(line: Line, key: Key[Array, ""], head: str) -> np.ndarray:
    if head == "zero" or line.ours != _HEAD[0]:
        return np.zeros(line.shape, np.float32)
    return HEAD_DEVIATION * np.asarray(jax.random.normal(key, line.shape), np.float32)


def _grid(image_shape: tuple[int, int, int], patch: int) -> tuple[int, int]:
    return image_shape[0] // patch, image_shape[1] // patch


def _ours(path: str, drops_text: bool) -> str:
    """The path of a parameter in the module that takes it."""
    return path.removeprefix("image/") if drops_text else path


def adapt(weights: Weights, module: Any, image_shape: tuple[int, int, int]) -> Adaptation:
    """Decides for every tensor whether it is taken, resized or left; reads no values.

    A head with another number of classes is new; positions follow the images, patch kernels the
    module's patch. A module with one tower leaves the texts of a file with two.

    Raises:
      ConfigError: The module needs parameters that the file does not have.
    """
    path = weights.tensors.path
    if has_two_towers(module) and not has_two_towers(weights.module):
        raise ConfigError(f"{path}: has no text tower (layout {weights.layout.name})")
    if image_shape[2] != weights.about.image_shape[2]:
        raise ConfigError(
            f"{path}: is for images of {weights.about.image_shape[2]} channels, the data have "
            f"{image_shape[2]}"
        )
    drops_text = has_two_towers(weights.module) and not has_two_towers(module)
    wanted = table.leaves_of(module, image_shape)
    lines, rows, filled = [], [], set()
    for r in weights.rows:
        shape_there = weights.tensors.shape(r.theirs)
        ours = [_ours(name, drops_text) for name in r.ours]
        if not all(name in wanted for name in ours):
            lines.append(Line("left", "", r.theirs, (), shape_there))
            continue
        same = all(wanted[a] == weights.leaves[b] for a, b in zip(ours, r.ours, strict=True))
        if not same and not _resizable(ours[0]):
            lines.append(Line("left", "", r.theirs, (), shape_there))
            continue
        status = "taken" if same else "resized"
        lines.append(Line(status, _joined(ours), r.theirs, wanted[ours[0]], shape_there))
        rows.append(r)
        filled |= set(ours)
    for name in weights.left:
        lines.append(Line("left", "", name, (), weights.tensors.shape(name)))
    for name, shape in wanted.items():
        if name in filled:
            continue
        if name not in _HEAD:
            raise ConfigError(f"{path}: has nothing for our parameter {name} of shape {shape}")
        lines.append(Line("new", name, "", shape))
    return Adaptation(weights, module, image_shape, tuple(lines), tuple(rows), wanted)


def _joined(paths: list[str]) -> str:
    """Several paths as one, the names in which they differ in brackets."""
    columns = zip(*(path.split("/") for path in paths), strict=True)
    names = [list(dict.fromkeys(column)) for column in columns]
    return "/".join(n[0] if len(n) == 1 else f"({', '.join(n)})" for n in names)


def _resizable(path: str) -> bool:
    return path.removeprefix("image/") in ("position", "embed/kernel")


def format_lines(lines: tuple[Line, ...]) -> str:
    """The report as one table; equal lines of several blocks are one line."""
    counts: dict[tuple, int] = {}
    for line in lines:
        key = (
            line.status,
            _starred(line.ours),
            _starred(line.theirs),
            line.shape,
            line.shape_there,
        )
        counts[key] = counts.get(key, 0) + 1
    cells = [("", "ours", "tensor", "shape there", "shape here", "")]
    for (status, ours, theirs, shape, there), count in counts.items():
        times = f"x {count}" if count > 1 else ""
        here = _text(shape) if ours else ""
        cells.append((status, ours, theirs, _text(there) if theirs else "", here, times))
    widths = [max(len(row[k]) for row in cells) for k in range(len(cells[0]))]
    padded = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in padded)


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape) or "scalar"


def _starred(name: str) -> str:
    """The name with the number of its block replaced by a star."""
    return _BLOCK_NUMBER.sub("*", name)
