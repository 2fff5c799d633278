"""One index over many shards, on the disk, through which a set of millions of examples is opened.

It is merged from the indices of the shards, a few at a time, so that no list of all examples is
ever in memory, and then mapped. It lies beside the shards in a folder `.catalog-HASH` (or in
`cache`, or in the user's cache), with arrays that follow from it, such as the parts of a split.
"""

import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Integer

from active_learning.data import text
from active_learning.data.sources import contents, index
from active_learning.data.sources.columns import ColumnWriter, map_at_random, map_file, open_column
from active_learning.data.sources.files import read_file
from active_learning.data.sources.index import Index
from active_learning.data.sources.paths import is_remote
from active_learning.data.sources.problems import LeftOut

LOG = logging.getLogger("active_learning")
LARGE = 100_000  # examples, as far as the first shard tells, above which a set has a catalog
FORMAT = 1
_ABOUT, _KEPT = "about.json", "arrays"
_WRITTEN = ("places", "ids", "has", "made")
_MOST = 1 << 30  # bytes of about.json


class ShardOf:
    """The shard of each example, as an array that takes no memory for each."""

    def __init__(self, starts: Int64[np.ndarray, "m"]):
        self._starts = starts

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, rows: Any) -> Any:
        return np.searchsorted(self._starts, rows, side="right") - 1


@dataclass(frozen=True, eq=False)
class Catalog:
    """An index over many shards, and where arrays that follow from it are kept."""

    folder: Path
    index: Index
    shard: ShardOf
    ids: np.ndarray
    ids_by: str
    # Rows whose id an earlier row has.
    repeated: tuple[int, ...]
    left_out: LeftOut
    # A hash of ids, names and columns.
    digest: str

    def kept(
        self, key: str, make: Callable[[], Mapping[str, np.ndarray]]
    ) -> Mapping[str, np.ndarray]:
        """Arrays that follow from the catalog and `key`: made once, then mapped into memory."""
        place = self.folder / _KEPT / hashlib.sha256(key.encode()).hexdigest()[:24]
        if place.is_dir():
            try:
                return _loaded(place)
            except (OSError, ValueError, EOFError):
                LOG.info("%s: damaged; made anew", place)
                shutil.rmtree(place, ignore_errors=True)
        arrays, part = make(), _beside(place)
        try:
            part.mkdir(parents=True)
            for name, values in arrays.items():
                np.save(part / f"{name}.npy", values, allow_pickle=False)
            _install(part, place)
            return _loaded(place)
        except OSError as error:
            LOG.info("%s: not kept (%s)", place, error.strerror)
            shutil.rmtree(part, ignore_errors=True)
            return arrays


def _loaded(place: Path) -> dict[str, np.ndarray]:
    def one(file: Path) -> np.ndarray:
        mode = "r" if file.stat().st_size > 4096 else None  # an empty array cannot be mapped
        return np.load(file, mmap_mode=mode, allow_pickle=False)

    return {file.stem: one(file) for file in sorted(place.glob("*.npy"))}


def open_catalog(
    shards: Sequence[Any],
    cache: str,
    indices: Callable[[], Iterable[Index]],
    by: str,
) -> Catalog | None:
    """The catalog of a set of shards, made where there is none that fits.

    Args:
      shards: The files (`storage.Stored`).
      cache: Folder for indices; '': beside the shards, or in the user's cache.
      indices: Returns the index of each shard, in their order.
      by: What an id is made of where none is stored: 'key' or 'place'.

    Returns:
      None where it can be written nowhere.
    """
    stamp = hashlib.sha256(f"{FORMAT} {index.FORMAT} {by}".encode())
    for shard in shards:
        stamp.update(text.encoded(f"{shard.name.rpartition('/')[2]} {shard.stamp}\n"))
    folders = list(_folders([shard.name for shard in shards], cache))
    for folder in folders:
        try:
            return _open(folder, stamp.hexdigest())
        except FileNotFoundError:
            continue
        except index.DAMAGED as error:
            LOG.info("%s: of other shards, or damaged (%s); made anew", folder, error)
    for folder in folders:
        part = _beside(folder)
        try:
            part.mkdir(parents=True)
        except OSError:
            continue
        LOG.info("%s: the indices of %d shards are merged, once", folder, len(shards))
        try:
            names = [shard.name.rpartition("/")[2] for shard in shards]
            _Building(part, names, by).build(indices(), stamp.hexdigest())
            _install(part, folder)
            return _open(folder, stamp.hexdigest())
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return None


