"""Tar shards (KEY.jpg, KEY.cls, KEY.json, KEY.txt side by side), read at random: an index of places in each tar, made once, and `os.pread`.

Nothing is extracted: members are read where they lie, so that no path in an archive ever reaches the disk.
"""

import glob
import hashlib
import json
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from active_learning.data.disk import DiskSection, Listing
from active_learning.data.images import SUFFIXES
from active_learning.data.source import DataError, Opened

FORMAT = 1  # of the index
SMALL = ".small"  # KEY.small.jpg is a prepared small view of KEY.jpg
_BLOCK = 512


@dataclass(frozen=True)
class WebDataset(DiskSection):
    """`path`: a folder with tars named train*.tar and test*.tar (or val*.tar), or any tars, or a pattern such as 'DIR/train-*.tar'.

    Columns: `label` from .cls, `caption` from .txt, and every field of .json. ids are shard << 32 | place in the shard, shards in sorted
    order of their names. The index is kept beside each tar (TAR.index.npz), or in `cache` where that is given or the folder is read-only.
    """

    test_path: str = (
        ""  # tars of the test set, '': those of the folder named test*, else val*, else a share is held out
    )
    cache: str = ""  # folder for the indices; '': beside the tars

    def open(self) -> Opened:
        """Finds the tars and reads or makes their indices; no image is read. Raises DataError naming tar and place."""
        self.check()
        train, test, val = _shards(self.path, "config.data.path"), [], []
        if self.test_path:
            test = _shards(self.test_path, "config.data.test_path")
        elif Path(self.path).expanduser().is_dir() and any(Path(tar).name.startswith("train") for tar in train):
            named = lambda start: [tar for tar in train if Path(tar).name.startswith(start)]  # noqa: E731
            train, test, val = named("train"), named("test") or named("val"), named("val")
        where = str(Path(self.path).expanduser())
        read = lambda tars: read_shards(tars, where, self.cache) if tars else None  # noqa: E731
        return self.opened(read(train), read(test), {"val": read(val)} if val and val != test else {})


def _shards(path: str, key: str) -> list[str]:
    there = Path(path).expanduser()
    found = sorted(str(tar) for tar in there.glob("*.tar")) if there.is_dir() else sorted(glob.glob(str(there)))
    if not found:
        raise DataError(f"{key}={path!r}: no .tar there")
    return found


@dataclass(frozen=True, eq=False)
class _Members:
    """Places of images in open tars."""

    tars: Sequence[str]
    descriptors: Sequence[int]
    shard: np.ndarray  # (n,) int64
    places: np.ndarray  # (n, 4) int64: offset and size of the image, and of its small view (size 0: none)
    keys: Sequence[str]

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, index: int) -> bytes:
        return self._at(index, 0)

    def read_small(self, index: int) -> bytes | None:
        return self._at(index, 2) if self.places[index, 3] else None

    def _at(self, index: int, column: int) -> bytes:
        offset, size = self.places[index, column : column + 2].tolist()
        blob = os.pread(self.descriptors[self.shard[index]], size, offset)
        if len(blob) != size:
            raise OSError(f"{self.tars[self.shard[index]]}: ends before byte {offset + size}")
        return blob

    def name(self, index: int) -> str:
        return f"{os.path.basename(self.tars[self.shard[index]])}/{self.keys[index]}"

    def __del__(self, close=os.close) -> None:  # bound now: at the interpreter's exit the module may be gone
        for descriptor in self.descriptors:
            close(descriptor)


def read_shards(tars: Sequence[str], where: str, cache: str = "") -> Listing:
    """All examples of the tars. Raises DataError naming a tar that is truncated, unreadable or no tar."""
    keys, shard, places, ids, rows, descriptors = [], [], [], [], [], []
    for number, tar in enumerate(tars):
        index = open_index(tar, cache)
        n = len(index["keys"])
        keys += index["keys"]
        rows += index["fields"]
        shard.append(np.full(n, number, np.int64))
        places.append(index["places"])
        ids.append((np.int64(number) << np.int64(32)) | np.arange(n, dtype=np.int64))
        descriptors.append(os.open(tar, os.O_RDONLY))
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    stored = [row.get("id") for row in rows]
    own = np.asarray(stored, np.int64) if rows and all(type(i) is int for i in stored) else np.concatenate(ids)
    files = _Members(tars, descriptors, np.concatenate(shard), np.concatenate(places), keys)
    return Listing(files, {k: v for k, v in columns.items() if k != "id"}, where, "webdataset", ids=own)


