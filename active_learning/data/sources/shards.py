"""Shards: files of many examples each. Which there are, and an index of each that is made once and kept."""

import glob
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from active_learning.data.sources import storage
from active_learning.data.sources.on_disk import DiskSection
from active_learning.data.sources.source import DataError

LOG = logging.getLogger("active_learning")
T, U = TypeVar("T"), TypeVar("U")
FORMAT = 2  # of the index
MANIFEST = "manifest.json"  # that `prepare` writes beside its shards


@dataclass(frozen=True)
class Index:
    """What is in one shard, in its order: names, columns (None: missing) and places (whatever the reader needs to find the bytes)."""

    keys: list[str]
    columns: dict[str, list[Any]]
    places: np.ndarray  # (n, k) int64


@dataclass(frozen=True)
class ShardSection(DiskSection):
    """Keys of all sources that are shards."""

    test_path: str = ""  # shards of the test set, '': those of the folder named test*, else val*, else a share is held out
    cache: str = ""  # folder for the indices; '': beside the shards, and in the user's cache where that cannot be

    def shards(self, suffix: str) -> tuple[list[str], list[str]]:
        """Files of the training and of the test set (empty: none of their own), sorted by name."""
        train, test = find(self.path, "config.data.path", suffix), []
        if self.test_path:
            test = find(self.test_path, "config.data.test_path", suffix)
        elif Path(self.path).expanduser().is_dir() and any(
            Path(file).name.startswith("train") for file in train
        ):
            named = lambda start: [file for file in train if Path(file).name.startswith(start)]
            train, test = named("train"), named("test") or named("val")
        return train, test


def find(path: str, key: str, suffix: str) -> list[str]:
    """Files with a suffix in a folder, or by a pattern, or URLs with a range in braces. Raises DataError when there is none."""
    if storage.is_url(path):
        return storage.expand(path)
    there = Path(path).expanduser()
    found = (
        sorted(str(file) for file in there.glob(f"*{suffix}"))
        if there.is_dir()
        else sorted(glob.glob(str(there)))
    )
    if not found:
        raise DataError(f"{key}={path!r}: no {suffix} there")
    return found


def class_names(shard: str) -> tuple[str, ...]:
    """The names that `prepare` left beside a shard, in the order of the classes; () where it did not."""
    try:
        return tuple(json.loads((Path(shard).parent / MANIFEST).read_text())["class_names"])
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def columns_of(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """A dict a row to a list a name."""
    return {
        name: [row.get(name) for row in rows]
        for name in dict.fromkeys(name for row in rows for name in row)
    }


def join(indices: Sequence[Index]) -> tuple[np.ndarray, Index]:
    """The shard of each example, and one index over all."""
    counts = [len(index.places) for index in indices]
    names = dict.fromkeys(name for index in indices for name in index.columns)
    columns = {
        name: [
            value
            for index, n in zip(indices, counts, strict=True)
            for value in index.columns.get(name, [None] * n)
        ]
        for name in names
    }
    keys = [key for index in indices for key in index.keys]
    return np.repeat(np.arange(len(indices)), counts), Index(
        keys, columns, np.concatenate([i.places for i in indices])
    )


def ids_of(shard: np.ndarray, columns: dict[str, list[Any]]) -> np.ndarray:
    """Shard << 32 | place in the shard, or the stored ids where there are some (an example without one then gets 1 << 47 | the former)."""
    place = np.arange(len(shard)) - np.searchsorted(shard, shard)
    counted = (shard.astype(np.int64) << np.int64(32)) | place
    has = np.array([type(i) is int and -(2**63) <= i < 2**63 for i in columns.get("id", [])], bool)
    if not has.any():
        return counted
    counted |= np.int64(1) << np.int64(47)
    counted[has] = [i for i, there in zip(columns["id"], has, strict=True) if there]
    return counted


def each(of: Sequence[T], one: Callable[[T], U]) -> list[U]:
    """`one` of each shard, several at a time (their headers are read, perhaps over a network), in their order."""
    with ThreadPoolExecutor(16, "index") as pool:
        return list(pool.map(one, of))


def open_index(shard: str, stamp: str, cache: str, make: Callable[[], Index]) -> Index:
    """The stored index of a shard; made (and stored) when there is none, or, with a line in the log, when the shard is no longer the one
    of `stamp`.
    """
    stamp = f"{FORMAT} {stamp}"
    for file in _files(shard, cache):
        try:
            with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as stored:
                if stored["stamp"].tobytes().decode() == stamp:
                    return Index(**json.loads(stored["text"].tobytes()), places=stored["places"])
            LOG.info("%s: has changed since %s was made; it is indexed anew", shard, file.name)
        except (OSError, ValueError, KeyError, TypeError, EOFError):
            continue  # none yet, or half a file: made anew
    index = make()
    text = json.dumps({"keys": index.keys, "columns": index.columns}).encode()
    as_bytes = lambda blob: np.frombuffer(blob, np.uint8)
    for file in _files(shard, cache):
        if _write(file, stamp=as_bytes(stamp.encode()), text=as_bytes(text), places=index.places):
            break
    return index


def _files(shard: str, cache: str) -> list[Path]:
    """Where the index of a shard may be: beside it, and where that cannot be written to in the user's cache."""
    if cache:
        where = shard if storage.is_url(shard) else os.path.abspath(shard)
        base = re.sub(r"[^\w.-]", "_", where.rpartition("/")[2])[-60:]
        return [
            Path(cache).expanduser()
            / f"{base}.{hashlib.sha256(where.encode()).hexdigest()[:16]}.index.npz"
        ]
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "active_learning"
    beside = (
        [Path(f"{shard}.index.npz")]
        if not storage.is_url(shard) and _writable(Path(shard).parent)
        else []
    )
    return [*beside, *_files(shard, str(home))]


def _writable(folder: Path) -> bool:
    """Whether somebody may write there by its mode: a folder that is read-only for all stays as it is, also for root."""
    return bool(folder.stat().st_mode & 0o222)


def _write(file: Path, **arrays: np.ndarray) -> bool:
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as out:
            np.savez(out, **arrays)
        os.replace(part, file)
    except OSError:
        return False
    return True
