"""A data set as NumPy arrays: two .npz archives, or two folders of .npy files.

Archives are read into memory; the images of a folder are mapped, not read.
"""

import math
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from active_learning.config import setting
from active_learning.data import classes, limits
from active_learning.data.classes import Classes
from active_learning.data.errors import DataError
from active_learning.data.sources import paths
from active_learning.data.sources.files import open_regular
from active_learning.data.sources.keep import decided_memory
from active_learning.data.sources.problems import Problems
from active_learning.data.sources.source import Memory, Opened, SourceSection, check_small

ENVIRONMENT = "ACTIVE_LEARNING_DATA"
SAMPLE = 2048  # mapped images that hash and statistics are computed from
_CHANNELS = (1, 3)


@dataclass(frozen=True)
class Arrays(SourceSection):
    """A training and a test set as NumPy arrays in one folder.

    Either train.npz and test.npz, uncompressed for speed, read fully into memory; or folders train
    and test with image.npy, label.npy and so on, of which the images are mapped into memory, so
    that they may exceed it.

    Each holds `image` uint8 (n, height, width, channels), or (n, height, width) for gray, and label
    columns (n,) or (n, 1). Channels first, and fractions 0 .. 1 instead of 0 .. 255, are understood
    where they are unambiguous. Labels become classes by the rule of data/classes.py; a column
    `class_names` (strings) names them. An id is the column `id` (whole numbers, all different), or
    the place in the array: there are no files whose content could name an example.
    """

    # The folder; '': the folder `name` in that of the environment variable ACTIVE_LEARNING_DATA.
    # Where data lie is no part of a run's identity; their content hash is compared instead.
    path: str = setting("", hashed=False)
    # A folder of ACTIVE_LEARNING_DATA, e.g. 'cifar10n'.
    name: str = ""
    # Column trained on.
    label: str = "label"
    # Column with the true labels, for reports and the test set; '': unknown.
    clean_label: str = "label"
    # px of the view that scorers see; 0: the same view.
    small: int = setting(0, at_least=0, at_most=4096)
    # Decisions and new labels, as of all sources (docs/curate.md); compared by content.
    keep: str = setting("", hashed=False)
    labels: str = setting("", hashed=False)
    # Factor on the limits of data/limits.py.
    limits: float = setting(1.0, above=0.0, at_most=1e6, hashed=False)

    def folder(self) -> Path | None:
        return self.root()

    def root(self) -> Path:
        """Where the archives are. Raises DataError when neither `path` nor the environment says."""
        if self.path:
            paths.check_kind(self.path, "config.data.path")
            return paths.local(self.path)
        root = os.environ.get(ENVIRONMENT, "")
        if not root or not self.name:
            missing = f"{ENVIRONMENT} is not set" if not root else "config.data.name is empty"
            raise DataError(
                f"config.data.path='': give a folder, or ${ENVIRONMENT} and a name ({missing})"
            )
        return paths.local(root) / self.name

    def open(self) -> Opened:
        """Reads and checks both archives. Raises DataError naming file and column."""
        folder = self.root()
        limits.scaled(self.limits)
        mapped = (folder / "train" / "image.npy").exists()
        files = {part: folder / (part if mapped else f"{part}.npz") for part in ("train", "test")}
        train, test = (_read(file, _mapped if mapped else _archive) for file in files.values())
        for key, column in (("label", self.label), ("clean_label", self.clean_label)):
            if column not in train.columns and (column or key == "label"):
                raise DataError(
                    f"config.data.{key}={column!r}: {files['train']} has no such column; "
                    f"{train.listed()}"
                )
        if test.image.shape[1:] != train.image.shape[1:]:
            raise DataError(
                f"{files['test']}: images are {test.image.shape[1:]}, those of train.npz "
                f"{train.image.shape[1:]}"
            )
        check_small(self.small, min(train.image.shape[1:3]))
        test_label = self.clean_label if self.clean_label in test.columns else self.label
        if test_label not in test.columns:
            raise DataError(
                f"{files['test']}: no column {test_label!r} to judge by; {test.listed()}"
            )
        wanted = tuple(dict.fromkeys((self.label, self.clean_label or self.label)))
        known = self._classes(train, wanted, str(files["train"]))
        sample = SAMPLE if mapped else 0
        about = {"kind": "arrays", "name": self.name}
        names = known.names if train.names or _are_mapped(known) else ()

        def source_of(part: str, read: _Read) -> Memory:
            where = str(files[part])
            ids = _ids(read.columns, where)
            return Memory(
                image=read.image,
                label_columns=_numbered(read.columns, known, {*wanted, test_label}, where),
                num_classes=len(known.names),
                clean_column=self.clean_label if self.clean_label in read.columns else "",
                class_names=names,
                about=about | {"file": files[part].name},
                location=where,
                small=self.small,
                sample=sample,
                problems=Problems(where, len(read.image), notes=read.notes),
                stored_ids=ids,
            )

        sources = source_of("train", train), source_of("test", test)
        for source, column in (
            (sources[0], self.label),
            (sources[0], self.clean_label),
            (sources[1], test_label),
        ):
            if column:  # checks the range now; columns nobody asked for may be anything
                source.labels(column)
        kept = decided_memory(sources[0], self.keep, self.labels, self.label)
        return Opened(kept, sources[1], test_label)

    def _classes(self, train: "_Read", wanted: tuple[str, ...], where: str) -> Classes:
        if train.names:
            return classes.Classes(train.names, given=True)
        values = (value for column in wanted for value in np.unique(train.columns[column]).tolist())
        known = classes.of_labels(values, 0, f"{where}: column {wanted[0]!r}")
        classes.check_several(known.names, f"{where}: column {wanted[0]!r}")
        return known


