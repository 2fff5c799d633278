"""Tensors of a weights file, read lazily: names, shapes and types first, values one at a time."""

import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open

from active_learning.config import ConfigError

Shape = tuple[int, ...]

# What a folder may hold, the first that is there is read.
NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "weights.safetensors",
    "weights.npz",
)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".tar")
_FLOATS = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True)
class Tensor:
    """Where a tensor is, its shape and the name of its type."""

    shape: Shape
    dtype: str
    read: Callable[[], np.ndarray]


class Tensors:
    """The tensors of one weights file, or of the files of one index.

    Attributes:
      path: The file that was opened; names it in errors.
    """

    def __init__(self, path: Path, tensors: dict[str, Tensor]):
        self.path = path
        self._tensors = tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> Shape:
        """Shape of a tensor. Raises ConfigError when there is no such tensor."""
        if name not in self._tensors:
            raise ConfigError(f"{self.path}: there is no tensor {name}")
        return self._tensors[name].shape

    def dtype(self, name: str) -> str:
        """The name of a tensor's type."""
        return self._tensors[name].dtype

    def read(self, name: str) -> Float32[np.ndarray, "..."]:
        """One tensor as float32; nothing else of the file stays in memory.

        Raises:
          ConfigError: The tensor is no float, or its bytes are damaged.
        """
        tensor = self._tensors[name]
        if tensor.dtype not in _FLOATS:
            raise ConfigError(f"{self.path}: tensor {name} is {tensor.dtype}, expected floats")
        try:
            values = tensor.read()
        except _UNREADABLE as error:
            raise ConfigError(
                f"{self.path}: tensor {name} of shape {tensor.shape} cannot be read: {error}"
            ) from error
        return values.astype(np.float32, copy=False)

    def renamed(self, rename: Callable[[str], str]) -> "Tensors":
        """The same tensors under other names."""
        return Tensors(self.path, {rename(name): t for name, t in self._tensors.items()})

    def with_unstacked(self, part: str) -> "Tensors":
        """Tensors of scanned blocks, 'PART/x' of shape (depth, ...), as 'PART_0/x', 'PART_1/x'.

        The last stacked tensor is kept, so that reading its blocks in turn reads it once.
        """
        out: dict[str, Tensor] = {}
        kept: dict[str, np.ndarray] = {}

        def row(name: str, k: int) -> np.ndarray:
            if name not in kept:
                kept.clear()
                kept[name] = self._tensors[name].read()
            return kept[name][k]

        for name, tensor in self._tensors.items():
            before, separator, after = name.partition(f"{part}/")
            if not separator:
                out[name] = tensor
                continue
            for k in range(tensor.shape[0]):
                read = lambda name=name, k=k: row(name, k)
                out[f"{before}{part}_{k}/{after}"] = Tensor(tensor.shape[1:], tensor.dtype, read)
        return Tensors(self.path, out)


def find(path: Path) -> Path:
    """The weights file that a path means: itself, or the one in that folder.

    Raises:
      ConfigError: There is none, or only one that needs to be converted first.
    """
    if path.is_file():
        _refuse_pickle(path)
        return path
    if not path.is_dir():
        raise ConfigError(f"{path}: no such file or folder")
    for name in NAMES:
        if (path / name).is_file():
            return path / name
    files = sorted(p for p in path.iterdir() if p.suffix in (".safetensors", ".npz"))
    files = [p for p in files if p.name != "io.npz"]
    if len(files) == 1:
        return files[0]
    if files:
        names = ", ".join(p.name for p in files[:4])
        raise ConfigError(f"{path}: several weights files ({names}); give the path of one")
    for file in sorted(path.iterdir()):
        _refuse_pickle(file)
    raise ConfigError(f"{path}: no .safetensors or .npz file there")


def _refuse_pickle(path: Path) -> None:
    if path.suffix in PICKLES:
        raise ConfigError(
            f"{path}: pickle files can run code and are not read; convert it once with torch: "
            f"from safetensors.torch import save_file; save_file(torch.load({path.name!r}, "
            f"weights_only=True), {path.with_suffix('.safetensors').name!r})"
        )


