"""A data set as NumPy arrays: two archives, train.npz and test.npz, or two folders of .npy files that are mapped, not read."""

import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from active_learning.config import Section
from active_learning.data.sources.source import DataError, Memory, Opened, check_small

ENVIRONMENT = "ACTIVE_LEARNING_DATA"
SAMPLE = 2048  # mapped images that hash and statistics are computed from


@dataclass(frozen=True)
class Arrays(Section):
    """train.npz and test.npz in one folder, uncompressed for speed, read fully into memory; or folders train and test with image.npy,
    label.npy and so on, of which the images are mapped into memory, so that they may exceed it.

    Each holds `image` uint8 (n, height, width, channels), or (n, height, width) for grey, and integer label columns (n,). Classes are
    numbered from 0; their number is found from the training columns `label` and `clean_label`, or from a column `class_names` (strings).
    """

    path: str = ""  # the folder; '': the folder `name` within that of the environment variable ACTIVE_LEARNING_DATA
    name: str = ""  # e.g. 'cifar10n'
    label: str = "label"  # column trained on
    clean_label: str = "label"  # column with the true labels, for reports and the test set; '': unknown
    small: int = field(
        default=0, metadata={"late": True}
    )  # px of the view that scorers see, 0: the same view

    def folder(self) -> Path:
        """Where the archives are. Raises DataError when neither `path` nor the environment says."""
        if self.path:
            return Path(self.path).expanduser()
        root = os.environ.get(ENVIRONMENT, "")
        if not root or not self.name:
            missing = f"{ENVIRONMENT} is not set" if not root else "config.data.name is empty"
            raise DataError(
                f"config.data.path='': give a folder, or ${ENVIRONMENT} and a name ({missing})"
            )
        return Path(root).expanduser() / self.name

    def open(self) -> Opened:
        """Reads and checks both archives. Raises DataError naming file and column."""
        folder = self.folder()
        mapped = (folder / "train" / "image.npy").exists()
        files = {part: folder / (part if mapped else f"{part}.npz") for part in ("train", "test")}
        (images, columns, names), (test_images, test_columns, _) = (
            _read(file, _mapped if mapped else _archive) for file in files.values()
        )
        for key, column in (("label", self.label), ("clean_label", self.clean_label)):
            if column not in columns and (column or key == "label"):
                raise DataError(
                    f"config.data.{key}={column!r}: {files['train']} has no such column; {_list(columns)}"
                )
        if test_images.shape[1:] != images.shape[1:]:
            raise DataError(
                f"{files['test']}: images are {test_images.shape[1:]}, those of train.npz {images.shape[1:]}"
            )
        check_small(self.small, min(images.shape[1:3]))
        test_label = self.clean_label if self.clean_label in test_columns else self.label
        if test_label not in test_columns:
            raise DataError(
                f"{files['test']}: no column {test_label!r} to judge by; {_list(test_columns)}"
            )
        classes = len(names) or 1 + max(
            int(columns[c].max()) for c in {self.label, self.clean_label or self.label}
        )

        def source(part: str, image: np.ndarray, labels: dict[str, np.ndarray]) -> Memory:
            truth = self.clean_label if self.clean_label in labels else ""
            about = {"kind": "arrays", "name": self.name, "file": files[part].name}
            sample = SAMPLE if mapped else 0
            return Memory(
                image, labels, classes, truth, names, about, str(files[part]), self.small, sample
            )

        train, test = source("train", images, columns), source("test", test_images, test_columns)
        for made, column in ((train, self.label), (train, self.clean_label), (test, test_label)):
            if column:
                made.labels(
                    column
                )  # checks the range now; columns nobody asked for may be anything
        return Opened(train, test, test_label)


def _list(columns: dict[str, np.ndarray]) -> str:
    return f"columns there: {', '.join(columns) or 'none'}"


def _archive(file: Path) -> dict[str, np.ndarray]:
    with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _mapped(folder: Path) -> dict[str, np.ndarray]:
    """Every NAME.npy of a folder; images stay on disk."""
    if not (folder / "image.npy").is_file():
        raise FileNotFoundError
    mode = lambda file: "r" if file.stem == "image" else None
    return {
        file.stem: np.load(file, mode(file), allow_pickle=False)
        for file in sorted(folder.glob("*.npy"))
    }


def _read(
    file: Path, load: Callable[[Path], dict[str, np.ndarray]]
) -> tuple[np.ndarray, dict[str, np.ndarray], tuple[str, ...]]:
    """Images with a channel axis, label columns, class names of one archive or folder."""
    try:
        content = load(file)
    except FileNotFoundError as error:
        raise DataError(
            f"{file}: no such file{'' if file.suffix else ', or no image.npy in it'}"
        ) from error
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
        raise DataError(f"{file}: no column 'image'; {_list(content)}")
    if image.dtype != np.uint8 or image.ndim not in (3, 4) or 0 in image.shape:
        raise DataError(
            f"{file}: 'image' is {image.dtype} {image.shape}, expected uint8 (n, height, width[, channels]), n > 0"
        )
    names = content.pop("class_names", np.zeros(0, "U1"))
    if names.ndim != 1 or (names.size and names.dtype.kind != "U"):
        raise DataError(
            f"{file}: 'class_names' is {names.dtype} {names.shape}, expected strings (classes,)"
        )
    columns = {
        name: values
        for name, values in content.items()
        if values.ndim == 1 and values.dtype.kind in "iu"
    }
    for name, values in columns.items():
        if len(values) != len(image):
            raise DataError(
                f"{file}: column {name!r} has {len(values)} values for {len(image)} images"
            )
    return image if image.ndim == 4 else image[..., None], columns, tuple(names.tolist())