def _ids(columns: dict[str, np.ndarray], where: str) -> np.ndarray | None:
    """The column `id`; None where there is none. Raises DataError where it names nothing."""
    ids = columns.pop("id", None)
    if ids is None:
        return None
    if ids.dtype.kind not in "iu" or len(np.unique(ids)) < len(ids):
        raise DataError(
            f"{where}: column 'id' ({ids.dtype}) must hold whole numbers, all different"
        )
    return ids.astype(np.int64)


def _are_mapped(known: Classes) -> bool:
    """Whether class numbers differ from the labels in the file."""
    return list(known.names) != [str(k) for k in range(len(known.names))]


def _numbered(
    columns: dict[str, np.ndarray], known: Classes, wanted: set[str], where: str
) -> dict[str, np.ndarray]:
    """Columns as integers; the wanted ones as class numbers.

    Labels that are class numbers already stay as they are.
    """
    out = {}
    for name, values in columns.items():
        is_whole = values.dtype.kind in "iu"
        if name in wanted and not (is_whole and (known.given or not _are_mapped(known))):
            distinct, place = np.unique(values, return_inverse=True)
            numbers = known.numbers(distinct.tolist(), f"{where}: column {name!r}")
            if (numbers < 0).any():
                first = int(np.flatnonzero(numbers[place] < 0)[0])
                label, count = values[first].item(), int((numbers[place] < 0).sum())
                raise DataError(
                    f"{where}: column {name!r} has label {label!r} at index {first} ({count} of "
                    f"{len(values)} such), which is no "
                    f"class of the training set ({', '.join(known.names[:10])}); leave these rows "
                    f"out of the file"
                )
            out[name] = numbers[place]
        elif is_whole:
            out[name] = values
    return out


@dataclass(frozen=True)
class _Read:
    """What one archive or folder holds.

    `unfit`: arrays that are no label columns, with type and shape.
    """

    image: UInt8[np.ndarray, "n H W C"]
    columns: dict[str, np.ndarray]
    names: tuple[str, ...]
    unfit: tuple[str, ...]
    notes: dict[str, str]

    def listed(self) -> str:
        """The columns, for an error."""
        unfit = f"; no label columns (n,): {', '.join(self.unfit)}" if self.unfit else ""
        return f"columns there: {', '.join(self.columns) or 'none'}{unfit}"


def _check_header(file: Any, held: int, where: str) -> None:
    """Checks that a .npy file's header declares what the file holds, before memory is taken for it.

    Raises:
      DataError: It declares objects, or more or fewer bytes.
    """
    version = np.lib.format.read_magic(file)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, kind = read(file)
    if kind.hasobject:
        raise DataError(
            f"{where}: not a readable array (it holds Python objects, which are not read)"
        )
    declared = math.prod(shape) * kind.itemsize if all(n >= 0 for n in shape) else -1
    if declared != held - file.tell():
        raise DataError(
            f"{where}: not a readable array (declares {kind} {shape}, holds {held - file.tell():,} "
            f"bytes)"
        )


