"""Which of the files and folders at a path are the training set, the test set, or neither."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from active_learning.data.sources import buckets

TRAIN = ("train", "training", "trn")
TEST = ("test", "testing", "tst")
VALIDATION = ("val", "valid", "validation", "validate", "dev", "eval")
_ENDINGS = ("set", "split", "data", "images", "image", "imgs", "img", "folder")
IGNORED = (
    "__MACOSX",
    "@eaDir",
    "lost+found",
    "System Volume Information",
    "$RECYCLE.BIN",
    "__pycache__",
)
_RUN = (
    "metrics.jsonl",
    "checkpoints",
    "summary.json",
    "reference",
    "chosen",
    "chosen.parquet",
    "snapshots",
    "seconds.json",
)


def part_of(name: str) -> str:
    """Returns 'train', 'test' or 'val' where a whole name says so in any spelling, else ''.

    For example 'Training_Set' and 'val2017'.
    """
    words = "".join(re.findall(r"[^\W\d_]+", name.casefold()))
    for _ in range(2):
        for part, known in (("train", TRAIN), ("test", TEST), ("val", VALIDATION)):
            if words in known:
                return part
        words = next((words.removesuffix(end) for end in _ENDINGS if words.endswith(end)), words)
    return ""


def part_of_shard(name: str) -> str:
    """Returns the part that a shard's name begins with, or else mentions anywhere; '' for none."""
    words = re.findall(r"[^\W\d_]+", name.casefold())
    parts = [part for word in words if (part := part_of(word))]
    return parts[0] if parts else ""


def is_ignored(name: str) -> bool:
    """Whether a folder or file is hidden, or left behind by an operating system or a notebook."""
    return name.startswith(".") or name in IGNORED


def is_output(folder: str) -> bool:
    """Whether a folder is a run or prepared shards of this program."""
    if os.path.isfile(os.path.join(folder, "config.json")):
        return any(os.path.exists(os.path.join(folder, name)) for name in _RUN)
    if os.path.isfile(os.path.join(folder, "SHA256SUMS")) and os.path.isfile(
        os.path.join(folder, "manifest.json")
    ):
        return True
    return os.path.isfile(os.path.join(folder, "prepare.jsonl"))


@dataclass(frozen=True)
class Layout:
    """Paths of the folders, tables or shards of each part, and notes on what is not used."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    notes: dict[str, str]


def by_part(names: Iterable[str], where: str) -> Layout:
    """Sorts shards by part; training is what is named so, else what is named for no part.

    The test set is what is named test, else validation.
    """
    parts: dict[str, list[str]] = {"train": [], "test": [], "val": [], "": []}
    for name in names:
        parts[part_of_shard(os.path.basename(name))].append(name)
    notes = {}
    train = parts["train"] or parts[""]
    if parts["train"] and parts[""]:
        notes[where] = (
            f"{len(parts[''])} shards named neither train nor test are not used: "
            f"{_first(parts[''])}"
        )
    test = parts["test"] or parts["val"]
    if parts["test"] and parts["val"]:
        notes[f"{where} (validation)"] = (
            f"{len(parts['val'])} validation shards are not used: {_first(parts['val'])}"
        )
    if not train:  # only test or validation shards: they are the data
        train, test = test, []
    return Layout(tuple(train), tuple(test), notes)


def _first(names: list[str], most: int = 5) -> str:
    shown = [os.path.basename(name) for name in names]
    return ", ".join(shown[:most]) + (", ..." if len(shown) > most else "")


def folders_in(root: Path | str) -> list[str]:
    """Names of the folders in `root` (also of a bucket) that may hold data, sorted.

    Raises OSError, or what `buckets.entries` does.
    """
    if isinstance(root, str):
        return [name for name in buckets.entries(root)[1] if not is_ignored(name)]
    with os.scandir(root) as entries:
        return sorted(
            e.name
            for e in entries
            if not is_ignored(e.name) and e.is_dir() and not is_output(e.path)
        )


def files_in(root: Path | str, suffix: str) -> list[str]:
    """Paths of the visible files in `root` with a suffix (in any case), sorted.

    Raises OSError, or what `buckets.entries` does.
    """
    if isinstance(root, str):
        names = {one: one.rpartition("/")[2] for one in buckets.entries(root)[0]}
        return [
            one
            for one, name in names.items()
            if name.lower().endswith(suffix) and not is_ignored(name)
        ]
    with os.scandir(root) as entries:
        return sorted(
            e.path
            for e in entries
            if e.name.lower().endswith(suffix) and not is_ignored(e.name) and e.is_file()
        )


def below(root: Path | str, name: str) -> Path | str:
    """What is named so in a folder: a path, or an address."""
    return root / name if isinstance(root, Path) else f"{root.rstrip('/')}/{name}"


def shard_layout(root: Path | str, suffix: str, depth: int = 3) -> Layout | None:
    """Finds shards in a folder, in its folders named by part, or one folder further down.

    The folder is a path, or an address in a bucket. None where there are none.

    Of several folders that all hold shards (the configurations of a data set) none is chosen; their
    names are in the notes.
    """
    if files := files_in(root, suffix):
        return by_part(files, str(root))
    folders = folders_in(root)
    parts: dict[str, list[str]] = {}
    for name in folders:
        if part := part_of(name):
            parts.setdefault(part, []).extend(files_in(below(root, name), suffix))
    if any(parts.values()):
        train, test = parts.get("train", []), parts.get("test") or parts.get("val") or []
        notes = {}
        if parts.get("test") and parts.get("val"):
            notes[str(root)] = f"{len(parts['val'])} validation shards are not used"
        return Layout(tuple(train or test), tuple(test if train else ()), notes)
    if depth == 0:
        return None
    found = {
        name: layout
        for name in folders
        if (layout := shard_layout(below(root, name), suffix, depth - 1))
    }
    if len(found) > 1:
        return Layout(
            (),
            (),
            {
                str(
                    root
                ): f"several folders hold {suffix} files, give one of them: {', '.join(found)}"
            },
        )
    return next(iter(found.values()), None)
