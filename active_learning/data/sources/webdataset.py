"""Tar shards (KEY.jpg, KEY.cls, KEY.json, KEY.txt side by side) with random access by an index.

Nothing is extracted: members are read where they lie, so that no path in an archive ever reaches
the disk.
"""

import json
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int64

from active_learning.data import limits, text
from active_learning.data.images import SUFFIXES
from active_learning.data.rows import Rows
from active_learning.data.sources import remote, shards
from active_learning.data.sources.catalog import ShardOf
from active_learning.data.sources.files import Files
from active_learning.data.sources.index import Index, open_index
from active_learning.data.sources.listing import Listing
from active_learning.data.sources.paths import is_remote
from active_learning.data.sources.problems import LeftOut
from active_learning.data.sources.remote import Cached
from active_learning.data.sources.shards import ShardSection
from active_learning.data.sources.storage import Place, Stored
from active_learning.data.sources.tar import Member, members, resolved

SMALL = ".small"  # KEY.small.jpg is a prepared small view of KEY.jpg
_TEXTS = (".cls", ".txt", ".json")


@dataclass(frozen=True)
class WebDataset(ShardSection):
    """Tar shards in the WebDataset layout.

    `path`: a folder with tars named train*.tar and test*.tar (or val*.tar), or in folders of these
    names, or any tars; or a pattern such as 'DIR/train-*.tar' or 'DIR/train-{000..015}.tar'; or
    the address of such a folder or pattern in a bucket (gs://, s3://, az://); or of such tars on a
    web server that answers range requests.

    Columns: `label` from .cls, `caption` from .txt, and every field of .json. An id is the field
    `id`, or a hash of the key (of shard and key where a key occurs in several shards), so it
    survives adding, removing and reordering members and shards. The index is kept beside each tar
    (TAR.index.npz), or in `cache`.
    """

    suffix = ".tar"

    def listing(self, paths: Sequence[str], notes: dict[str, str]) -> Listing:
        files = self.files(paths, notes)

        def opened(file: Stored) -> Index:
            return open_index(
                file.name,
                file.stamp,
                self.cache,
                lambda: make_index(file),
                columns=4,
                size=file.size,
            )

        joined = self.joined(files, opened, "key")
        remote.check_room(files, len(joined.shard), self.shuffle)
        members = _Members(files, joined.shard, joined.index, is_remote(paths[0]))
        return joined.listing(members, self.path, "webdataset", paths[0], notes)


@dataclass(frozen=True, eq=False)
class _Members(Files):
    """Offset and size of each image in its tar, and of its small view (size 0: none)."""

    files: Sequence[Stored]
    shard: np.ndarray | ShardOf  # of each example
    index: Index
    is_remote: bool = False

    def __len__(self) -> int:
        return len(self.shard)

    def read(self, row: int) -> bytes:
        offset, size, *_ = self.index.places[row].tolist()
        return self.files[self.shard[row]].pread(size, offset)

    def read_small(self, row: int) -> bytes | None:
        *_, offset, size = self.index.places[row].tolist()
        return self.files[self.shard[row]].pread(size, offset) if size else None

    def begin(self, rows: np.ndarray, small: bool = False) -> Files:
        if not self.is_remote:
            return self
        begun: dict[tuple[int, Place], Future] = {}
        for shard, places in self._places(rows, small).items():
            futures = self.files[shard].begin(places)
            begun |= {(shard, place): future for place, future in futures.items()}
        return _Begun(self.files, self.shard, self.index, begun=begun) if begun else self

    def expect(self, rows: np.ndarray, small: bool = False) -> None:
        for shard, places in self._places(rows, small).items():
            file = self.files[shard]
            if isinstance(file, Cached):
                file.expect(places)

    def _places(self, rows: np.ndarray, small: bool) -> dict[int, list[Place]]:
        """Size and offset of the bytes of rows, by shard."""
        places: dict[int, list[Place]] = {}
        wanted = self.index.places[rows].tolist()
        for shard, place in zip(self.shard[rows].tolist(), wanted, strict=True):
            offset, size = place[2:] if small and place[3] else place[:2]
            places.setdefault(shard, []).append((size, offset))
        return places

    def name(self, row: int) -> str:
        return f"{self.files[self.shard[row]].name.rpartition('/')[2]}/{self.index.keys[row]}"

    def place(self, row: int) -> Hashable:
        return int(self.shard[row]), int(self.index.places[row, 0])

    def places_of(self, rows: Rows) -> Int64[np.ndarray, "k"]:
        at = np.asarray(rows)
        return (np.asarray(self.shard[at], np.int64) << np.int64(40)) | self.index.places[at, 0]

    def size(self, row: int) -> int:
        return -1 if self.is_remote else int(self.index.places[row, 1])

    def tail(self, row: int, size: int) -> bytes:
        offset, whole, *_ = self.index.places[row].tolist()
        size = min(size, whole)
        return self.files[self.shard[row]].pread(size, offset + whole - size)


