"""Fashion-MNIST (idx) and CIFAR-10 (binary version) as their authors publish them."""

import gzip
import io
import math
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from active_learning.config import setting
from active_learning.data.errors import DataError
from active_learning.data.sources import paths
from active_learning.data.sources.files import open_regular
from active_learning.data.sources.keep import decided_memory
from active_learning.data.sources.source import Memory, Opened, SourceSection

FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IDX = {"train": "train", "test": "t10k"}  # first part of the files' names
ARCHIVE = "cifar-10-binary.tar.gz"
_CIFAR_BYTES = 30_730_000  # of a file of 10,000 records
_MOST = 1 << 28  # bytes of an idx file or of the archive, decompressed


@dataclass(frozen=True)
class Originals(SourceSection):
    """Original files of Fashion-MNIST or CIFAR-10.

    `path`: a folder with {train,t10k}-{images-idx3,labels-idx1}-ubyte.gz, or with
    cifar-10-binary.tar.gz.

    ids are places in the files.
    """

    path: str = setting("", hashed=False)
    label: str = "label"
    # Decisions and new labels, as of all sources (docs/curate.md); compared by content.
    keep: str = setting("", hashed=False)
    labels: str = setting("", hashed=False)

    def open(self) -> Opened:
        """Reads both parts into memory. Raises DataError naming the file."""
        folder = paths.local(self.path)
        kind, read, names = (
            ("cifar10", _cifar, CIFAR)
            if (folder / ARCHIVE).exists()
            else ("fashion_mnist", _idx, FASHION)
        )
        about = {"kind": kind}
        train, test = (
            Memory(*read(folder, part), len(names), "", names, about, f"{kind} {part}")
            for part in ("train", "test")
        )
        return Opened(decided_memory(train, self.keep, self.labels, self.label), test, self.label)


def are_in(folder: Path) -> bool:
    """Whether a folder holds original files."""
    return (folder / ARCHIVE).exists() or (folder / _names("train")[0]).exists()


def _names(part: str) -> tuple[str, str]:
    return f"{IDX[part]}-images-idx3-ubyte.gz", f"{IDX[part]}-labels-idx1-ubyte.gz"


def _idx(folder: Path, part: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    images, labels = (read_idx(folder / name) for name in _names(part))
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"{folder}: images {images.shape} and labels {labels.shape} do not belong together"
        )
    return images[..., None], {"label": labels.astype(np.int32)}


def read_idx(file: Path) -> np.ndarray:
    """Reads a gzipped idx file of uint8.

    It holds zeros, type and rank in four bytes, a big-endian size an axis, and the values.

    Raises DataError naming the file.
    """
    try:
        with (
            open(open_regular(str(file)), "rb") as opened,
            gzip.GzipFile(fileobj=opened) as unpacked,
        ):
            content = unpacked.read(_MOST + 1)
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: not a readable gzip file ({error})") from error
    rank = content[3] if content[:3] == b"\x00\x00\x08" and len(content) > 3 else 0
    shape = tuple(int.from_bytes(content[4 + 4 * k : 8 + 4 * k], "big") for k in range(rank))
    if (
        not 1 <= rank <= 3
        or len(content) > _MOST
        or len(content) != 4 + 4 * rank + math.prod(shape)
    ):
        raise DataError(f"{file}: no idx file of unsigned bytes")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


class _Bounded(io.BufferedIOBase):
    """A stream that raises after _MOST bytes, against files that decompress without end."""

    def __init__(self, stream: gzip.GzipFile):
        self.stream, self.left = stream, _MOST

    def read(self, size: int | None = -1, /) -> bytes:
        blob = self.stream.read(size)
        self.left -= len(blob)
        if self.left < 0:
            raise OSError(f"more than {_MOST:,} bytes after decompression")
        return blob


def _cifar(folder: Path, part: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    names = [f"data_batch_{n}.bin" for n in range(1, 6)] if part == "train" else ["test_batch.bin"]
    file, digests = folder / ARCHIVE, {}
    try:
        with (
            open(open_regular(str(file)), "rb") as opened,
            gzip.GzipFile(fileobj=opened) as unpacked,
            tarfile.open(fileobj=_Bounded(unpacked), mode="r|") as archive,
        ):
            for member in archive:
                name = member.name.rpartition("/")[2]
                if name in names and member.isfile() and member.size <= _CIFAR_BYTES:
                    content = archive.extractfile(member)
                    digests[name] = content.read() if content else b""
    except (OSError, EOFError, zlib.error, tarfile.TarError, AttributeError) as error:
        raise DataError(f"{file}: not a readable archive ({error})") from error
    out = io.BytesIO()
    for name in names:
        if not digests.get(name) or len(digests[name]) % 3073:
            raise DataError(f"{file}: {name} is missing, or no whole number of 3,073-byte records")
        out.write(digests[name])
    rows = np.frombuffer(out.getvalue(), np.uint8).reshape(-1, 3073)
    image = np.ascontiguousarray(rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return image, {"label": rows[:, 0].astype(np.int32)}
