"""The command that trains on what `prepare` wrote, for labels or pairs."""

import shlex
from pathlib import Path

import numpy as np

from active_learning.data import text
from active_learning.data.sources.from_path import listings_of, section_of
from active_learning.data.sources.listing import Listing
from active_learning.data.sources.on_disk import LARGEST, found_size
from active_learning.data.sources.preparation import Options

_USUAL = 224  # px that a learner is told to see of images as large or larger
_CONFIGS = {"array_record": "array_record", "tar": "webdataset", "parquet": "parquet"}


def for_tfds(root: Path, name: str) -> str:
    """The command for a set of TensorFlow Datasets."""
    return _command("tfds", f"--config.data.path={root}", f"--config.data.name={name}")


def for_folder(out: Path, label: str | None) -> str:
    """The command for a folder of links or tables of paths; without a label they are pairs."""
    return _command("pairs" if label is None else "folder", f"--config.data.path={out}")


def for_shards(out: Path, options: Options) -> str:
    """The command for prepared shards; makes their indices.

    A remark where there is nothing to learn.
    """
    train, _ = listings_of(section_of(str(out)))
    label, caption = label_column(train), text.column_of(tuple(train.columns), "caption")
    flags = [f"--config.data.path={out}"]
    if label is None and caption is None:
        there = ", ".join(train.columns) or "none"
        return (
            f"no column of labels or captions (columns: {there}): name one by --config.data.label"
        )
    if label is None:
        named = (
            []
            if caption == "caption"
            else [f"--config.task.text={caption}", f"--config.data.text={caption}"]
        )
        return _command(
            "pairs", *flags, *named, *views(train, options.small, "learner.image.patch")
        )
    named = [] if label == "label" else [f"--config.data.label={label}"]
    return _command(
        _CONFIGS[options.format], *flags, *named, *views(train, options.small, "learner.patch")
    )


def _command(config: str, *flags: str) -> str:
    quoted = " ".join(shlex.quote(flag) for flag in flags)
    return (
        f"python -m active_learning.main --config=configs/{config}.py {quoted} --workdir=runs/mine"
    )


def label_column(listing: Listing) -> str | None:
    """The column with labels: 'label', or one that has class names."""
    if "label" in listing.columns:
        return "label"
    return next((column for column in listing.class_names if column in listing.columns), None)


def views(listing: Listing, small: int, patch: str) -> list[str]:
    """Returns flags by which scorers see the small views and the learner larger ones.

    None where there are no smaller views.
    """
    files = listing.files
    size = found_size(files, np.arange(len(files)), listing.where, _USUAL) if small else 0
    if size <= small:
        return []
    large = (
        [f"--config.data.size={size}", f"--config.{patch}=16"] if size > LARGEST else []
    )  # smaller ones are found
    return [f"--config.data.small={small}", *large]