@dataclass(frozen=True, eq=False)
class _Begun(_Members):
    """Members of which some are being read: by shard, size and offset."""

    begun: Mapping[tuple[int, Place], Future] = field(default_factory=dict)

    def read(self, row: int) -> bytes:
        offset, size, *_ = self.index.places[row].tolist()
        return self._read(int(self.shard[row]), (size, offset))

    def read_small(self, row: int) -> bytes | None:
        *_, offset, size = self.index.places[row].tolist()
        return self._read(int(self.shard[row]), (size, offset)) if size else None

    def _read(self, shard: int, place: Place) -> bytes:
        future = self.begun.get((shard, place))
        return self.files[shard].pread(*place) if future is None else future.result()


@dataclass
class _Sample:
    """Members of one key, by what follows the key in their names."""

    parts: dict[str, Member] = field(default_factory=dict)
    again: list[str] = field(default_factory=list)  # names that occur a second time


def make_index(file: Stored) -> Index:
    """Indexes a tar in one pass over its headers; only .cls, .txt and .json bodies are read.

    A key ends at the first dot of the file name. Where that leaves a sample without an image, its
    members' names are cut at their last dot instead. What is not used is counted by reason. Raises
    DataError naming tar and byte.
    """
    left_out, samples = LeftOut(), _samples(file)
    keys, fields, places, bad = [], [], [], {}
    for key, sample in _with_images(samples, left_out):
        image, *others = [suffix for suffix in sample.parts if suffix in SUFFIXES]
        small = next((m for s, m in sample.parts.items() if s.startswith(SMALL + ".")), None)
        for suffix in others:
            left_out.add("images beside another one of the same key", key + suffix)
        for _ in range(sum(suffix in SUFFIXES for suffix in sample.again)):
            bad[len(keys)] = "its key occurs more than once in the tar"
            keys.append(f"{key} (again)")
            fields.append({})
            places.append([0, 0, 0, 0])
        keys.append(key)
        fields.append(
            _fields({s: _text_of(file, m) for s, m in sample.parts.items() if s in _TEXTS})
        )
        member = sample.parts[image]
        places.append(
            [member.offset, member.size, *((small.offset, small.size) if small else (0, 0))]
        )
    table = np.asarray(places, np.int64).reshape(-1, 4)
    return Index(keys, shards.columns_of(fields), table, bad, left_out.counts, left_out.names)


def _samples(file: Stored) -> dict[str, _Sample]:
    """Members by key, links resolved."""
    listed = [m for m in members(file) if not m.name.rpartition("/")[2].startswith(".")]
    by_name: dict[str, Member] = {}
    for member in listed:
        by_name.setdefault(member.name, member)
    samples: dict[str, _Sample] = {}
    for member in listed:
        key, suffix = _cut(member.name)
        if not key:
            continue
        target = resolved(by_name, member) if member.link else member
        sample = samples.setdefault(key, _Sample())
        if suffix in sample.parts:
            sample.again.append(suffix)
        elif target is not None:
            sample.parts[suffix] = target
        else:
            sample.parts[f"{suffix} (link to {member.link}, which is not in the tar)"] = member
    return samples


def _cut(name: str, last: bool = False) -> tuple[str, str]:
    """Key and suffix of a member: cut at the first dot of the file name, or at the last."""
    folder, _, base = text.clean(name).removeprefix("./").rpartition("/")
    stem, dot, suffix = base.rpartition(".") if last else base.partition(".")
    if not stem or not dot:
        return "", ""
    return f"{folder}/{stem}" if folder else stem, f".{suffix.lower()}"


def _with_images(samples: dict[str, _Sample], left_out: LeftOut):
    """Keys and samples that have an image; the others are cut anew, or counted."""
    for key, sample in samples.items():
        if any(suffix in SUFFIXES for suffix in sample.parts):
            for suffix in sample.parts:
                if (
                    suffix.endswith(SUFFIXES)
                    and suffix not in SUFFIXES
                    and not suffix.startswith(SMALL + ".")
                ):
                    left_out.add("images beside another one of the same key", key + suffix)
            yield key, sample
            continue
        anew: dict[str, _Sample] = {}
        for suffix, member in sample.parts.items():
            longer, end = _cut(key + suffix, last=True)
            anew.setdefault(longer, _Sample()).parts[end] = member
        for suffix in sample.again:
            longer, end = _cut(key + suffix, last=True)
            anew.setdefault(longer, _Sample()).again.append(end)
        for longer, part in anew.items():
            if any(suffix in SUFFIXES for suffix in part.parts):
                yield longer, part
            else:
                kinds = ", ".join(sorted(part.parts))
                left_out.add(f"samples without an image (they have {kinds})", longer)


def _text_of(file: Stored, member: Member) -> bytes:
    """A text member; one above the limit counts as missing."""
    return (
        b"" if member.size > limits.current().text_bytes else file.scan(member.size, member.offset)
    )


def _fields(parts: dict[str, bytes]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    texts = {
        suffix: blob.decode("utf-8", "replace").strip("\ufeff \t\r\n")
        for suffix, blob in parts.items()
    }
    if ".json" in texts:
        try:
            fields = json.loads(texts[".json"])
            out |= fields if isinstance(fields, dict) else {}
        except (ValueError, RecursionError):
            pass  # its fields count as missing, by name, where a column is asked for
    if ".cls" in texts:
        out["label"] = texts[".cls"]
    if ".txt" in texts:
        out["caption"] = texts[".txt"]
    return out
