"""Tars with links, dots, several archives in a row, names that occur twice; and hostile ones."""

import gzip
import io
import os
import struct
import tarfile

import numpy as np
import pytest

from active_learning.data.errors import DataError
from active_learning.data.sources import storage
from active_learning.data.sources.webdataset import WebDataset
from tests.data.photos import blob
from tests.data.sources.test_webdataset import examples, write_tar


def opened(path, **keys):
    return WebDataset(path=str(path), size=16, **keys).open()


def total(result):
    return len(result.train) + len(result.test)


def test_dots_in_names(tmp_path):
    files = {}
    for n in range(20):
        files |= {f"IMG.{n}.png": blob("red", n), f"IMG.{n}.cls": b"%d" % (n % 2)}
    assert total(opened(write_tar(tmp_path / "x.tar", files))) == 20


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_links_have_the_bytes_of_their_targets_and_stay_on_one_side(tmp_path, kind):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for n in range(40):
            info = tarfile.TarInfo(f"d/{n:02d}.png")
            if n < 20:
                content = blob("red", n)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type = kind
                info.linkname = f"{'d/' if kind == tarfile.LNKTYPE else ''}{n - 20:02d}.png"
                tar.addfile(info)
            label = tarfile.TarInfo(f"d/{n:02d}.cls")
            label.size = 1
            tar.addfile(label, io.BytesIO(b"%d" % (n % 2)))
    result = opened(tmp_path / "x.tar", holdout=0.3)
    assert total(result) == 40
    sides = [
        {int(one.name(row)[-2:]) % 20 for row in range(len(one))}
        for one in (result.train, result.test)
    ]
    assert not sides[0] & sides[1]


def test_archives_in_a_row_are_read_to_the_end(tmp_path):
    one = write_tar(tmp_path / "a.tar", examples(10)).read_bytes()
    two = write_tar(tmp_path / "b.tar", examples(10, 10)).read_bytes()
    (tmp_path / "c.tar").write_bytes(one + two)
    assert total(opened(tmp_path / "c.tar")) == 20


def test_a_key_twice_is_counted(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for turn in range(2):
            for name, content in (
                ("a.png", blob("red", turn)),
                ("a.cls", b"1"),
                (f"b{turn}.png", blob("blue", turn)),
                (f"b{turn}.cls", b"0"),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    with pytest.raises(DataError, match=r"1 of 4 examples cannot be used.*occurs more than once"):
        opened(tmp_path / "x.tar")


def test_samples_without_an_image_are_counted(tmp_path):
    files = examples(20) | {"z.txt": b"alone", "y.mp4": b"film"}
    result = opened(write_tar(tmp_path / "x.tar", files))
    lines = " ".join(result.train.problems.lines())
    assert "samples without an image (they have .txt): z" in lines and ".mp4" in lines


def test_compressed_tars_are_refused_with_a_way_on(tmp_path):
    whole = write_tar(tmp_path / "x.tar", examples(4)).read_bytes()
    (tmp_path / "d").mkdir()
    for name in ("x.tar.gz", "y.tar"):
        (tmp_path / "d" / name).write_bytes(gzip.compress(whole))
        with pytest.raises(DataError, match=r"compressed.*gunzip"):
            opened(tmp_path / "d" / name)
    (tmp_path / "d" / "y.tar").unlink()
    with pytest.raises(DataError, match=r"compressed.*gunzip"):
        opened(tmp_path / "d")


def patched(whole: bytes, size: bytes) -> bytes:
    """The tar with another size in its first header, and a checksum that fits."""
    head = bytearray(whole[:512])
    head[124:136] = size
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + whole[512:]


@pytest.mark.parametrize(
    "size",
    [
        b"-0000001000\0",
        b"\xff" * 12,
        b"\x80" + b"\0" * 3 + struct.pack(">Q", 2**62),
        b"77777777777\0",
    ],
)
def test_sizes_that_cannot_be(tmp_path, size):
    whole = write_tar(tmp_path / "x.tar", examples(2)).read_bytes()
    (tmp_path / "x.tar").write_bytes(patched(whole, size))
    with pytest.raises(DataError, match=r"x\.tar: (truncated|no tar header)") as error:
        opened(tmp_path / "x.tar")
    assert "\n" not in str(error.value)


def test_few_files_are_open_however_many_tars(tmp_path, monkeypatch):
    monkeypatch.setattr(storage.descriptors, "most", 8)
    for n in range(40):
        write_tar(tmp_path / f"{n:03d}.tar", examples(2, 2 * n))
    before = len(os.listdir("/proc/self/fd"))
    result = opened(tmp_path, label="")
    for turn in range(2):
        assert not result.train.gather(np.arange(len(result.train)))["bad"].any(), turn
    assert len(storage.descriptors) <= 8 + 16  # those that are being read are never closed
    assert len(os.listdir("/proc/self/fd")) <= before + 8 + 16