def _folders(names: Sequence[str], cache: str) -> Iterator[Path]:
    """Yields where the catalog may be, as `index` does for one shard."""
    first = names[0] if is_remote(names[0]) else os.path.abspath(names[0])
    digest = hashlib.sha256(text.encoded("\n".join([first, *map(os.path.basename, names)])))
    name = f"catalog-{digest.hexdigest()[:16]}"
    # Hidden beside the shards, so that nobody takes it for data.
    yield from index.places(first, cache, f".{name}", name)


def _beside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.{os.getpid()}.{threading.get_ident()}.part")


def _install(part: Path, folder: Path) -> None:
    """Puts a complete folder in its place; another process may have done so before."""
    old = part.with_name(f"{part.name}.old")
    try:
        if folder.exists():
            os.rename(folder, old)  # mapped by nobody but who opened it before, and goes on
        os.rename(part, folder)
    except OSError:
        if not folder.is_dir():
            raise
    shutil.rmtree(old, ignore_errors=True)


def _open(folder: Path, stamp: str) -> Catalog:
    """Raises one of `index.DAMAGED`."""
    about = json.loads(read_file(str(folder / _ABOUT), _MOST))
    if about["stamp"] != stamp:
        raise ValueError("another stamp")
    count, width = int(about["examples"]), int(about["width"])

    def column(stored: Mapping[str, Any]) -> Any:
        return open_column(folder, stored["file"], stored, count)

    starts = map_file(folder / "starts", np.int64, int(about["shards"]) + 1)
    if starts[0] != 0 or starts[-1] != count or (np.diff(starts) < 0).any():
        raise ValueError("shards do not follow each other")
    merged = Index(
        column(about["keys"]) if about["keys"] else [],
        {name: column(stored) for name, stored in about["columns"].items()},
        map_at_random(folder / "places", np.int64, count * width).reshape(-1, width),
        {int(row): str(why) for row, why in about["bad"].items()},
    )
    return Catalog(
        folder,
        merged,
        ShardOf(np.array(starts)),
        map_at_random(folder / "ids", np.int64, count),
        str(about["ids_by"]),
        tuple(int(row) for row in about["repeated"]),
        LeftOut(about["left_out"], about["names"]),
        str(about["digest"]),
    )