def open_tensors(path: Path) -> Tensors:
    """Opens a .safetensors or .npz file, or an index of several; reads no values.

    Raises:
      ConfigError: One line naming the file, and the first tensor that is cut off.
    """
    if path.name.endswith(".index.json"):
        return _open_index(path)
    if path.suffix == ".safetensors":
        return Tensors(path, _open_safetensors(path))
    if path.suffix == ".npz":
        return Tensors(path, _open_npz(path))
    raise ConfigError(f"{path}: expected a .safetensors or .npz file, or a folder with one")


def _open_index(path: Path) -> Tensors:
    try:
        files = json.loads(path.read_text())["weight_map"]
        names = {str(name): str(file) for name, file in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: no weight_map of tensor names to files there") from error
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(names.values())):
        if Path(file).name != file or not (path.parent / file).is_file():
            missing = next(name for name in names if names[name] == file)
            raise ConfigError(f"{path}: tensor {missing} is said to be in {file!r}, not there")
        tensors |= _open_safetensors(path.parent / file)
    for name, file in names.items():
        if name not in tensors:
            raise ConfigError(f"{path}: tensor {name} is said to be in {file}, it is not")
    return Tensors(path, tensors)


def _open_safetensors(path: Path) -> dict[str, Tensor]:
    """Each read maps the file anew: pages of a file that stays mapped count as memory in use."""

    def read(name: str) -> np.ndarray:
        with safe_open(path, "numpy") as file:
            return file.get_tensor(name)

    out: dict[str, Tensor] = {}
    try:
        with safe_open(path, "numpy") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                part = file.get_slice(name)
                shape, dtype = tuple(part.get_shape()), str(part.get_dtype())
                out[name] = Tensor(shape, dtype, lambda name=name: read(name))
    except (SafetensorError, OSError) as error:
        raise ConfigError(_what_is_cut(path, error)) from error
    return out


def _what_is_cut(path: Path, error: Exception) -> str:
    """One line that names the first tensor whose bytes are not all there."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            size = path.stat().st_size - 8 - length
            header = json.loads(file.read(min(length, 100_000_000)))
        header.pop("__metadata__", None)
        cut = [(entry["data_offsets"], name) for name, entry in header.items()]
        cut = sorted(tensor for tensor in cut if tensor[0][1] > size)
        if cut:
            (begin, end), name = cut[0]
            return (
                f"{path}: truncated: tensor {name} of shape {tuple(header[name]['shape'])} has "
                f"{max(0, size - begin)} of {end - begin} bytes"
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        pass
    return f"{path}: not a readable .safetensors file: {str(error).splitlines()[0]}"


_UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


def _open_npz(path: Path) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if not member.endswith(".npy"):
                    raise ConfigError(f"{path}: {member!r} in it is no array")
                name = member.removesuffix(".npy")
                shape, dtype = _npy_header(archive, member, path)
                out[name] = Tensor(shape, dtype, lambda member=member: _read_npy(path, member))
    except ConfigError:
        raise
    except _UNREADABLE as error:
        raise ConfigError(f"{path}: no readable .npz ({error})") from error
    return out


_NPY_TYPES = {"f8": "F64", "f4": "F32", "f2": "F16", "V2": "BF16"}


def _npy_header(archive: zipfile.ZipFile, member: str, path: Path) -> tuple[Shape, str]:
    name = member.removesuffix(".npy")
    try:
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if read is None:
                raise ValueError(f"unknown .npy version {version}")
            shape, _, dtype = read(file)
    except _UNREADABLE as error:
        raise ConfigError(f"{path}: tensor {name} cannot be read: {error}") from error
    if dtype.hasobject:
        raise ConfigError(
            f"{path}: array {name} holds Python objects (pickle), which are not read; save it as "
            "plain arrays"
        )
    return shape, _NPY_TYPES.get(dtype.str[1:], dtype.str)


def _read_npy(path: Path, member: str) -> np.ndarray:
    with zipfile.ZipFile(path) as archive, archive.open(member) as file:
        values = np.lib.format.read_array(file, allow_pickle=False)
    # NumPy has no bfloat16: such arrays are written as two opaque bytes a number.
    return values.view(ml_dtypes.bfloat16) if values.dtype.str[1:] == "V2" else values
