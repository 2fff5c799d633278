"""Reading and writing weights: recognizes the layout, reads the parameters, writes them again."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree
from safetensors.numpy import save_file

from active_learning.config import ConfigError
from active_learning.models.vit import ViT
from active_learning.models.weights import (
    big_vision,
    hf_clip,
    hf_dinov2,
    hf_siglip,
    hf_vit,
    jax_vit,
    open_clip,
    own,
    table,
    timm_vit,
)
from active_learning.models.weights.layout import About, Layout, has_two_towers, missing_fields
from active_learning.models.weights.table import Assembly, Leaves, Row
from active_learning.models.weights.tensors import Tensors, find, open_tensors

LAYOUTS = (
    hf_clip.LAYOUT,
    hf_siglip.LAYOUT,
    hf_dinov2.REGISTERS,
    hf_dinov2.LAYOUT,
    hf_vit.LAYOUT,
    timm_vit.LAYOUT,
    open_clip.LAYOUT,
    jax_vit.LAYOUT,
    big_vision.LAYOUT,
)
# Layouts of each value of `--format`, the first that can hold the model is written.
FORMATS = {
    "own": (own.LAYOUT,),
    "timm": (timm_vit.LAYOUT,),
    "hf": (hf_vit.LAYOUT, hf_dinov2.LAYOUT, hf_dinov2.REGISTERS, hf_clip.LAYOUT, hf_siglip.LAYOUT),
    "open_clip": (open_clip.LAYOUT,),
    "npz": (jax_vit.LAYOUT, big_vision.LAYOUT),
}
_CONFIGS = ("config.json", "open_clip_config.json", "preprocessor_config.json", "about.json")


@dataclass(frozen=True)
class Weights:
    """A weights file whose layout and sizes are known; no values are read yet.

    Attributes:
      layout: How the publisher stores them.
      tensors: The tensors of the file.
      module: The module of these sizes, its head included.
      about: Images, normalization and class names.
      rows: The table, one row for each tensor that the module takes.
      leaves: Paths and shapes of the module's parameters.
      file_hash: Hash of names, shapes, types and sizes; `content_hash` reads everything.
    """

    layout: Layout
    tensors: Tensors
    module: Any
    about: About
    rows: tuple[Row, ...]
    leaves: Leaves

    @property
    def left(self) -> list[str]:
        """Tensors of the file that the module has no place for."""
        taken = {r.theirs for r in self.rows}
        return [name for name in self.tensors if name not in taken]

    def read(self, rows: tuple[Row, ...] | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """The parameters one by one, all or those of some rows. Raises ConfigError if damaged."""
        return table.read(self.rows if rows is None else rows, self.tensors, self.leaves)

    def params(self) -> PyTree:
        """All parameters, float32. Raises ConfigError for a damaged file."""
        assembly = Assembly(self.module, self.about.image_shape)
        for path, values in self.read():
            assembly.fill(path, values)
        return assembly.params


def open_weights(path: str | Path, heads: int = 0) -> Weights:
    """Recognizes weights and checks the shapes of all tensors; reads no values.

    Args:
      path: A .safetensors or .npz file, or a folder with one.
      heads: Attention heads where neither file nor config says them; 0: as they say.

    Raises:
      ConfigError: One line naming the file and what is wrong with it: no readable file, an unknown
        layout, a tensor that is missing or has another shape than expected.
    """
    file = find(Path(path).expanduser())
    tensors, configs = open_tensors(file), _configs_beside(file)
    if any("/encoderblock/" in name for name in tensors):
        tensors = tensors.with_unstacked("encoderblock")
    layout = _recognize(tensors, configs)
    try:
        module, about = layout.describe(tensors, configs, heads)
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{file}: looks like {layout.name}, but its tensors or its config are not: {error}"
        ) from error
    try:
        leaves = table.leaves_of(module, about.image_shape)
        full = layout.table(module, layout.prefix(tensors))
        rows = table.expand(full, module, leaves)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    table.check_shapes(rows, tensors, module, leaves)
    table.check_unused(full, rows, tensors, layout.name)
    covered = {path for r in rows for path in r.ours}
    if lost := sorted(set(leaves) - covered):
        raise ConfigError(f"{file}: layout {layout.name} has no place for our {lost[0]}")
    return Weights(layout, tensors, module, about, tuple(rows), leaves)


def _configs_beside(file: Path) -> dict[str, dict[str, Any]]:
    out = {}
    for name in (*_CONFIGS, own.FILE):
        path = file.parent / name
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: cannot be read ({type(error).__name__})") from error
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: holds no JSON object")
        out[name] = content
    return out


def _recognize(tensors: Tensors, configs: dict[str, Any]) -> Layout:
    if own.FILE in configs:
        return own.LAYOUT
    for layout in LAYOUTS:
        if layout.recognizes(tensors):
            return layout
    some = ", ".join(list(tensors)[:3]) or "none"
    names = ", ".join(layout.name for layout in LAYOUTS)
    raise ConfigError(
        f"{tensors.path}: tensors of no known layout (first names: {some}; known: {names}, own)"
    )


def load_into(path: str | Path, module: Any, image_shape: tuple[int, int, int], key: str) -> PyTree:
    """The parameters of weights that must fit a given module, of any layout.

    A key bias that the module does not have is left out: it shifts all logits of a query alike, so
    no output depends on it.

    Raises:
      ConfigError: Begins with `key`; names the first parameters that are missing or do not fit.
    """
    try:
        weights = open_weights(path, heads=0)
    except ConfigError as error:
        raise ConfigError(f"{key}={str(path)!r}: {error}") from error
    wanted = table.leaves_of(module, image_shape)
    extra = {p for p in weights.leaves if p.endswith("/key/bias") and p not in wanted}
    there = {p: shape for p, shape in weights.leaves.items() if p not in extra}
    wrong = sorted(p for p in wanted.keys() | there.keys() if wanted.get(p) != there.get(p))
    if wrong:
        listed = "; ".join(
            f"{p} is {there.get(p, 'missing')}, expected {wanted.get(p, 'nothing')}"
            for p in wrong[:3]
        )
        raise ConfigError(
            f"{key}={str(path)!r}: {len(wrong)} parameters do not fit this config: {listed}"
        )
    if different := _different_fields(weights.module, module):
        raise ConfigError(f"{key}={str(path)!r}: its model has {'; '.join(different[:3])} here")
    assembly = Assembly(module, image_shape)
    for name, values in weights.read():
        if name not in extra:
            assembly.fill(name, values)
    return assembly.params


# Fields that change how a module runs or begins, not the function of its parameters.
_HABITS = ("qkv_bias", "scan", "remat", "dtype", "attention", "num_classes", "pad", "end")
_HABITS += ("scale", "bias", "mlp_dim", "parent", "name")


def _different_fields(theirs: Any, ours: Any, prefix: str = "") -> list[str]:
    """Fields in which two modules of the same parameters compute another function."""
    out = []
    for name in (f.name for f in dataclasses.fields(ours) if f.name not in _HABITS):
        here, there = vars(ours)[name], vars(theirs)[name]
        if dataclasses.is_dataclass(here):
            out += _different_fields(there, here, f"{name}.")
        elif here != there:
            out.append(f"{prefix}{name}={there!r}, not {here!r} as")
    return out


def layout_for(module: Any, fmt: str) -> Layout:
    """The layout of a format that can hold the module.

    Raises:
      ConfigError: Names the fields for which no layout of that format has a place.
    """
    towers = 2 if has_two_towers(module) else 1
    layouts = [layout for layout in FORMATS[fmt] if towers in layout.towers]
    if fmt != "own" and not isinstance(table.image_tower(module), ViT):
        layouts = []
    problems = []
    for layout in layouts:
        missing = missing_fields(layout, complete(module, {}, layout)[0])
        if not missing:
            return layout
        problems.append(f"{layout.name}: {'; '.join(missing[:3])}")
    if not problems:
        kind = type(module).__name__
        raise ConfigError(f"--format={fmt}: has no layout for a {kind}; use --format=own")
    raise ConfigError(
        f"--format={fmt}: no place for this model ({' | '.join(problems)}); use --format=own"
    )


def complete(module: Any, params: dict[str, np.ndarray], layout: Layout) -> tuple[Any, dict]:
    """The same function with what most layouts ask for: key biases of 0, a class position of 0.

    Returns:
      The module and its parameters by path with these, where the layout needs them.
    """
    if layout.name == "own":
        return module, params
    if has_two_towers(module):
        towers = {}
        for name in ("image", "text"):
            own_params = {p: v for p, v in params.items() if p.startswith(f"{name}/")}
            inner = {p.removeprefix(f"{name}/"): v for p, v in own_params.items()}
            tower, new = _complete_tower(getattr(module, name), inner, layout)
            towers[name] = tower
            params = params | {f"{name}/{p}": v for p, v in new.items()}
        return dataclasses.replace(module, **towers), params
    tower, new = _complete_tower(module, params, layout)
    return tower, params | new


def _complete_tower(tower: Any, params: dict, layout: Layout) -> tuple[Any, dict]:
    new: dict[str, np.ndarray] = {}
    if tower.qkv_bias == "qv":
        tower = dataclasses.replace(tower, qkv_bias="qkv")
        biases = [p for p in params if p.endswith("/query/bias")]
        new |= {p.replace("/query/", "/key/"): np.zeros_like(params[p]) for p in biases}
    if not isinstance(tower, ViT):
        return tower, new
    needs_position = 1 in layout.requires.get("prefix_positions", ())
    if needs_position and tower.has_class_token and tower.prefix_positions == 0:
        tower = dataclasses.replace(tower, prefix_positions=1)
        if params:
            new["position"] = np.pad(params["position"], ((1, 0), (0, 0)))
    if "cls_gap" in layout.requires.get("pool", ()) and tower.pool == "cls" and tower.num_classes:
        tower = dataclasses.replace(tower, pool="cls_gap")
        if params:  # A head that reads nothing of the mean of the patches.
            new["head/kernel"] = np.pad(params["head/kernel"], ((0, tower.width), (0, 0)))
    return tower, new


def write_weights(out: Path, module: Any, params: PyTree, about: About, fmt: str) -> Layout:
    """Writes a model's weights and config into the folder `out`, under the publisher's names.

    Returns:
      The layout that was written.

    Raises:
      ConfigError: The format has no place for the model.
    """
    layout = layout_for(module, fmt)
    module, leaves = complete(module, table.flat(params), layout)
    shapes = {path: values.shape for path, values in leaves.items()}
    rows = table.expand(layout.table(module, layout.written_prefix(module)), module, shapes)
    covered = {path for r in rows for path in r.ours}
    if lost := sorted(set(leaves) - covered):
        raise ConfigError(f"--format={fmt}: layout {layout.name} has no place for {lost[0]}")
    files = layout.files(module, about)
    tensors = dict(table.write(rows, module, leaves))
    for name, shape in layout.constants(module).items():
        tensors[name] = np.zeros(shape, np.float32)
    out.mkdir(parents=True, exist_ok=True)
    _save(out / layout.tensors_file, tensors)
    for name, content in files.items():
        (out / name).write_text(json.dumps(content, indent=1))
    return layout


def _save(path: Path, tensors: dict[str, np.ndarray]) -> None:
    if path.suffix == ".npz":
        named: dict[str, Any] = dict(tensors)  # `savez` declares other keyword arguments too
        np.savez(path, **named)
        return
    contiguous = {name: np.asarray(values, order="C") for name, values in tensors.items()}
    path.touch()
    mode = path.stat().st_mode  # safetensors lets nobody but the owner read what it writes.
    # transformers refuses files that do not say for which framework they are.
    save_file(contiguous, path, metadata={"format": "pt"})
    path.chmod(mode)
