"""Paths as people type them: '~', 'file:', brackets, braces and backslashes."""

import glob
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlparse

from active_learning.data.errors import DataError
from active_learning.storage import addresses

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{0,2}[^\\]")
_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")
_MOST = 1_000_000  # files that braces may stand for


def is_remote(path: str) -> bool:
    """Whether a path is the address of an object: in a bucket, or behind HTTP."""
    return addresses.kind_of(path) is not None


def is_url(path: str) -> bool:
    """Whether a path is read by HTTP."""
    return path.lower().startswith(("http://", "https://"))


def check_kind(path: str, key: str, remote: bool = False) -> None:
    """DataError naming `key` for an address of another kind, or for any where not `remote`."""
    match = _SCHEME.match(path)
    if not match or path.lower().startswith("file:"):
        return
    if is_remote(path):
        if remote:
            return
        raise DataError(
            f"{key}={path!r}: only tars, Parquet files and prepared shards are read from "
            f"{match[1]}: addresses; copy or mount it, or prepare it first"
        )
    if "://" not in path and os.path.lexists(path):
        return  # a local name with a colon
    if "://" not in path and match[1].lower() not in (
        "gs",
        "s3",
        "hf",
        "az",
        "hdfs",
        "memory",
        "gcs",
    ):
        return
    known = ", ".join(f"{kind}://" for kind in (*addresses.BUCKETS, "https"))
    raise DataError(
        f"{key}={path!r}: {match[1]}: addresses are not supported; expected a local path or one "
        f"of {known}; copy or mount it first"
    )


def local(path: str) -> Path:
    """Returns the local path that is meant, with 'file:' and '~' resolved.

    Backslashes are separators where only that path exists.
    """
    if path.lower().startswith("file:"):
        path = unquote(urlparse(path).path)
    if path.startswith("~"):
        path = os.path.expanduser(path)
    if "\\" in path and not os.path.lexists(path) and os.path.lexists(path.replace("\\", "/")):
        path = path.replace("\\", "/")
    return Path(path)


def expand(path: str, key: str) -> list[str]:
    """Writes out braces: 'train-{000..015}.tar' and '{train,test}.tar'."""
    head, opening, rest = path.partition("{")
    inside, closing, tail = rest.partition("}")
    if not opening:
        return [path]
    span = _RANGE.fullmatch(inside)
    if span and int(span[1]) <= int(span[2]) < int(span[1]) + _MOST:
        width = len(span[1])
        choices = [f"{n:0{width}d}" for n in range(int(span[1]), int(span[2]) + 1)]
    elif "," in inside:
        choices = inside.split(",")
    else:
        closing = ""
    if not closing:
        raise DataError(
            f"{key}={path!r}: expected a range such as {{000..015}} or {{a,b}} in the braces"
        )
    tails = expand(tail, key)
    return [f"{head}{choice}{end}" for choice in choices for end in tails]


def files_of(path: str, key: str) -> list[str]:
    """Returns the local files that a path stands for.

    A path that exists stands for itself. Otherwise braces are written out, and each result must
    exist or be a pattern ('*', '?', '[...]') of files that do, sorted by name. Raises DataError
    naming what is not there.
    """
    there = local(path)
    if there.exists():
        return [str(there)]
    out = []
    for one in expand(str(there), key):
        matches = [one] if os.path.exists(one) else sorted(glob.glob(one))
        if not matches:
            which = f" {one!r}" if one != str(there) else ""
            raise DataError(f"{key}={path!r}: no such file or folder{which}{hint(there)}")
        out += matches
    return out


def hint(there: Path) -> str:
    """What is there instead, for the error about a path that does not exist."""
    folder = there.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        names = sorted(os.listdir(folder))[:5]
    except OSError:
        return ""
    same = next((name for name in names if name.casefold() == there.name.casefold()), None)
    return f"; did you mean {str(folder / same)!r}?" if same else ""
