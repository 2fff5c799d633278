"""Identity of examples by content: digests of bytes, unique keys, and the ids made of them.

Digests of files on disk are kept in the user's cache, so that a folder is read once; a file whose
size or time of change differs is read again.
"""

import hashlib
import os
import threading
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, Integer, UInt8

from active_learning.data import text
from active_learning.data.sources.files import Files
from active_learning.data.sources.paths import is_remote
from active_learning.storage.caches import user_cache

CACHED_FROM = 1000  # files; the digests of fewer are not worth a file in the cache
_READERS = 16
_BLOCK = 512


def digest(blob: bytes) -> str:
    """Sixteen hex digits of the content's SHA-256: the identity of an example."""
    return hashlib.sha256(blob).hexdigest()[:16]


def pixel_digests(images: UInt8[np.ndarray, "n H W C"]) -> list[str]:
    """Digests of images that have no bytes of their own: of shape and pixels."""
    shape = str(images.shape[1:]).encode()
    return [digest(shape + np.ascontiguousarray(one).tobytes()) for one in images]


def content_keys(digests: Sequence[str], paths: Sequence[str]) -> tuple[str, ...]:
    """A unique key for each example: the digest, with .1, .2 ... for copies in order of paths.

    Unreadable examples (no digest) are known by their path.
    """
    keys, seen = [""] * len(paths), {}
    for row in sorted(range(len(paths)), key=lambda r: (paths[r], r)):
        base = digests[row] or "path-" + digest(text.encoded(paths[row]))
        count = seen.get(base, 0)
        seen[base] = count + 1
        keys[row] = f"{base}.{count}" if count else base
    return tuple(keys)


def ids_of_keys(keys: Sequence[str]) -> Int64[np.ndarray, "n"]:
    """Ids in [0, 2^48) by hash of distinct keys; of two keys with one hash the later is rehashed.

    An id depends on its key alone, but for such a collision (one in 560 sets of a million).
    """
    ids = np.array([hash48(key) for key in keys], np.int64).reshape(-1)
    order = np.array(sorted(range(len(keys)), key=lambda row: keys[row]), np.int64)
    attempt = 0
    while True:
        _, first = np.unique(ids[order], return_index=True)
        again = np.setdiff1d(np.arange(len(ids)), first)
        if not len(again):
            return ids
        attempt += 1
        for row in order[again].tolist():
            ids[row] = hash48(f"{keys[row]}/{attempt}")


def ids_of_members(names: Sequence[str], shard: np.ndarray, keys: Sequence[str]) -> np.ndarray:
    """Ids by key; where a key occurs in several shards, by the shard's name and key.

    Of a key that occurs twice in one shard both rows get one id: the later is a bad example.
    """
    shards_of: dict[str, set[int]] = {}
    for number, key in zip(shard.tolist(), keys, strict=True):
        shards_of.setdefault(key, set()).add(number)
    full = [
        key if len(shards_of[key]) == 1 else f"{os.path.basename(str(names[number]))}/{key}"
        for number, key in zip(shard.tolist(), keys, strict=True)
    ]
    distinct = list(dict.fromkeys(full))
    id_of = dict(zip(distinct, ids_of_keys(distinct).tolist(), strict=True))
    return np.array([id_of[key] for key in full], np.int64).reshape(-1)


def ids_by_place(shard: Integer[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    """Ids shard << 32 | place in the shard, for rows in the order of their shards."""
    place = np.arange(len(shard)) - np.searchsorted(shard, shard)
    return (shard.astype(np.int64) << np.int64(32)) | place


def stored_ids(values: Sequence[Any]) -> tuple[Int64[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """The ids that examples bring, 0 for those that bring none, and which bring one."""
    has = np.array([type(i) is int and -(2**63) <= i < 2**63 for i in values], bool)
    ids = np.zeros(len(has), np.int64)
    ids[has] = [i for i, there in zip(values, has, strict=True) if there]
    return ids, has


def beside_stored(made: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    """Ids that are made where other examples bring theirs: with bit 47 set."""
    return made | (np.int64(1) << np.int64(47))


def hash48(key: str) -> int:
    """A hash of 48 bits, the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encoded(key)).digest()[:6], "big")


def digests_of(files: Files, where: str = "") -> list[str]:
    """The digest of every example's bytes, "" where they cannot be read.

    Args:
      files: The examples.
      where: Name of their place for the cache; "": nothing is cached.
    """
    stamps = [text.printable(files.stamp(row)) for row in range(len(files))]
    cache = _Cache(where) if where and len(files) >= CACHED_FROM else None
    known = {} if cache is None else cache.read()
    out = [known.get(stamp, "") if stamp else "" for stamp in stamps]

    def one(begun: Files, row: int) -> None:
        try:
            out[row] = digest(begun.read(row))
        except OSError:
            out[row] = ""  # counted by name when the image is asked for

    missing = [row for row, found in enumerate(out) if not found]
    with ThreadPoolExecutor(_READERS, "digest") as pool:
        for start in range(0, len(missing), _BLOCK):
            block = missing[start : start + _BLOCK]
            begun = files.begin(np.array(block))
            list(pool.map(partial(one, begun), block))
    if cache is not None and missing:
        cache.write({s: d for s, d in zip(stamps, out, strict=True) if s and d})
    return out


def file_ids(files: Files, where: str) -> Int64[np.ndarray, "n"]:
    """Ids by the bytes of each file; copies are told apart by the order of their names."""
    paths = [files.name(row) for row in range(len(files))]
    return ids_of_keys(content_keys(digests_of(files, where=where), paths))


class _Cache:
    """Digests by stamp in one file of the user's cache; a damaged file counts as none."""

    def __init__(self, where: str):
        place = where if is_remote(where) else os.path.abspath(where)
        name = hashlib.sha256(text.encoded(place)).hexdigest()[:16]
        self.path = user_cache() / f"{name}.digests.npz"

    def read(self) -> dict[str, str]:
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                pairs = zip(stored["stamp"].tolist(), stored["digest"].tolist(), strict=True)
                return {str(stamp): str(found) for stamp, found in pairs}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return {}

    def write(self, digests: dict[str, str]) -> None:
        """Writes under another name and renames; where that cannot be, nothing is kept."""
        partial = self.path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                found = np.array(list(digests.values()))
                np.savez(file, stamp=np.array(list(digests)), digest=found)
            partial.replace(self.path)
        except OSError:
            partial.unlink(missing_ok=True)
