"""Tables that map our parameters to the tensors of a layout, and what reads and writes with them.

A table is a list of rows (ours, theirs, form): paths of our parameters (joined by slashes), the
name of the tensor that holds them, and how. `*` stands for the number of a block. A row whose
parameters the module does not have is skipped, so that one table serves all sizes and options.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from active_learning.config import ConfigError
from active_learning.models.two_tower import TwoTower
from active_learning.models.weights.forms import LINEAR, SAME, Form
from active_learning.models.weights.tensors import Shape, Tensors

Leaves = dict[str, Shape]


class Row(NamedTuple):
    """One row of a table; `ours` has several paths where a tensor packs them."""

    ours: tuple[str, ...]
    theirs: str
    form: Form


def row(ours: str, theirs: str, form: Form) -> list[Row]:
    """A single row; several paths of ours are joined by ' + '."""
    return [Row(tuple(ours.split(" + ")), theirs, form)]


def linear(ours: str, theirs: str, form: Form = LINEAR) -> list[Row]:
    """Kernel and bias of a dense layer as torch names them."""
    return row(f"{ours}/kernel", f"{theirs}.weight", form) + row(
        f"{ours}/bias", f"{theirs}.bias", LINEAR
    )


def packed(ours: Sequence[str], kernel: str, bias: str) -> list[Row]:
    """Kernels and biases of several dense layers in one tensor each."""
    return [
        Row(tuple(f"{name}/kernel" for name in ours), kernel, LINEAR),
        Row(tuple(f"{name}/bias" for name in ours), bias, LINEAR),
    ]


def norm(ours: str, theirs: str) -> list[Row]:
    """Scale and bias of a LayerNorm as torch names them."""
    return row(f"{ours}/scale", f"{theirs}.weight", SAME) + row(
        f"{ours}/bias", f"{theirs}.bias", SAME
    )


def prefixed(rows: Sequence[Row], ours: str = "", theirs: str = "") -> list[Row]:
    """The rows with something put before each name."""
    return [Row(tuple(ours + name for name in r.ours), theirs + r.theirs, r.form) for r in rows]


def tower_of(module: Any, path: str) -> Any:
    """The ViT or Text that a parameter belongs to."""
    if not isinstance(module, TwoTower):
        return module
    return module.text if path.startswith("text") else module.image


def image_tower(module: Any) -> Any:
    """The ViT of a TwoTower, or the module itself."""
    return module.image if isinstance(module, TwoTower) else module


def abstract_params(module: Any, image_shape: tuple[int, int, int]) -> PyTree:
    """Shapes of a module's parameters; nothing is allocated. Raises ConfigError if it has none."""
    inputs = [jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)]
    if isinstance(module, TwoTower):
        inputs.append(jax.ShapeDtypeStruct((1, module.text.context), jnp.int32))
    try:
        return jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    except ValueError as error:
        raise ConfigError(str(error)) from error


def leaves_of(module: Any, image_shape: tuple[int, int, int]) -> Leaves:
    """Paths and shapes of a module's parameters, the blocks one by one even where it scans them."""
    out: Leaves = {}
    tree = abstract_params(module, image_shape)
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        path = "/".join(str(key.key) for key in key_path)
        before, scanned, after = path.partition("blocks/")
        if not scanned:
            out[path] = tuple(leaf.shape)
            continue
        for k in range(leaf.shape[0]):
            out[f"{before}block_{k}/{after}"] = tuple(leaf.shape[1:])
    return out


def expand(rows: Sequence[Row], module: Any, leaves: Leaves) -> list[Row]:
    """The rows that the module needs, one for each block. Raises ConfigError for what has none."""
    out = []
    for r in rows:
        starred = "*" in r.theirs
        for k in range(tower_of(module, r.ours[0]).depth if starred else 1):
            ours = tuple(path.replace("*", str(k)) for path in r.ours)
            there = [path in leaves for path in ours]
            if all(there):
                out.append(Row(ours, r.theirs.replace("*", str(k)), r.form))
            elif any(there):
                path = ours[there.index(False)]
                raise ConfigError(f"the layout packs {', '.join(ours)}; the model has no {path}")
    return out


