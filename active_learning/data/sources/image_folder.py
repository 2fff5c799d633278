"""Images in a folder for each class, or in a table with a path and a label or caption an image."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from active_learning.config import setting
from active_learning.data import classes, images, text
from active_learning.data.errors import DataError
from active_learning.data.sources import contents, layouts, paths, tables
from active_learning.data.sources.disk_section import DiskSection
from active_learning.data.sources.files import open_regular
from active_learning.data.sources.listing import Listing
from active_learning.data.sources.problems import LeftOut
from active_learning.data.sources.shards import MANIFEST
from active_learning.data.sources.tables import Paths, read_table

METADATA = (
    "metadata.jsonl",
    "metadata.csv",
)  # that Hugging Face's imagefolder has beside the pictures
_USUAL = tuple(
    s for s in images.SUFFIXES if s not in (".jfif", ".jpe", ".avif", ".heic", ".heif")
)  # taken at their word
_NESTED = 3  # folders in a row that hold nothing but another folder
# Files of other sources, and the config that reads them.
_SHARDS = {".array_record": "array_record", ".tar": "webdataset", ".parquet": "parquet"}
_DECODER = {".heic": "pillow-heif", ".heif": "pillow-heif", ".avif": "pillow-avif-plugin"}


@dataclass(frozen=True)
class ImageFolder(DiskSection):
    """Images in class folders, or listed by a table.

    `path`: a folder of class folders, a folder with `train` and `test` (or `val`) of those in any
    usual spelling, a table, or a folder of train and test tables.

    Classes are the folders' names, or the labels of the table, by the rule of data/classes.py.
    Paths in a table are relative to it. An id is a hash of the file's bytes, so it survives adding,
    removing, moving and renaming files; copies of one file are told apart by the order of names.
    """

    image: str = ""  # column of a table with the images' paths; '': one of the usual names
    # Folder that a table's paths are relative to; '': the table's, or one in it that holds them.
    root: str = setting("", hashed=False)

    def listings(self) -> tuple[Listing, Listing | None]:
        train, test = self._listings()
        return _with_ids(train), None if test is None else _with_ids(test)

    def _listings(self) -> tuple[Listing, Listing | None]:
        root = paths.local(self.path)
        if root.is_file():
            return self._table(root), None
        if not root.is_dir():
            what = (
                "neither a file nor a folder" if os.path.lexists(root) else "no such file or folder"
            )
            raise DataError(f"config.data.path={self.path!r}: {what}{paths.hint(root)}")
        return self._folder(_inside(root))

    def _folder(self, root: Path) -> tuple[Listing, Listing | None]:
        parts, notes = _parts(root)
        if "train" not in parts:
            if metadata := _metadata(root):
                return self._table(metadata), None
            return list_classes(root), None
        train, test = self._part(parts["train"]), None
        if (judged := parts.get("test") or parts.get("val")) is not None:
            test = self._part(judged)
        return replace(train, notes={**notes, **train.notes}), test

    def _part(self, there: Path) -> Listing:
        """A table, a folder with a metadata file, or a folder of class folders."""
        if there.is_file():
            return self._table(there)
        there = _inside(there)
        if metadata := _metadata(there):
            return self._table(metadata)
        return list_classes(there)

    def _table(self, file: Path) -> Listing:
        return read_table(file, self.image, self.root)


def _with_ids(listing: Listing) -> Listing:
    ids = contents.file_ids(listing.files, listing.where)
    return replace(listing, ids=ids, ids_by="bytes")


def _metadata(folder: Path) -> Path | None:
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def _inside(root: Path) -> Path:
    """Returns `root`, or the folder in it that is all it holds, as deep as that goes."""
    for _ in range(_NESTED):
        names = layouts.folders_in(root)
        if len(names) != 1 or layouts.part_of(names[0]) or _metadata(root) or _tables(root):
            return root
        below = layouts.folders_in(root / names[0])
        if not below or _has_images(root / names[0]):
            return root
        root = root / names[0]
    return root


def _tables(root: Path) -> dict[str, Path]:
    """The tables in a folder that are named by part."""
    found: dict[str, Path] = {}
    for entry in sorted(os.scandir(root), key=lambda e: e.name):
        if tables.is_table(entry.name) and not layouts.is_ignored(entry.name) and entry.is_file():
            part = layouts.part_of(entry.name.lower().removesuffix(".gz").rpartition(".")[0])
            if part:
                found.setdefault(part, Path(entry.path))
    return found


def _parts(root: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """The table or folder of each part, and notes on what is not used."""
    parts: dict[str, Path] = {}
    folders = layouts.folders_in(root)
    named = {name: part for name in folders if (part := layouts.part_of(name))}
    flat = [name for name in folders if name not in named and _has_images(root / name)]
    notes = {}
    for name, part in named.items():
        if len(flat) >= 2 and _is_flat(root / name):
            continue  # a class beside other classes that happens to be called 'train'
        if part in parts:
            raise DataError(
                f"{root}: {parts[part].name!r} and {name!r} are both named as the {part} set; give "
                f"one of them"
            )
        parts[part] = root / name
    for part, table in _tables(root).items():
        if part in parts:
            notes[f"{parts[part].name}/"] = f"its labels are read from {table.name}"
        parts[part] = table
    if "train" in parts:
        rest = [name for name in folders if name not in named and name not in ("images", "Images")]
        if rest:
            notes[str(root)] = (
                f"folders beside the parts are not used: {', '.join(map(text.printable, rest[:5]))}"
            )
        if "test" in parts and "val" in parts:
            notes[text.printable(parts["val"].name)] = (
                "a validation set beside the test set is not used"
            )
    elif parts and not flat:
        names = ", ".join(there.name for there in parts.values())
        raise DataError(
            f"{root}: {names} but no training set (train, training); give the folder of the "
            f"training set as data.path"
        )
    return parts, notes


def _has_images(folder: Path) -> bool:
    """Whether there is an image directly in a folder."""
    with os.scandir(folder) as entries:
        return any(
            e.name.lower().endswith(images.SUFFIXES)
            and not layouts.is_ignored(e.name)
            and e.is_file()
            for e in entries
        )


def _is_flat(folder: Path) -> bool:
    """Whether a folder holds images and no folders."""
    return _has_images(folder) and not layouts.folders_in(folder)


def list_classes(root: Path) -> Listing:
    """One class a folder; images at any depth below it.

    Raises DataError where the folders are no classes.
    """
    folders = [name for name in layouts.folders_in(root)]
    if not folders:
        _refuse_shards(root)
        flat = " but images" if _has_images(root) else ""
        raise DataError(
            f"{root}: no class folders in it{flat} (and no train, train.csv, train.jsonl or "
            f"metadata.csv): put the images of each "
            f"class in a folder of their own, or give a table (.csv, .jsonl) with a path and a "
            f"label an image"
        )
    _refuse_parts(root, folders)
    names = classes.ordered({text.printable(classes.name_of(name) or name) for name in folders})
    files, labels, notes, left_out = [], [], {}, LeftOut()
    total = 0
    for name in folders:
        listed = sorted(_images_below(str(root), name, left_out))
        files += listed
        labels += [name] * len(listed)
        total += len(listed)
        if not listed:
            notes[f"{text.printable(name)}/"] = "class without images"
    if skipped := [
        e.name
        for e in os.scandir(root)
        if e.is_dir() and not layouts.is_ignored(e.name) and layouts.is_output(e.path)
    ]:
        notes[str(root)] = f"not read, written by this program: {', '.join(sorted(skipped))}"
    return Listing(
        Paths(str(root), files),
        {"label": labels},
        str(root),
        "image_folder",
        {"label": names},
        notes=notes,
        left_out=left_out,
    )


def _refuse_shards(root: Path) -> None:
    """DataError where a folder holds shards, which another config reads."""
    for suffix, config in _SHARDS.items():
        if found := layouts.files_in(root, suffix):
            written = " of `prepare`" if (root / MANIFEST).is_file() else ""
            raise DataError(
                f"{root}: holds shards{written} ({text.printable(os.path.basename(found[0]))}) and "
                f"no class folders: use --config=configs/{config}.py --config.data.path={root}"
            )


def _refuse_parts(root: Path, folders: list[str]) -> None:
    """DataError where the folders are parts of a data set and no classes."""
    parts = [name for name in folders if layouts.part_of_shard(name)]
    if parts and (len(parts) == len(folders) or any(not _is_flat(root / name) for name in parts)):
        raise DataError(
            f"{root}: {', '.join(map(text.printable, parts[:3]))} would be a class, but looks like "
            f"a part of a data set: "
            "give its folder as data.path, or name the parts train and test"
        )


def _images_below(
    root: str, folder: str, left_out: LeftOut, above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[str]:
    """Yields the images below `folder`, as paths relative to `root`, and counts other files.

    A file is an image by its suffix; without a usual suffix by its first bytes. Links to folders
    are followed, but not to one of those `above`, (device, inode) of each.
    """
    place = os.path.join(root, folder)
    above |= {_identity(root), _identity(place)}
    with os.scandir(place) as entries:
        for entry in entries:
            below = f"{folder}/{entry.name}"
            suffix = os.path.splitext(entry.name)[1].lower()
            if layouts.is_ignored(entry.name) or entry.name in ("Thumbs.db", "desktop.ini"):
                continue
            if entry.is_dir():
                if entry.is_symlink() and _identity(entry.path) in above:
                    left_out.add("links lead to a folder that they are in", below)
                elif not layouts.is_output(entry.path):
                    yield from _images_below(root, below, left_out, above)
            elif not entry.is_file() and os.path.exists(entry.path):
                left_out.add("entries are no regular files", below)
            elif suffix in _USUAL or (
                (suffix in images.SUFFIXES or not 2 <= len(suffix) <= 5) and _is_image(entry.path)
            ):  # also a link to a file that is gone: a bad example
                yield below
            else:
                left_out.add(_kind(suffix), below)


def _identity(folder: str) -> tuple[int, int]:
    """Device and inode of a folder, the same by whichever path."""
    state = os.stat(folder)
    return state.st_dev, state.st_ino


def _kind(suffix: str) -> str:
    if suffix in images.SUFFIXES:
        return f"files named {suffix} are ignored, they are no images by their content"
    if suffix in _DECODER:
        return f"files are {suffix} (pip install {_DECODER[suffix]} to read them)"
    return (
        f"files are {suffix}, no kind of image that is read"
        if suffix
        else "files without a suffix are no images"
    )


def _is_image(path: str) -> bool:
    """Whether a file begins as an image does."""
    try:
        with open(open_regular(path), "rb") as file:
            return images.is_known(file.read(16))
    except OSError:
        return False
