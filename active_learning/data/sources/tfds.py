"""TensorFlow Datasets in the ArrayRecord format, read and written without TensorFlow."""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from active_learning.config import setting
from active_learning.data import classes, images, text
from active_learning.data.errors import DataError
from active_learning.data.sources import contents, paths, shards
from active_learning.data.sources.disk_section import DiskSection
from active_learning.data.sources.files import Files
from active_learning.data.sources.index import Index, open_index
from active_learning.data.sources.listing import Listing

VERSIONS = {
    "fashion_mnist": "3.0.1",
    "cifar10": "3.0.2",
}  # of the catalogue; what `prepare` can make from their original files
INFO = "dataset_info.json"


@dataclass(frozen=True)
class Tfds(DiskSection):
    """The set `name` (NAME or NAME/CONFIG) prepared under `path`; '' as `version`: the newest.

    Columns are its class labels, integers and texts. An id is the feature `id` where there is one,
    else a hash of the image's bytes.
    """

    path: str = setting("~/tensorflow_datasets", hashed=False)
    name: str = ""
    version: str = ""
    train_split: str = "train"
    test_split: str = "test"  # '': none, or not there: a share is held out
    image: str = "image"
    cache: str = setting("", hashed=False)  # folder for the indices; '': beside the records

    def listings(self) -> tuple[Listing, Listing | None]:
        folder = (
            self._folder()
        )  # before the library is imported, so that nothing is ever looked for in the network
        from tensorflow_datasets.core.read_only_builder import builder_from_directory

        try:
            builder = builder_from_directory(folder)
        except (ValueError, KeyError, OSError) as error:
            raise DataError(
                f"{folder}: not a readable data set ({' '.join(str(error).split())[:200]})"
            ) from error
        kind = builder.info.file_format
        if kind is None or kind.value != "array_record":
            raise DataError(f"{folder}: in the format {kind and kind.value}; expected array_record")
        splits = builder.info.splits
        if self.train_split not in splits:
            raise DataError(
                f"config.data.train_split={self.train_split!r}: {folder} has {', '.join(splits)}"
            )
        test = (
            self._listing(builder, folder, self.test_split) if self.test_split in splits else None
        )
        return self._listing(builder, folder, self.train_split), test

    def _folder(self) -> Path:
        root = paths.local(self.path)
        if not self.name:
            raise DataError(
                f"config.data.name='': which of the sets in {root}? there are: {_listed(root)}"
            )
        folders = [info.parent for info in (root / self.name).glob(f"{self.version or '*'}/{INFO}")]
        if not folders:
            folder = "FOLDER_OF_ITS_ORIGINAL_FILES"
            how = f"python -m active_learning.prepare {folder} {root} --tfds={self.name}"
            if self.name not in VERSIONS:
                make = f"tfds.builder({self.name!r}, data_dir={str(root)!r}"
                how = f"{make}, file_format='array_record').download_and_prepare()"
                how += " where TensorFlow is installed"
            raise DataError(
                f"config.data.name={self.name!r}: not prepared in {root} (there are: "
                f"{_listed(root)}); run {how}"
            )
        return max(
            folders,
            key=lambda folder: tuple(
                int(part) for part in folder.name.split(".") if part.isdigit()
            ),
        )

    def _listing(self, builder: Any, folder: Path, split: str) -> Listing:
        from tensorflow_datasets import decode, features

        known = dict(builder.info.features.items())
        if not isinstance(known.get(self.image), features.Image):
            there = (
                ", ".join(name for name, kind in known.items() if isinstance(kind, features.Image))
                or "none"
            )
            raise DataError(
                f"config.data.image={self.image!r}: no image feature of {folder}; there are: "
                f"{there}"
            )
        records = builder.as_data_source(split, decoders={self.image: decode.SkipDecoding()})
        stamp = " ".join(
            f"{f.name} {f.stat().st_size} {f.stat().st_mtime_ns}"
            for f in sorted(folder.glob(f"*-{split}.*"))
        )
        wanted = [n for n, kind in known.items() if n != self.image and _is_column(kind)]
        index = open_index(
            f"{folder / split}",
            stamp,
            self.cache,
            lambda: _make_index(records, wanted),
            columns=1,
            size=0,
        )
        where = f"{self.name}:{split}"
        version = contents.digest(text.encoded(f"{folder} {stamp}"))
        files = _Records(records, self.image, where, version)
        ids, by, columns = shards.ids_of(
            index.columns, "bytes", lambda: contents.file_ids(files, str(folder / split))
        )
        names = {
            n: tuple(kind.names)
            for n, kind in known.items()
            if isinstance(kind, features.ClassLabel)
        }
        return Listing(files, columns, where, "tfds", names, ids, ids_by=by)