def expected_shape(r: Row, module: Any, leaves: Leaves) -> Shape:
    """Shape of the tensor of a row, found by writing numbers that take no memory."""
    arrays = [np.broadcast_to(np.float32(0), leaves[path]) for path in r.ours]
    return r.form.write(arrays, tower_of(module, r.ours[0])).shape


@dataclass(frozen=True)
class Line:
    """One line of the report: a parameter of ours or a tensor of theirs, and what became of it."""

    status: str  # "taken", "resized", "new" or "left"
    ours: str
    theirs: str
    shape: Shape
    shape_there: Shape = ()


def check_shapes(rows: Sequence[Row], tensors: Tensors, module: Any, leaves: Leaves) -> None:
    """Raises ConfigError naming the first tensors that are missing or of another shape."""
    wrong = []
    for r in rows:
        expected = expected_shape(r, module, leaves)
        actual = tensors.shape(r.theirs) if r.theirs in tensors else None
        if actual != expected:
            there = "missing" if actual is None else actual
            wrong.append(f"{r.theirs} is {there}, expected {expected}")
    if wrong:
        count = f"{len(wrong)} of {len(rows)} tensors do not fit: " if len(wrong) > 1 else ""
        raise ConfigError(f"{tensors.path}: {count}{'; '.join(wrong[:3])}")


def check_unused(table: Sequence[Row], rows: Sequence[Row], tensors: Tensors, layout: str) -> None:
    """Raises ConfigError for a tensor of the table that the recognized model does not take.

    Such a file lacks the tensor by which the part would have been recognized.
    """
    taken = {r.theirs for r in rows}
    patterns = "|".join({re.escape(r.theirs).replace(r"\*", r"\d+") for r in table})
    known = re.compile(patterns)
    for name in tensors:
        if name not in taken and known.fullmatch(name):
            raise ConfigError(
                f"{tensors.path}: tensor {name} of shape {tensors.shape(name)} is unexpected: the "
                f"other tensors of its part in layout {layout} are missing"
            )


def read(rows: Sequence[Row], tensors: Tensors, leaves: Leaves) -> Iterator[tuple[str, np.ndarray]]:
    """Our parameters one by one, as (path, float32 array that may be a view of a tensor)."""
    for r in rows:
        arrays = r.form.read(tensors.read(r.theirs), [leaves[path] for path in r.ours])
        yield from zip(r.ours, arrays, strict=True)


class Assembly:
    """Parameters of a module that are filled in one by one.

    Arrays are allocated with their final shape, so that at most one tensor is held twice.
    """

    def __init__(self, module: Any, image_shape: tuple[int, int, int]):
        empty = lambda leaf: np.empty(leaf.shape, np.float32)
        self.params: dict = jax.tree.map(empty, dict(abstract_params(module, image_shape)))

    def fill(self, path: str, values: np.ndarray) -> None:
        """Copies values to the parameter `path`, also where it is a row of stacked blocks."""
        node: Any = self.params
        index: Any = ...
        for name in path.split("/"):
            if name.startswith("block_") and name not in node:
                index, name = int(name.removeprefix("block_")), "blocks"
            node = node[name]
        node[index] = values


def flat(params: PyTree) -> dict[str, np.ndarray]:
    """Parameters by path, the blocks one by one."""
    out: dict[str, np.ndarray] = {}
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(dict(params)):
        path, values = "/".join(str(key.key) for key in key_path), np.asarray(leaf, np.float32)
        before, scanned, after = path.partition("blocks/")
        if not scanned:
            out[path] = values
            continue
        for k in range(values.shape[0]):
            out[f"{before}block_{k}/{after}"] = values[k]
    return out


def write(
    rows: Sequence[Row], module: Any, params: dict[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of the layout one by one, as (name, float32 array)."""
    for r in rows:
        arrays = [params[path] for path in r.ours]
        yield r.theirs, r.form.write(arrays, tower_of(module, r.ours[0]))
