"""What lies in a folder of a bucket: objects whose names begin with its address and a slash."""

import fnmatch
import re
from typing import Any

from active_learning.data.errors import DataError
from active_learning.data.sources.paths import is_url
from active_learning.storage import addresses

_MAGIC = re.compile(r"[*?\[]")


def entries(folder: str) -> tuple[list[str], list[str]]:
    """Addresses of the objects directly in a folder, and the names of its folders, sorted.

    Raises:
      DataError: The address is HTTP, which has no folders.
      ConfigError: There is no such bucket, or it may not be read.
      StorageError: The server cannot be reached for a long time.
    """
    folder = folder.rstrip("/")
    if is_url(folder):
        raise DataError(
            f"{folder}: a web server does not list its files; name them, e.g. "
            f"{folder}/train-{{000..015}}.tar"
        )
    store, prefix = addresses.store_of(folder)

    def ask() -> Any:
        import obstore

        return obstore.list_with_delimiter(store, prefix or None)

    found = addresses.retried(folder, ask)
    base = folder.removesuffix(prefix).rstrip("/")
    objects = sorted(f"{base}/{one['path']}" for one in found["objects"])
    return objects, sorted(path.rpartition("/")[2] for path in found["common_prefixes"])


def matching(pattern: str) -> list[str]:
    """Addresses of the objects that '*', '?' and '[...]' stand for, sorted by name.

    Patterns stand in the last part of an address.
    """
    folder, _, name = pattern.rpartition("/")
    if not _MAGIC.search(name) or is_url(pattern):
        return [pattern]
    if _MAGIC.search(folder):
        raise DataError(f"{pattern}: patterns stand in the last part of an address only")
    return [one for one in entries(folder)[0] if fnmatch.fnmatchcase(one.rpartition("/")[2], name)]
