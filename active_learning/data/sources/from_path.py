"""From a path to the source that reads it, and from any source to encoded images."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from active_learning.config import setting
from active_learning.data import images
from active_learning.data.errors import DataError
from active_learning.data.sources import layouts, originals, paths
from active_learning.data.sources.array_record import ArrayRecords
from active_learning.data.sources.arrays import Arrays
from active_learning.data.sources.disk_section import DiskSection
from active_learning.data.sources.files import Files
from active_learning.data.sources.image_folder import ImageFolder
from active_learning.data.sources.listing import Listing
from active_learning.data.sources.parquet import Parquet
from active_learning.data.sources.source import Memory, Opened, SourceSection
from active_learning.data.sources.webdataset import WebDataset

BY_SUFFIX = {".array_record": ArrayRecords, ".tar": WebDataset, ".parquet": Parquet}


@dataclass(frozen=True)
class FromPath(DiskSection):
    """Whatever `path` is: tars, a table, a folder, Parquet, prepared shards.

    Its keys are those of these sources.
    """

    # Shards of the test set, as in WebDataset.
    test_path: str = setting("", hashed=False)
    image: str = ""  # column with the images, or their paths; '': one of the usual names
    # Folder that a table's paths are relative to.
    root: str = setting("", hashed=False)
    # Folder for the indices of shards, and for copies of at most `cache_gb` of what is read from
    # addresses; see `ShardSection`.
    cache: str = setting("", hashed=False)
    cache_gb: float = setting(32.0, at_least=0.0, at_most=1e6, hashed=False)
    reads_remote: ClassVar[bool] = True

    def listings(self) -> tuple[Listing, Listing | None]:
        return self._meant().listings()

    def open(self) -> Opened:
        self.check()
        return self._meant().open()

    def _meant(self) -> DiskSection:
        """The source for the path, with the keys that it has."""
        section = section_of(self.path)
        if not isinstance(section, DiskSection):
            raise DataError(
                f"config.data.path={self.path!r}: {type(section).__name__} in memory; use "
                f"configs/arrays.py, or prepare it first: "
                f"python -m active_learning.prepare {self.path} OUT"
            )
        known = {f.name for f in dataclasses.fields(section)}
        ours = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name in ("test_path", "image", "root"):
            if ours[name] and name not in known:
                raise DataError(
                    f"config.data.{name}={ours[name]!r}: {type(section).__name__} has no such key"
                )
        return dataclasses.replace(
            section, **{name: value for name, value in ours.items() if name in known}
        )


def section_of(path: str) -> SourceSection:
    """The source for a path. Raises DataError when nothing is there."""
    paths.check_kind(path, "path", remote=True)
    if paths.is_remote(path):
        return _in_bucket(path)
    there = paths.local(path)
    if there.is_file():
        return _by_suffix(path, ImageFolder)(path=path)
    if not there.is_dir():
        if there.exists():
            raise DataError(f"{path}: neither a file nor a folder")
        paths.files_of(path, "path")  # a pattern, or an error that names what is missing
        return _by_suffix(path, WebDataset)(path=path)
    if originals.are_in(there):
        return originals.Originals(path=path)
    if (there / "train.npz").exists() or (there / "train" / "image.npy").exists():
        return Arrays(path=path, clean_label="")
    try:
        for suffix, kind in BY_SUFFIX.items():
            if layouts.files_in(there, suffix):
                return kind(path=path)
        if not any(layouts.files_in(there, end) for end in (".csv", ".tsv", ".jsonl")):
            for suffix, kind in BY_SUFFIX.items():
                if layouts.shard_layout(there, suffix):
                    return kind(path=path)
        if layouts.files_in(there, ".tar.gz") or layouts.files_in(there, ".tgz"):
            return WebDataset(path=path)  # its error says what to do
    except OSError as error:
        raise DataError(f"{error.filename or path}: {error.strerror}") from error
    return ImageFolder(path=path)


def _in_bucket(path: str) -> SourceSection:
    """The source for an address of shards, a pattern of them, or a folder that holds some."""
    kind = _by_suffix(path, SourceSection)
    if kind is not SourceSection or paths.is_url(path):
        return _by_suffix(path, WebDataset)(path=path)
    for find in (layouts.files_in, layouts.shard_layout):
        for suffix, kind in BY_SUFFIX.items():
            if find(path, suffix):
                return kind(path=path)
    if layouts.files_in(path, ".tar.gz") or layouts.files_in(path, ".tgz"):
        return WebDataset(path=path)  # its error says what to do
    raise DataError(
        f"{path}: no tars, Parquet files or prepared shards there; folders of images and tables "
        f"are read from a disk: copy them, or prepare them first"
    )


def _by_suffix(path: str, other: type) -> type:
    name = path.lower()
    if name.endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")):
        return WebDataset
    return next((kind for suffix, kind in BY_SUFFIX.items() if name.endswith(suffix)), other)


def listings_of(section: Any) -> tuple[Listing, Listing | None]:
    """Training and test examples of any source, as encoded images. Raises DataError."""
    if isinstance(section, DiskSection):
        return section.checked_listings()
    opened = section.open()
    return encoded(opened.train), encoded(opened.test)


class _Encoded(Files):
    """Images in memory as lossless PNGs, made when asked for."""

    def __init__(self, source: Memory):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def read(self, row: int) -> bytes:
        return images.encode_png(np.asarray(self.source.image[row]))

    def name(self, row: int) -> str:
        return self.source.name(row)


def encoded(source: Memory) -> Listing:
    """A source in memory, all its label columns included.

    Raises DataError for another kind of source.
    """
    if not isinstance(source, Memory):
        raise DataError(
            f"config.data: {type(source).__name__} cannot be prepared; prepare its sources one by "
            f"one"
        )
    columns = {name: values.tolist() for name, values in source.label_columns.items()}
    kind = (source.about or {}).get("kind", "arrays")
    names = {"": source.class_names} if source.class_names else {}
    by = "place" if source.stored_ids is None else "stored"
    decisions = (source.about or {}).get("decisions", "")
    return Listing(
        _Encoded(source), columns, source.location, kind, names, source.ids, ids_by=by,
        decisions=decisions,
    )  # fmt: skip