def _listed(root: Path) -> str:
    names = sorted(
        {
            "/".join(f.relative_to(root).parts[:-2])
            for n in (2, 3)
            for f in root.glob("*/" * n + INFO)
        }
    )
    return ", ".join(names) or "none"


def _is_column(kind: Any) -> bool:
    """One integer or text an example, or a sequence of texts."""
    from tensorflow_datasets import features

    if isinstance(kind, features.Sequence):
        kind = kind.feature
    if not isinstance(kind, features.Tensor) or kind.shape != ():
        return False
    dtype = kind.np_dtype
    if isinstance(dtype, dict):  # declared for features of several arrays
        return False
    return np.issubdtype(dtype, np.integer) or np.dtype(dtype) == object


def _make_index(records: Any, wanted: list[str]) -> Index:
    rows = []
    for place in range(len(records)):
        try:
            fields = records[place]
        except Exception:  # of several libraries; counted by name when label or image is read
            fields = {}
        rows.append({name: _plain(fields[name]) for name in wanted if name in fields})
    return Index([], shards.columns_of(rows), np.arange(len(rows))[:, None])


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list | tuple | np.ndarray) and np.ndim(value):
        return [_plain(v) for v in value]
    return value.item() if isinstance(value, np.generic | np.ndarray) else value


@dataclass(frozen=True, eq=False)
class _Records(Files):
    """Encoded images of one split."""

    records: Any
    image: str
    where: str
    version: str  # of the split's files

    def __len__(self) -> int:
        return len(self.records)

    def read(self, row: int) -> bytes:
        try:
            return self.records[row][self.image]
        except Exception as error:  # of several libraries, a damaged record must cost one example
            raise OSError(
                f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            ) from error

    def name(self, row: int) -> str:
        return f"{self.where} {row}"

    def stamp(self, row: int) -> str:
        return f"{self.version} {row}"


def write(name: str, train: Listing, test: Listing | None, root: Path) -> Path:
    """Writes a TFDS set under `root`, as ArrayRecord files with encoded images.

    `tfds.data_source(NAME, data_dir=ROOT)` reads it.

    Raises DataError for an image that cannot be decoded.
    """
    import tensorflow_datasets as tfds

    folder = root / name / VERSIONS.get(name, "1.0.0")
    if folder.exists():
        raise DataError(f"{folder}: is there already")
    builder = _builder(tfds, name, train, test)(data_dir=str(root), file_format="array_record")
    with contextlib.redirect_stdout(None):
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    return folder


def _builder(tfds: Any, name: str, train: Listing, test: Listing | None) -> type:
    """A builder of encoded images: such images need no TensorFlow, arrays would."""
    parts = {"train": train} | ({"test": test} if test is not None else {})
    plain = [
        c
        for c, values in train.columns.items()
        if c != "label" and all(type(v) in (int, str) for v in values)
    ]
    columns = {
        c: np.int64 if type(train.columns[c][0]) is int else tfds.features.Text() for c in plain
    }
    if "label" in train.columns:
        columns["label"] = tfds.features.ClassLabel(names=_label_names(train))
    first = train.files.read(0)
    channels = 1 if images.is_gray(first) else 3
    encoding = "png" if images.suffix(first) == ".png" else "jpeg"
    image = tfds.features.Image(shape=(None, None, channels), encoding_format=encoding)

    def examples(listing: Listing) -> Iterator[tuple[int, dict[str, Any]]]:
        ids = listing.ids if listing.ids is not None else itertools.count()
        for row, i in zip(range(len(listing.files)), ids, strict=False):
            if row in listing.dropped:
                continue
            blob = listing.files.read(row)
            try:
                images.decode(blob)
            except images.BadImage as error:
                raise DataError(f"{listing.files.name(row)}: {error}") from error
            yield (
                int(i),
                {"id": int(i), "image": blob} | {c: listing.columns[c][row] for c in columns},
            )

    with tfds.core.registered.skip_registration():

        class Builder(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version(VERSIONS.get(name, "1.0.0"))
            pkg_dir_path = None

            def _info(self):
                features = tfds.features.FeaturesDict({"id": np.int64, "image": image} | columns)
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, downloads):
                del downloads
                return {part: self._generate_examples(listing) for part, listing in parts.items()}

            def _generate_examples(self, listing):
                return examples(listing)

    Builder.name = name
    return Builder


def _label_names(listing: Listing) -> list[str]:
    """Class names by the rule of data/classes.py."""
    if names := listing.names_of(["label"]):
        return list(names)
    return list(
        classes.of_labels(listing.columns["label"], 0, f"{listing.where}: column 'label'").names
    )
