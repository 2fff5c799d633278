"""What lies at a path: from a path to the source that reads it, and from any source to the encoded images that `prepare` writes on."""

from pathlib import Path
from typing import Any

import numpy as np

from active_learning.data import images
from active_learning.data.sources import originals, storage
from active_learning.data.sources.array_record import ArrayRecords
from active_learning.data.sources.arrays import Arrays
from active_learning.data.sources.image_folder import ImageFolder
from active_learning.data.sources.on_disk import DiskSection, Listing
from active_learning.data.sources.parquet import Parquet
from active_learning.data.sources.source import DataError, Memory
from active_learning.data.sources.webdataset import WebDataset

BY_SUFFIX = {".array_record": ArrayRecords, ".tar": WebDataset, ".parquet": Parquet}


def section_of(path: str) -> Any:
    """The source for a path. Raises DataError when nothing is there."""
    there = Path(path).expanduser()
    if storage.is_url(path) or "*" in path:
        return BY_SUFFIX.get(Path(path).suffix, WebDataset)(path=path)
    if there.is_file():
        return BY_SUFFIX.get(there.suffix, ImageFolder)(path=path)
    if not there.is_dir():
        raise DataError(f"{path}: no such file or folder")
    if originals.there(there):
        return originals.Originals(path=path)
    for suffix, kind in BY_SUFFIX.items():
        if any(there.glob(f"*{suffix}")):
            return kind(path=path)
    if (there / "train.npz").exists() or (there / "train" / "image.npy").exists():
        return Arrays(path=path, clean_label="")
    return ImageFolder(path=path)


def listings_of(section: Any) -> tuple[Listing, Listing | None]:
    """Training and test examples of any source, as encoded images. Raises DataError."""
    if isinstance(section, DiskSection):
        return section.checked_listings()
    opened = section.open()
    return encoded(opened.train), encoded(opened.test)


class _Encoded:
    """Images in memory as lossless PNGs, made when asked for."""

    def __init__(self, source: Memory):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def read(self, row: int) -> bytes:
        return images.encode_png(np.asarray(self.source.image[row]))

    def read_small(self, row: int) -> bytes | None:
        return None

    def name(self, row: int) -> str:
        return f"{self.source.name} {row}"


def encoded(source: Memory) -> Listing:
    """A source in memory, all its label columns included."""
    columns = {name: values.tolist() for name, values in source.label_columns.items()}
    kind = (source.about or {}).get("kind", "arrays")
    return Listing(_Encoded(source), columns, source.name, kind, source.class_names, source.ids)