class _Building:
    """Writes a catalog, shard by shard."""

    def __init__(self, folder: Path, names: Sequence[str], by: str):
        self.folder, self.names, self.by, self.count = folder, names, by, 0
        self.starts, self.left_out = [0], LeftOut()
        self.bad: dict[int, str] = {}
        self.columns: dict[str, ColumnWriter] = {}
        self.files: dict[str, str] = {}
        self.keys: ColumnWriter | None = None
        self.width, self.stored = 0, 0
        self.written = {n: (folder / n).open("wb") for n in _WRITTEN}

    def build(self, indices: Iterable[Index], stamp: str) -> None:
        for one in indices:
            self._add(one)
        for file in self.written.values():
            file.close()
        np.array(self.starts, np.int64).tofile(self.folder / "starts")
        columns = {
            name: writer.close() | {"file": self.files[name]}
            for name, writer in self.columns.items()
        }
        keys = None if self.keys is None else self.keys.close() | {"file": "keys"}
        ids_by, repeated = self._finish_ids(keys)
        about = {
            "stamp": stamp,
            "examples": self.count,
            "shards": len(self.starts) - 1,
            "width": self.width,
            "ids_by": ids_by,
            "repeated": repeated,
            "keys": keys,
            "columns": columns,
            "bad": {str(row): why for row, why in self.bad.items()},
            "left_out": self.left_out.counts,
            "names": self.left_out.names,
            "digest": self._digest(columns),
        }
        (self.folder / _ABOUT).write_text(json.dumps(about))

    def _add(self, one: Index) -> None:
        count = len(one.places)
        self.width = one.places.shape[1]
        self.written["places"].write(np.ascontiguousarray(one.places, np.int64).tobytes())
        self._add_ids(one)
        if one.keys:
            if self.keys is None:
                self.keys = ColumnWriter(self.folder, "keys")
            self.keys.add(one.keys)
        for name, values in one.columns.items():
            if name == "id":
                continue
            if name not in self.columns:
                self.files[name] = f"column-{len(self.files)}"
                self.columns[name] = ColumnWriter(self.folder, self.files[name])
                self.columns[name].add_missing(self.count)
            self.columns[name].add(values)
        for name in self.columns.keys() - one.columns.keys():
            self.columns[name].add_missing(count)
        self.bad |= {self.count + row: why for row, why in one.bad.items()}
        self.left_out.merge(LeftOut(one.left_out, one.names))
        self.count += count
        self.starts.append(self.count)

    def _add_ids(self, one: Index) -> None:
        """Stored ids, and those that are made where none is stored."""
        ids, has = contents.stored_ids(one.columns.get("id", [None] * len(one.places)))
        if self.by == "key":
            made = np.array([contents.hash48(key) for key in one.keys], np.int64).reshape(-1)
        else:
            made = contents.ids_by_place(np.full(len(has), len(self.starts) - 1))
        self.stored += int(has.sum())
        for name, values in (("ids", ids), ("has", has), ("made", made)):
            self.written[name].write(values.tobytes())

    def _finish_ids(self, keys: dict[str, Any] | None) -> tuple[str, list[int]]:
        """Puts made ids where none are stored, distinct ones where they are made of keys.

        Returns:
          What ids are made of, and the rows whose id an earlier row has.
        """
        ids = map_file(self.folder / "ids", np.int64, self.count, "r+")
        if self.stored < self.count:
            made = map_file(self.folder / "made", np.int64, self.count, "r+")
            if keys is not None:
                rows = shared(made)
                names = open_column(self.folder, "keys", keys, self.count)
                shard = ShardOf(np.array(self.starts, np.int64))[rows]
                made[rows] = contents.ids_of_members(
                    self.names, shard, [names[row] for row in rows.tolist()]
                )
            if self.stored:
                made[:] = contents.beside_stored(made)
            has = map_file(self.folder / "has", np.bool_, self.count)
            np.copyto(ids, made, where=~has)
        for name in ("has", "made"):
            (self.folder / name).unlink()
        rows = shared(ids)
        _, first = np.unique(ids[rows], return_index=True)
        by = "stored" if self.stored == self.count else self.by
        return by, np.delete(rows, first).tolist()

    def _digest(self, columns: Mapping[str, Any]) -> str:
        digest = hashlib.sha256(json.dumps(columns, sort_keys=True).encode())
        digest.update(text.encoded("\n".join(self.names)))
        for file in sorted(self.folder.iterdir()):
            if file.name == "places":
                continue  # where bytes are is no part of what they are
            digest.update(file.name.encode())
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        return digest.hexdigest()


def shared(ids: Integer[np.ndarray, "n"]) -> Int64[np.ndarray, "k"]:
    """Places of ids that occur more than once, ascending."""
    order = np.argsort(ids, kind="stable")
    same = ids[order][1:] == ids[order][:-1]
    return np.unique(np.concatenate([order[1:][same], order[:-1][same]]))
