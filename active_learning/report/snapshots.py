"""Score snapshots: the scores of one super-batch with its highest- and lowest-scoring images."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from active_learning.report.files import RunError
from active_learning.report.runs import Run
from active_learning.report.text import clean

MAX_BYTES = 256 * 2**20
MAX_IMAGE_SIDE = 1024


@dataclass(frozen=True)
class Extremes:
    """The n highest- or lowest-scoring examples of a snapshot."""

    images: np.ndarray  # (n, H, W, 1, 3 or 4) uint8
    labels: np.ndarray  # (n,) integers; of pairs: the image that the caption belongs to
    clean_labels: np.ndarray  # (n,) integers, -1 where unknown; of pairs: the image
    scores: np.ndarray  # (n,)
    texts: tuple[str, ...] = ()  # captions of image-text pairs

    @property
    def corrupted(self) -> np.ndarray:
        """(n,) booleans: the label is known to be wrong."""
        return (self.clean_labels >= 0) & (self.labels != self.clean_labels)


@dataclass(frozen=True)
class ScoreSnapshot:
    """The scores of one super-batch, shape (B,), and its extremes."""

    step: int
    scores: np.ndarray
    top: Extremes
    bottom: Extremes


def snapshots_in_window(run: Run) -> list[ScoreSnapshot]:
    """Return the first and last snapshot taken while selection was on (two, one or none).

    Raises:
      RunError: A file is damaged.
    """
    steps = sorted(
        step for step in run.snapshots if run.window_steps is None or step <= run.window_steps
    )
    return [
        read_snapshot(step, run.snapshots[step]) for step in dict.fromkeys(steps[:1] + steps[-1:])
    ]


def read_snapshot(step: int, path: Path) -> ScoreSnapshot:
    """Read one snapshot file.

    Raises:
      RunError: The file is damaged, too large, or an array is missing or has the wrong shape.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_BYTES:
            raise RunError(f"{path}: {size:,} bytes unpacked; at most {MAX_BYTES:,} are read")
        with np.load(path, allow_pickle=False) as arrays:
            scores = np.asarray(arrays["scores"], np.float64)
            return ScoreSnapshot(
                step, scores.reshape(-1), _side(arrays, "top", path), _side(arrays, "bottom", path)
            )
    except RunError:
        raise
    except (
        *(KeyError, OSError, ValueError, TypeError, EOFError, MemoryError, OverflowError),
        *(RuntimeError, SyntaxError, zipfile.BadZipFile, zlib.error),
    ) as error:
        raise RunError(f"{path}: damaged snapshot ({error or type(error).__name__})") from error


def _side(arrays: np.lib.npyio.NpzFile, side: str, path: Path) -> Extremes:
    images = arrays[f"image_{side}"]
    if (
        images.ndim != 4
        or images.dtype != np.uint8
        or images.shape[-1] not in (1, 3, 4)
        or not all(0 < size <= MAX_IMAGE_SIDE for size in images.shape[1:3])
    ):
        raise RunError(
            f"{path}: image_{side} must be uint8 (n, H, W, 1, 3 or 4) with sides up to "
            f"{MAX_IMAGE_SIDE}, not {images.dtype} {images.shape}"
        )
    labels, clean_labels, scores = (
        arrays[f"{part}_{side}"] for part in ("label", "clean_label", "score")
    )
    for name, array, kinds in (
        ("label", labels, "iu"),
        ("clean_label", clean_labels, "iu"),
        ("score", scores, "f"),
    ):
        if array.shape != images.shape[:1] or array.dtype.kind not in kinds:
            raise RunError(
                f"{path}: {name}_{side} must have shape {images.shape[:1]}, "
                f"not {array.dtype} {array.shape}"
            )
    texts = arrays[f"text_{side}"] if f"text_{side}" in arrays.files else np.zeros(0, "U1")
    if texts.ndim != 1 or texts.dtype.kind != "U" or len(texts) not in (0, len(images)):
        raise RunError(f"{path}: text_{side} must be {len(images)} strings")
    return Extremes(images, labels, clean_labels, scores, tuple(clean(text) for text in texts))
