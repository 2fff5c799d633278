"""Shards: files of many examples each. Which there are, and one listing over all."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from active_learning.config import setting
from active_learning.data.errors import DataError
from active_learning.data.sources import buckets, catalog, contents, layouts, paths, remote
from active_learning.data.sources.cache import Cache
from active_learning.data.sources.catalog import Catalog, ShardOf, open_catalog
from active_learning.data.sources.disk_section import DiskSection
from active_learning.data.sources.files import Files, read_file
from active_learning.data.sources.index import Index
from active_learning.data.sources.listing import Listing
from active_learning.data.sources.paths import is_remote
from active_learning.data.sources.problems import LeftOut
from active_learning.data.sources.storage import Stored, open_file
from active_learning.storage.caches import user_cache

T = TypeVar("T")
U = TypeVar("U")
_AT_ONCE = 64  # shards whose indices are in memory while they are merged
MANIFEST = "manifest.json"  # that `prepare` writes beside its shards
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True)
class ShardSection(DiskSection):
    """Keys of all sources that are shards."""

    suffix: ClassVar[str] = ""
    reads_remote: ClassVar[bool] = True

    # Shards of the test set; '': those named test*, else val*, else a fraction is held out.
    test_path: str = setting("", hashed=False)
    # Folder for the indices; '': beside the shards, and in the user's cache where that cannot be.
    # Copies of what is read from addresses go there too.
    cache: str = setting("", hashed=False)
    # GB of these copies at most, the least recently read go first; 0: none are made.
    cache_gb: float = setting(32.0, at_least=0.0, at_most=1e6, hashed=False)

    def listing(self, paths: Sequence[str], notes: dict[str, str]) -> Listing:
        """One listing over shards. Raises DataError or OSError."""
        raise NotImplementedError

    def listings(self) -> tuple[Listing, Listing | None]:
        layout = find(self.path, "config.data.path", self.suffix)
        train, test, notes = layout.train, layout.test, dict(layout.notes)
        if self.test_path:
            paths.check_kind(self.test_path, "config.data.test_path", remote=True)
            judged = find(self.test_path, "config.data.test_path", self.suffix)
            test = judged.test or judged.train
        if twice := sorted(set(train) & set(test)):
            raise DataError(
                f"config.data.test_path={self.test_path!r}: {twice[0]} is also a shard of the "
                f"training set"
            )
        return self.listing(train, notes), self.listing(test, {}) if test else None

    def files(self, paths: Sequence[str], notes: dict[str, str]) -> Sequence[Stored]:
        """Opens shards; those behind addresses are read through the cache where that helps.

        Raises OSError, DataError or StorageError.
        """
        opened = each(paths, open_file)
        if not any(map(is_remote, paths)):
            return opened
        files, note = remote.with_cache(opened, self._copies, self.shuffle > 0)
        if note:
            notes[self.path] = note
        return files

    def joined(
        self, files: Sequence[Stored], opened: Callable[[Stored], Index], by: str
    ) -> "Joined":
        """One index over shards: in memory, or on the disk where they hold many examples.

        Args:
          files: The shards.
          opened: Returns the index of one of them.
          by: What ids are made of where none are stored: 'key' or 'place'.
        """
        first = opened(files[0])

        def indices() -> Iterator[Index]:
            yield first
            for start in range(1, len(files), _AT_ONCE):
                yield from each(files[start : start + _AT_ONCE], opened)

        if len(first.places) * len(files) > catalog.LARGE:
            one = open_catalog(files, self.cache, indices, by)
            if one is not None:
                return Joined(one.shard, one.index, one.ids, one.ids_by, one.left_out, one)
        every = list(indices())
        shard, index = join(every)

        def made() -> np.ndarray:
            if by == "place":
                return contents.ids_by_place(shard)
            return contents.ids_of_members([file.name for file in files], shard, index.keys)

        ids, ids_by, columns = ids_of(index.columns, by, made)
        bad, left_out = accounts(every)
        index = dataclasses.replace(index, columns=columns, bad=bad)
        return Joined(shard, index, ids, ids_by, left_out, None)

    @functools.cached_property
    def _copies(self) -> Cache | None:
        """The cache of both parts of the data; None where there is none."""
        if not self.cache_gb:
            return None
        folder = paths.local(self.cache) if self.cache else user_cache()
        return Cache(folder / "copies", int(self.cache_gb * 1e9))


class Joined(NamedTuple):
    """One index over all shards of a listing."""

    shard: np.ndarray | ShardOf
    index: Index
    ids: np.ndarray
    ids_by: str
    left_out: LeftOut
    catalog: Catalog | None

    def listing(
        self, files: Files, where: str, kind: str, first: str, notes: dict[str, str]
    ) -> Listing:
        """The listing of these files; `first` is the path of the first shard."""
        return Listing(
            files,
            self.index.columns,
            where,
            kind,
            class_names(first),
            self.ids,
            notes,
            self.left_out,
            self.index.bad,
            ids_by=self.ids_by,
            catalog=self.catalog,
        )


class Ids(NamedTuple):
    """Ids of a listing, what they are made of (`Listing.ids_by`), and its other columns."""

    ids: np.ndarray
    by: str
    columns: Mapping[str, Sequence[Any]]


def find(path: str, key: str, suffix: str) -> layouts.Layout:
    """Shards by part.

    A folder is searched (see `layouts.shard_layout`), also one of a bucket; a pattern or the
    address of a shard is all training examples.

    Raises:
      DataError: There are none, or several sets of them.
    """
    if is_remote(path):
        return _find_remote(path, key, suffix)
    there = paths.local(path)
    if not there.is_dir():
        if not there.exists() and not any(mark in path for mark in "*?[{"):
            raise DataError(f"{key}={path!r}: no {suffix} there{paths.hint(there)}")
        files = paths.files_of(path, key)
        _refuse_compressed(files, path, key, suffix)
        return layouts.Layout(tuple(files), (), {})
    layout = layouts.shard_layout(there, suffix)
    if layout is None:
        _refuse_compressed([str(file) for file in there.iterdir()], path, key, suffix)
        raise DataError(f"{key}={path!r}: no {suffix} there")
    if not layout.train:
        raise DataError(f"{key}={path!r}: {'; '.join(layout.notes.values())}")
    return layout


def _find_remote(path: str, key: str, suffix: str) -> layouts.Layout:
    """The same behind an address."""
    _refuse_compressed([path], path, key, suffix)
    if paths.is_url(path) or path.lower().endswith(suffix):
        files = [one for each in paths.expand(path, key) for one in buckets.matching(each)]
        if not files:
            raise DataError(f"{key}={path!r}: no object has such a name")
        return layouts.Layout(tuple(files), (), {})
    layout = layouts.shard_layout(path, suffix)
    if layout is None:
        _refuse_compressed(layouts.files_in(path, ""), path, key, suffix)
        raise DataError(f"{key}={path!r}: no {suffix} there")
    if not layout.train:
        raise DataError(f"{key}={path!r}: {'; '.join(layout.notes.values())}")
    return layout


def _refuse_compressed(files: Sequence[str], path: str, key: str, suffix: str) -> None:
    packed = [name for name in files if name.lower().endswith(_COMPRESSED)]
    if packed and suffix == ".tar":
        name = Path(packed[0]).name
        raise DataError(
            f"{key}={path!r}: {len(packed)} compressed tars ({name}), which cannot be read at "
            f"random; decompress them once, "
            f"e.g. gunzip {name}"
        )


def class_names(shard: str) -> dict[str, tuple[str, ...]]:
    """The class names, by column, that `prepare` left beside a shard; {} where it did not."""
    try:
        if is_remote(shard):
            blob = remote.read_optional(f"{shard.rpartition('/')[0]}/{MANIFEST}")
        else:
            blob = read_file(str(Path(shard).parent / MANIFEST))
        found = json.loads(blob)["class_names"]
        if isinstance(found, list):
            found = {"": found}
        return {str(column): tuple(map(str, names)) for column, names in found.items() if names}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def columns_of(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """A dict a row to a list a name."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def join(indices: Sequence[Index]) -> tuple[np.ndarray, Index]:
    """The shard of each example, and one index over all."""
    counts = [len(index.places) for index in indices]
    names = dict.fromkeys(name for index in indices for name in index.columns)

    def values(name: str) -> list[Any]:
        return [
            v
            for index, n in zip(indices, counts, strict=True)
            for v in index.columns.get(name, [None] * n)
        ]

    keys = [key for index in indices for key in index.keys]
    places = np.concatenate([index.places for index in indices])
    return np.repeat(np.arange(len(indices)), counts), Index(
        keys, {name: values(name) for name in names}, places
    )


def accounts(indices: Sequence[Index]) -> tuple[dict[int, str], LeftOut]:
    """Bad examples by row over all shards, and what was left out."""
    bad, left_out, start = {}, LeftOut(), 0
    for index in indices:
        bad |= {start + row: why for row, why in index.bad.items()}
        left_out.merge(LeftOut(index.left_out, index.names))
        start += len(index.places)
    return bad, left_out


def ids_of(columns: Mapping[str, Sequence[Any]], by: str, made: Callable[[], np.ndarray]) -> Ids:
    """The stored ids; where there are none, ids `made` of the content named by `by`.

    Where some examples have a stored id, the others keep what is made, with bit 47 set.
    """
    others = {name: values for name, values in columns.items() if name != "id"}
    stored, has = contents.stored_ids(columns.get("id", []))
    if has.all() and len(has):
        return Ids(stored, "stored", others)
    ids = made()
    if has.any():
        ids = np.where(has, stored, contents.beside_stored(ids))
    return Ids(ids, by, others)


def each(of: Sequence[T], one: Callable[[T], U]) -> list[U]:
    """Applies `one` to each shard, several at a time, and keeps their order."""
    with ThreadPoolExecutor(16, "index") as pool:
        return list(pool.map(one, of))
