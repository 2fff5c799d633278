"""CIFAR-10N as a compact, lossless file set that can be copied to a machine without a network.

Every file holds 1,000 images, as lossless WebP strips (1.7 KB an image; PNG needs 2.2), with their
labels, and can be read without the others. Files are grouped into folders `part_1`, `part_2`, ...
of at most so many bytes; `part_1` begins with 5,000 test images.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

STRIP = 500  # Images under each other: WebP allows 16,383 pixels a side.
SHARD = 1_000
TEST_FIRST = 5_000
MIB = 2**20


@dataclass(frozen=True)
class Images:
    """One set: pixels, the labels that are trained on and the clean ones."""

    image: np.ndarray
    label: np.ndarray
    clean_label: np.ndarray

    def __len__(self) -> int:
        return len(self.label)


def encode(images: np.ndarray) -> bytes:
    """RGB images of one size, under each other, as lossless WebP."""
    strip, out = images.reshape(-1, *images.shape[2:]), io.BytesIO()
    Image.fromarray(strip).save(out, "WEBP", lossless=True, exact=True, method=4, quality=75)
    return out.getvalue()


def decode(data: bytes, height: int) -> np.ndarray:
    """The inverse of `encode`."""
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    return pixels.reshape(-1, height, *pixels.shape[1:])


def write(folder: Path, train: Images, test: Images, limit_mib: float) -> list[tuple[Path, int]]:
    """Writes both sets; returns each folder with its size in bytes.

    Raises:
      ValueError: `limit_mib` does not hold a single file.
    """
    jobs = [("test", test, first) for first in range(0, len(test), SHARD)]
    early = min(TEST_FIRST // SHARD, len(jobs))
    training = [("train", train, first) for first in range(0, len(train), SHARD)]
    part, sizes = 1, [0]
    for name, images, first in jobs[:early] + training + jobs[early:]:
        content = _shard(images, first)
        if len(content) > limit_mib * MIB:
            raise ValueError(f"--pack-mib={limit_mib}: one file has {len(content) / MIB:.2f} MiB")
        if sizes[-1] + len(content) > limit_mib * MIB:
            part, sizes = part + 1, [*sizes, 0]
        path = folder / f"part_{part}" / f"{name}_{first:06d}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        sizes[-1] += len(content)
    return [(folder / f"part_{n}", size) for n, size in enumerate(sizes, 1)]


def _shard(images: Images, first: int) -> bytes:
    rows = slice(first, first + SHARD)
    pixels, out = images.image[rows], io.BytesIO()
    strips = [encode(pixels[at : at + STRIP]) for at in range(0, len(pixels), STRIP)]
    np.savez(
        out,
        label=images.label[rows].astype(np.uint8),
        clean_label=images.clean_label[rows].astype(np.uint8),
        height=pixels.shape[1],
        lengths=[len(strip) for strip in strips],
        webp=np.frombuffer(b"".join(strips), np.uint8),
    )
    return out.getvalue()


def _read_shard(path: Path) -> Images:
    with np.load(path) as held:
        ends = np.cumsum(held["lengths"])
        strips = np.split(held["webp"], ends[:-1])
        pixels = [decode(strip.tobytes(), int(held["height"])) for strip in strips]
        labels = held["label"].astype(np.int32), held["clean_label"].astype(np.int32)
    return Images(np.concatenate(pixels), *labels)


def read(folder: Path) -> tuple[Images, Images]:
    """Training and test set: packed files anywhere below `folder`, else cifar10n/*.npz there.

    Raises:
      FileNotFoundError: Neither is there.
    """
    shards = {name: sorted(folder.rglob(f"{name}_??????.npz")) for name in ("train", "test")}
    if all(shards.values()):
        both = []
        for paths in shards.values():
            read_all = [_read_shard(path) for path in sorted(paths, key=lambda path: path.name)]
            columns = ([getattr(one, name) for one in read_all] for name in Images.__annotations__)
            both.append(Images(*map(np.concatenate, columns)))
        return both[0], both[1]
    arrays = folder / "cifar10n"
    if not all((arrays / f"{name}.npz").exists() for name in shards):
        raise FileNotFoundError(
            f"--data={folder}: no packed train_*.npz and test_*.npz, and no cifar10n/train.npz and "
            "test.npz; give the folder with --data or ACTIVE_LEARNING_DATA"
        )
    return _arrays(arrays / "train.npz", "label_worse"), _arrays(arrays / "test.npz", "label")


def _arrays(path: Path, label: str) -> Images:
    with np.load(path) as held:
        labels = held[label].astype(np.int32), held["label"].astype(np.int32)
        return Images(held["image"], *labels)


def drawn(train: int, test: int, size: int = 8, classes: int = 10, wrong: float = 0.4) -> tuple:
    """Synthetic sets, for the smoke scale without data: noisy class means, labels partly wrong."""
    rng = np.random.default_rng(0)
    means = rng.uniform(60, 190, (classes, size, size, 3))

    def one(count: int, share: float) -> Images:
        clean = rng.integers(0, classes, count).astype(np.int32)
        pixels = np.clip(means[clean] + rng.normal(0, 30, (count, size, size, 3)), 0, 255)
        other = (clean + rng.integers(1, classes, count)).astype(np.int32) % classes
        label = np.where(rng.random(count) < share, other, clean)
        return Images(pixels.astype(np.uint8), label, clean)

    return one(train, wrong), one(test, 0.0)
