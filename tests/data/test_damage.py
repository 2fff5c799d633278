"""A thousand damaged inputs, by every way in: each is used or reported, none stops the process or
hangs it.
"""

import struct
import time
import zlib

import numpy as np
import pytest

from active_learning.data.sources import problems
from active_learning.data.sources.array_record import ArrayRecords
from active_learning.data.sources.arrays import Arrays
from active_learning.data.sources.image_folder import ImageFolder
from active_learning.data.sources.source import DataError
from active_learning.data.sources.webdataset import WebDataset
from tests.data.sources.test_array_record import write as write_records
from tests.data.sources.test_webdataset import examples, write_tar
from tests.data.test_images import photo, save
from tests.world import write_arrays

RNG = np.random.default_rng(0)


def hurt(content: bytes, number: int) -> bytes:
    """Cut short, or with some bits turned, or overwritten in one place; by turns."""
    blob = bytearray(content)
    if number % 3 == 0:
        return bytes(blob[: RNG.integers(0, len(blob))])
    at = int(RNG.integers(0, len(blob)))
    if number % 3 == 1:
        for place in RNG.integers(0, len(blob), 5):
            blob[place] ^= 1 << int(RNG.integers(0, 8))
    else:
        blob[at : at + 64] = RNG.bytes(64)
    return bytes(blob)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a picture of this size."""
    chunk = lambda name, data: (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    )
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + chunk(b"IDAT", zlib.compress(bytes(10_000_000)))
        + chunk(b"IEND", b"")
    )


@pytest.fixture(autouse=True)
def all_may_be_bad(monkeypatch):
    monkeypatch.setattr(problems, "LIMIT", 1.0)


def counted(source) -> tuple[int, int]:
    """Examples that can be read, and those that were reported, each by a line of its own."""
    bad = source.gather(np.arange(len(source)))["bad"] if len(source) else np.zeros(0, bool)
    assert all(reason and "\n" not in reason for reason in source.problems.bad.values())
    return int((~bad).sum()), len(source.problems.bad)


def test_damaged_files(tmp_path):
    whole = [save(photo(40, 48), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")]
    wrong = [
        b"",
        b"text",
        b"PK\x03\x04" + bytes(200),
        b"%PDF-1.7\n",
        b"\x80\x04cos\nsystem\n",
        bytes(5000),
    ]
    wrong += [bomb(60_000, 60_000), bomb(30_000, 1_000), bomb(0, 5), bomb(2**31 - 1, 2**31 - 1)]
    blobs = [hurt(whole[n % len(whole)], n) for n in range(780)] + wrong
    (tmp_path / "a").mkdir()
    for n, blob in enumerate(blobs):
        (tmp_path / "a" / f"{n}.jpg").write_bytes(blob)
    (tmp_path / "a" / "790.jpg").symlink_to(tmp_path / "gone")
    began = time.perf_counter()
    source = ImageFolder(path=str(tmp_path), size=16, label="", holdout=0.001).open()
    used, _ = counted(source.train)
    more, reported = counted(source.test)  # one count for both
    assert used + more + reported == 791 and reported > 300
    assert set(source.train.problems.bad) >= {f"a/{n}.jpg" for n in range(780, 790)} | {"a/790.jpg"}
    assert time.perf_counter() - began < 60


def opened(section, total: int) -> bool:
    """Whether a damaged data set opens; if so everything in it is accounted for, else one line says
    why not.
    """
    try:
        result = section.open()
    except DataError as error:
        assert str(error) and "\n" not in str(error)
        return False
    if result.train.problems_of():
        train, test = (counted(source)[0] for source in (result.train, result.test))
        assert train + test + len(result.train.problems.bad) == result.train.problems.total <= total
    return True


def test_damaged_shards_and_archives(tmp_path):
    tar = write_tar(tmp_path / "x.tar", examples(8)).read_bytes()
    records = write_records(tmp_path / "x.array_record", 8, small=False).read_bytes()
    write_arrays(tmp_path, 12, 4)
    archive = (tmp_path / "train.npz").read_bytes()
    outcomes = []
    for n in range(70):
        for content, file, section in (
            (
                tar,
                "x.tar",
                WebDataset(
                    path=str(tmp_path / "x.tar"), size=16, label="", cache=str(tmp_path / "c")
                ),
            ),
            (
                records,
                "x.array_record",
                ArrayRecords(path=str(tmp_path / "x.array_record"), size=16, label=""),
            ),
            (archive, "train.npz", Arrays(path=str(tmp_path))),
        ):
            (tmp_path / file).write_bytes(hurt(content, n))
            outcomes.append((file, opened(section, 8)))
    came = {file: {came for name, came in outcomes if name == file} for file, _ in outcomes}
    assert came == {
        "x.tar": {True, False},
        "x.array_record": {True, False},
        "train.npz": {False},
    }  # a zip has checksums
    assert len(outcomes) + 791 > 1000  # with the files above