def open_index(tar: str, cache: str = "") -> dict[str, Any]:
    """keys, fields (a dict an example) and places (n, 4) of one tar; made anew when it is missing or the tar has changed since."""
    state = os.stat(tar)
    stamp = np.array([FORMAT, state.st_size, state.st_mtime_ns], np.int64)
    for file in _index_files(tar, cache):
        try:
            with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as stored:
                if np.array_equal(stored["stamp"], stamp):
                    return json.loads(stored["text"].tobytes()) | {"places": stored["places"]}
        except (OSError, ValueError, KeyError):
            continue  # none yet, or half a file: made anew
    index = make_index(tar)
    text = json.dumps({"keys": index["keys"], "fields": index["fields"]}).encode()
    for file in _index_files(tar, cache):
        if _write(file, stamp=stamp, text=np.frombuffer(text, np.uint8), places=index["places"]):
            break
    return index


def _index_files(tar: str, cache: str) -> list[Path]:
    """Where the index of a tar may be: beside it, and where that folder is read-only in the user's cache."""
    if cache:
        named = hashlib.sha256(os.path.abspath(tar).encode()).hexdigest()[:16]
        return [Path(cache).expanduser() / f"{named}.index.npz"]
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "active_learning"
    return [Path(f"{tar}.index.npz"), *_index_files(tar, str(home))]


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


def make_index(tar: str) -> dict[str, Any]:
    """One pass over the headers; only .cls, .txt and .json members are read. Raises DataError naming tar and byte."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    with open(tar, "rb") as file:
        for name, offset, size in members(file.fileno(), tar):
            folder, _, base = name.rpartition("/")
            stem, dot, suffix = base.partition(".")
            if stem and dot:
                found.setdefault(f"{folder}/{stem}" if folder else stem, {})[f".{suffix.lower()}"] = (offset, size)
        keys, fields, places = [], [], []
        for key, parts in found.items():
            image = next((parts[s] for s in parts if s in SUFFIXES), None)
            if image is None:
                continue
            small = next((parts[s] for s in parts if s.startswith(SMALL + ".")), (0, 0))
            keys.append(key)
            fields.append(_fields(file.fileno(), parts))
            places.append([*image, *small])
    return {"keys": keys, "fields": fields, "places": np.asarray(places, np.int64).reshape(-1, 4)}


def _fields(descriptor: int, parts: dict[str, tuple[int, int]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    text = lambda suffix: os.pread(descriptor, parts[suffix][1], parts[suffix][0]).decode("utf-8", "replace").strip()  # noqa: E731
    if ".json" in parts:
        try:
            found = json.loads(text(".json"))
            out |= found if isinstance(found, dict) else {}
        except ValueError:
            pass  # its fields count as missing, by name, where a column is asked for
    if ".cls" in parts:
        out["label"] = text(".cls")
    if ".txt" in parts:
        out["caption"] = text(".txt")
    return out


def members(descriptor: int, tar: str) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of each file in a tar (ustar, GNU and pax long names). Raises DataError where the tar ends too early."""
    end, at, longer = os.fstat(descriptor).st_size, 0, {}
    while at + _BLOCK <= end:
        head = os.pread(descriptor, _BLOCK, at)
        if head == bytes(_BLOCK):
            return
        size = _checked_size(head, tar, at)
        kind, body = head[156:157], at + _BLOCK
        if body + size > end:
            raise DataError(f"{tar}: truncated, the member at byte {at} ends at byte {body + size}, the file at {end}")
        at = body + (size + _BLOCK - 1) // _BLOCK * _BLOCK
        if kind == b"L":
            longer["path"] = os.pread(descriptor, size, body).rstrip(b"\0").decode("utf-8", "replace")
        elif kind == b"x":
            longer |= _pax(os.pread(descriptor, size, body))
        elif kind in (b"0", b"\0"):
            name, prefix = (head[a:b].split(b"\0")[0].decode("utf-8", "replace") for a, b in ((0, 100), (345, 500)))
            yield (
                longer.get("path") or (f"{prefix}/{name}" if prefix and head[257:262] == b"ustar" else name),
                body,
                size,
            )
            longer = {}
        elif kind != b"g":
            longer = {}
    if at != end or end == 0:
        raise DataError(f"{tar}: truncated, or no tar (ends at byte {end} within a header)")


def _checked_size(head: bytes, tar: str, at: int) -> int:
    """The member's size. Raises DataError when the header's checksum is wrong."""
    try:
        said = int(head[148:156].strip(b" \0") or b"-1", 8)
        size = (
            struct.unpack(">Q", head[128:136])[0] if head[124] & 0x80 else int(head[124:136].strip(b" \0") or b"0", 8)
        )
    except ValueError as error:
        raise DataError(f"{tar}: no tar header at byte {at}") from error
    if said != sum(head) - sum(head[148:156]) + 8 * 32:
        raise DataError(f"{tar}: no tar header at byte {at} (checksum)")
    return size


def _pax(blob: bytes) -> dict[str, str]:
    out, at = {}, 0
    while at < len(blob):
        length, _, _ = blob[at : at + 20].partition(b" ")
        if not length.isdigit() or int(length) == 0:
            break
        key, _, value = blob[at + len(length) + 1 : at + int(length) - 1].partition(b"=")
        out[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        at += int(length)
    return {"path": out["path"]} if "path" in out else {}