def _archive(file: Path) -> dict[str, np.ndarray]:
    limit = limits.current()
    with (
        open(open_regular(str(file)), "rb") as opened,
        np.load(opened, allow_pickle=False) as archive,
    ):
        for info in archive.zip.infolist():
            if info.file_size > max(limit.ratio_from, limit.ratio * info.compress_size):
                raise DataError(
                    f"{file}: {info.filename} declares {info.file_size:,} bytes in "
                    f"{info.compress_size:,}; {limits.RAISE}"
                )
            with archive.zip.open(info) as member:
                _check_header(
                    member, info.file_size, f"{file}: not a readable .npz archive: {info.filename}"
                )
        return {name: archive[name] for name in archive.files}


def _mapped(folder: Path) -> dict[str, np.ndarray]:
    """Every NAME.npy of a folder; images stay on disk."""
    if not (folder / "image.npy").is_file():
        raise FileNotFoundError
    out = {}
    for file in sorted(folder.glob("*.npy")):
        with open(open_regular(str(file)), "rb") as opened:
            _check_header(
                opened,
                file.stat().st_size,
                f"{folder}: not a readable folder of .npy files: {file.name}",
            )
        out[file.stem] = np.load(file, "r" if file.stem == "image" else None, allow_pickle=False)
    return out


def _read(file: Path, load: Callable[[Path], dict[str, np.ndarray]]) -> _Read:
    """One archive or folder. Raises DataError naming it."""
    try:
        content = load(file)
    except FileNotFoundError as error:
        raise DataError(
            f"{file}: no such file{'' if file.suffix else ', or no image.npy in it'}"
        ) from error
    except DataError:
        raise
    except (
        OSError,
        ValueError,
        EOFError,
        AttributeError,
        NotImplementedError,
        zlib.error,
        zipfile.BadZipFile,
    ) as error:
        kind = ".npz archive" if file.suffix else "folder of .npy files"
        raise DataError(
            f"{file}: not a readable {kind} ({' '.join(str(error).split())})"
        ) from error
    image = content.pop("image", None)
    if image is None:
        there = ", ".join(content) or "none"
        raise DataError(f"{file}: no column 'image'; columns there: {there}")
    image, notes = _as_images(image, file)
    names = content.pop("class_names", np.zeros(0, "U1"))
    if names.ndim != 1 or (names.size and names.dtype.kind != "U"):
        raise DataError(
            f"{file}: 'class_names' is {names.dtype} {names.shape}, expected strings (classes,)"
        )
    columns, unfit = {}, []
    for name, values in content.items():
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if values.ndim != 1 or values.dtype.kind not in "iufbU":
            unfit.append(f"{name} {values.dtype} {values.shape}")
            continue
        if len(values) != len(image):
            raise DataError(
                f"{file}: column {name!r} has {len(values)} values for {len(image)} images"
            )
        columns[name] = values
    return _Read(image, columns, tuple(names.tolist()), tuple(unfit), notes)


def _as_images(image: np.ndarray, file: Path) -> tuple[np.ndarray, dict[str, str]]:
    """uint8 (n, height, width, channels), with a note on what was converted.

    Raises DataError where it is ambiguous.
    """
    notes = {}
    refused = DataError(
        f"{file}: 'image' is {image.dtype} {image.shape}, expected uint8 (n, height, width[, "
        f"channels]), n > 0"
    )
    if image.ndim not in (3, 4) or 0 in image.shape:
        raise refused
    if (dtype := image.dtype) != np.uint8:
        image = _as_bytes(image, refused)
        notes[str(file)] = f"'image' was {dtype}, converted to uint8"
    if image.ndim == 3:
        return image[..., None], notes
    if image.shape[3] not in _CHANNELS and image.shape[1] in _CHANNELS:
        image = image.transpose(0, 2, 3, 1)
        notes[f"{file} (order)"] = (
            "'image' has its channels first; read as (n, height, width, channels)"
        )
        image = image if isinstance(image.base, np.memmap) else np.ascontiguousarray(image)
    return image, notes


def _as_bytes(image: np.ndarray, refused: DataError) -> np.ndarray:
    """Whole numbers 0 .. 255, or fractions 0 .. 1, as uint8. A mapped array is not converted."""
    if isinstance(image, np.memmap) or image.dtype.kind not in "fiu":
        raise refused
    least, most = float(image.min()), float(image.max())
    if not (np.isfinite(least) and np.isfinite(most)) or least < 0:
        raise refused
    is_whole = image.dtype.kind in "iu" or not np.any(image % 1)
    if is_whole and 1 < most <= 255:
        return image.astype(np.uint8)
    if image.dtype.kind == "f" and most <= 1 and not is_whole:
        return np.round(image * 255).astype(np.uint8)
    raise refused
