"""The index of a shard: what is in it and where.

Made once, kept beside the shard, and made anew when it is damaged or old.
"""

import hashlib
import io
import json
import logging
import os
import re
import stat
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from active_learning.data.sources.files import open_regular
from active_learning.data.sources.paths import is_remote, local
from active_learning.storage.caches import user_cache

LOG = logging.getLogger("active_learning")
FORMAT = 3
_NPY = b"\x93NUMPY\x01\x00"  # Magic string and version of .npy files.
DAMAGED = (
    *(
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        RecursionError,
        SystemError,
    ),
    *(zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True)
class Index:
    """What is in one shard, in its order."""

    keys: Sequence[str]
    columns: Mapping[str, Sequence[Any]]  # None: missing
    places: np.ndarray  # (n, k) int64, whatever the reader needs to find the bytes
    bad: dict[int, str] = field(
        default_factory=dict
    )  # examples that cannot be used, with the reason
    left_out: dict[str, int] = field(
        default_factory=dict
    )  # members that are no examples, by reason
    names: dict[str, list[str]] = field(default_factory=dict)  # the first of them, by reason


def open_index(
    shard: str, stamp: str, cache: str, make: Callable[[], Index], columns: int, size: int
) -> Index:
    """The stored index of a shard, made and stored where there is none that fits.

    Args:
      shard: Path or URL.
      stamp: Version of the shard; an index of another one is made anew, with a line in the log.
      cache: Folder for indices; '': beside the shard, or in the user's cache where that cannot be.
      make: Makes the index.
      columns: Columns of `places`.
      size: Bytes of the shard, which no place may exceed.
    """
    stamp = f"{FORMAT} {stamp}"
    for file in _files(shard, cache):
        try:
            stored = _load(file, stamp, columns, size)
        except FileNotFoundError:
            continue
        except DAMAGED:
            LOG.info("%s: damaged; %s is indexed anew", file.name, shard)
            continue
        if stored is not None:
            return stored
        LOG.info("%s: has changed since %s was made; it is indexed anew", shard, file.name)
    index = make()
    about = {
        "keys": index.keys,
        "columns": index.columns,
        "left_out": index.left_out,
        "names": index.names,
    }
    text = json.dumps(about | {"bad": {str(row): why for row, why in index.bad.items()}})
    for file in _files(shard, cache):
        if _write(
            file, stamp=_bytes(stamp.encode()), text=_bytes(text.encode()), places=index.places
        ):
            break
    return index


def _bytes(blob: bytes) -> np.ndarray:
    return np.frombuffer(blob, np.uint8)


def _load(file: Path, stamp: str, columns: int, size: int) -> Index | None:
    """A stored index, None for one of another stamp. Raises one of DAMAGED."""
    with open(open_regular(str(file)), "rb") as opened:
        blob = opened.read()
    with zipfile.ZipFile(io.BytesIO(blob)) as archive:
        if any(info.compress_type or info.file_size > len(blob) for info in archive.infolist()):
            raise ValueError("not as it was written")
        if _stored_array(archive, "stamp", "|u1").tobytes().decode() != stamp:
            return None
        about = json.loads(_stored_array(archive, "text", "|u1").tobytes())
        places = _stored_array(archive, "places", "<i8").reshape(-1, columns)
    index = Index(
        about["keys"], about["columns"], places, {int(r): str(w) for r, w in about["bad"].items()},
        about["left_out"], about["names"],
    )  # fmt: skip
    n = len(places)
    lengths = {len(values) for values in index.columns.values()} | (
        {len(index.keys)} if index.keys else set()
    )
    if not lengths <= {n}:
        raise ValueError("columns of different lengths")
    if n and size and (places[:, 0].min() < 0 or places[:, 0].max() > size):
        raise ValueError("places outside the shard")
    return index


def _stored_array(archive: zipfile.ZipFile, name: str, dtype: str) -> np.ndarray:
    """An array as `_write` stores it, flat and read-only. Raises ValueError for another type.

    `np.load` takes three times as long: it evaluates each array's header as Python.
    """
    blob = archive.read(f"{name}.npy")
    start = len(_NPY) + 2 + int.from_bytes(blob[len(_NPY) : len(_NPY) + 2], "little")
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': (".encode()
    if not blob.startswith(_NPY) or not blob.startswith(header, len(_NPY) + 2):
        raise ValueError(f"{name} is not an array of {dtype}")
    return np.frombuffer(blob, dtype, offset=start)


def _files(shard: str, cache: str) -> Iterator[Path]:
    """Yields where the index of a shard may be: beside it, else in the user's cache."""
    where = shard if is_remote(shard) else os.path.abspath(shard)
    base = re.sub(r"[^\w.-]", "_", where.rpartition("/")[2])[-60:]
    digest = hashlib.sha256(where.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    beside = f"{os.path.basename(shard)}.index.npz"
    yield from places(shard, cache, beside, f"{base}.{digest}.index.npz")


def places(shard: str, cache: str, beside: str, elsewhere: str) -> Iterator[Path]:
    """Yields where something about a shard may be kept, the best place first.

    Args:
      shard: Path or URL.
      cache: The only folder to keep it in; '': beside the shard, or in the user's cache.
      beside: Its name beside the shard.
      elsewhere: Its name in a folder of many.
    """
    if cache:
        yield local(cache) / elsewhere
        return
    if not is_remote(shard) and _writable(Path(shard).parent):
        yield Path(shard).parent / beside
    yield user_cache() / elsewhere


def _writable(folder: Path) -> bool:
    """Whether somebody may write there by its mode.

    A folder that is read-only for all stays as it is, also for root.
    """
    return bool(folder.stat().st_mode & 0o222)


def _write(file: Path, **arrays: Any) -> bool:
    """Writes arrays to another name, flushes and renames. False where that cannot be."""
    part = file.with_name(f"{file.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() and not stat.S_ISREG(file.stat().st_mode):
            return False
        with open(part, "wb") as out:
            np.savez(out, **arrays)
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, file)
    except OSError:
        part.unlink(missing_ok=True) if part.parent.is_dir() else None
        return False
    return True
