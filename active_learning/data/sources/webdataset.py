"""Tar shards (KEY.jpg, KEY.cls, KEY.json, KEY.txt side by side), read at random: an index of places in each tar, made once, and `pread`.

Nothing is extracted: members are read where they lie, so that no path in an archive ever reaches the disk.
"""

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from active_learning.data.images import SUFFIXES
from active_learning.data.sources import shards
from active_learning.data.sources.on_disk import Listing
from active_learning.data.sources.shards import Index, ShardSection
from active_learning.data.sources.source import DataError
from active_learning.data.sources.storage import Stored, open_file

SMALL = ".small"  # KEY.small.jpg is a prepared small view of KEY.jpg
_BLOCK = 512


@dataclass(frozen=True)
class WebDataset(ShardSection):
    """`path`: a folder with tars named train*.tar and test*.tar (or val*.tar), or any tars, or a pattern such as 'DIR/train-*.tar', or a URL
    such as 'https://HOST/train-{000..015}.tar' whose server answers range requests.

    Columns: `label` from .cls, `caption` from .txt, and every field of .json. ids are shard << 32 | place in the shard, shards in sorted
    order of their names, or the field `id` where every example has one. The index is kept beside each tar (TAR.index.npz), or in `cache`.
    """

    def listings(self) -> tuple[Listing, Listing | None]:
        train, test = self.shards(".tar")
        return self._listing(train), self._listing(test) if test else None

    def _listing(self, tars: Sequence[str]) -> Listing:
        files = shards.each(tars, open_file)
        opened = lambda file: shards.open_index(
            file.name, file.stamp, self.cache, lambda: make_index(file)
        )
        indices = shards.each(files, opened)
        shard, index = shards.join(indices)
        ids, names = shards.ids_of(shard, index.columns), shards.class_names(tars[0])
        columns = {name: values for name, values in index.columns.items() if name != "id"}
        return Listing(_Members(files, shard, index), columns, self.path, "webdataset", names, ids)


@dataclass(frozen=True, eq=False)
class _Members:
    """Places of images in open tars: offset and size of the image, and of its small view (size 0: none)."""

    files: Sequence[Stored]
    shard: np.ndarray  # (n,)
    index: Index

    def __len__(self) -> int:
        return len(self.shard)

    def read(self, row: int) -> bytes:
        offset, size, *_ = self.index.places[row].tolist()
        return self.files[self.shard[row]].pread(size, offset)

    def read_small(self, row: int) -> bytes | None:
        *_, offset, size = self.index.places[row].tolist()
        return self.files[self.shard[row]].pread(size, offset) if size else None

    def name(self, row: int) -> str:
        return f"{self.files[self.shard[row]].name.rpartition('/')[2]}/{self.index.keys[row]}"


def make_index(file: Stored) -> Index:
    """One pass over the headers; only .cls, .txt and .json members are read. Raises DataError naming tar and byte."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    said: dict[str, dict[str, bytes]] = {}
    for name, offset, size in members(file):
        folder, _, base = name.rpartition("/")
        stem, dot, suffix = base.partition(".")
        if stem and dot:
            key, suffix = f"{folder}/{stem}" if folder else stem, f".{suffix.lower()}"
            found.setdefault(key, {})[suffix] = (offset, size)
            if suffix in (".cls", ".txt", ".json"):
                said.setdefault(key, {})[suffix] = file.scan(size, offset)
    keys, fields, places = [], [], []
    for key, parts in found.items():
        image = next((parts[s] for s in parts if s in SUFFIXES), None)
        if image is None:
            continue
        small = next((parts[s] for s in parts if s.startswith(SMALL + ".")), (0, 0))
        keys.append(key)
        fields.append(_fields(said.get(key, {})))
        places.append([*image, *small])
    return Index(keys, shards.columns_of(fields), np.asarray(places, np.int64).reshape(-1, 4))


def _fields(said: dict[str, bytes]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    text = {suffix: blob.decode("utf-8", "replace").strip() for suffix, blob in said.items()}
    if ".json" in text:
        try:
            found = json.loads(text[".json"])
            out |= found if isinstance(found, dict) else {}
        except (ValueError, RecursionError):
            pass  # its fields count as missing, by name, where a column is asked for
    if ".cls" in text:
        out["label"] = text[".cls"]
    if ".txt" in text:
        out["caption"] = text[".txt"]
    return out


def members(file: Stored) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of each file in a tar (ustar, GNU and pax long names). Raises DataError where the tar ends too early."""
    tar, end, at, longer = file.name, file.size, 0, {}
    while at + _BLOCK <= end:
        head = file.scan(_BLOCK, at)
        if head == bytes(_BLOCK):
            return
        size = _checked_size(head, tar, at)
        kind, body = head[156:157], at + _BLOCK
        if body + size > end:
            raise DataError(
                f"{tar}: truncated, the member at byte {at} ends at byte {body + size}, the file at {end}"
            )
        at = body + (size + _BLOCK - 1) // _BLOCK * _BLOCK
        if kind == b"L":
            longer["path"] = file.scan(size, body).rstrip(b"\0").decode("utf-8", "replace")
        elif kind == b"x":
            longer |= _pax(file.scan(size, body))
        elif kind in (b"0", b"\0"):
            name, prefix = (
                head[a:b].split(b"\0")[0].decode("utf-8", "replace")
                for a, b in ((0, 100), (345, 500))
            )
            yield (
                longer.get("path")
                or (f"{prefix}/{name}" if prefix and head[257:262] == b"ustar" else name),
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
            struct.unpack(">Q", head[128:136])[0]
            if head[124] & 0x80
            else int(head[124:136].strip(b" \0") or b"0", 8)
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
