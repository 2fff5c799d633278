"""Memory stays flat: an index of 100,000 images is small, and a day of reading holds no more than
an hour of it.
"""

import gc
import io
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np

import active_learning
from active_learning.data.loader import Candidates
from active_learning.data.parts import Part
from active_learning.data.sources.image_folder import ImageFolder
from active_learning.data.sources.webdataset import WebDataset
from tests.data.photos import write_folder

IMAGES = 100_000


def write_many(path):
    """A tar of as many members as there are images, their bodies holes in the file."""
    info = tarfile.TarInfo("x")
    info.size = 400
    head = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    with open(path, "wb") as out:
        for n in range(IMAGES):
            head[:12] = b"%08d.jpg" % n
            head[148:156] = b" " * 8
            head[148:156] = b"%06o\0 " % sum(head)
            out.write(head)
            out.seek(512, io.SEEK_CUR)
        out.write(bytes(1024))


def held() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def held_by_the_package() -> int:
    """Without what other threads of the test process allocate meanwhile, e.g. by an import."""
    gc.collect()
    own = tracemalloc.Filter(True, f"{Path(active_learning.__file__).parent}/*")
    traces = tracemalloc.take_snapshot().filter_traces([own])
    return sum(one.size for one in traces.statistics("filename"))


def test_an_index_of_many_images(tmp_path):
    write_many(tmp_path / "train.tar")
    section = WebDataset(path=str(tmp_path / "train.tar"), size=16, label="")
    section.listings()  # makes the index
    tracemalloc.start()
    try:
        listing, _ = section.listings()
        assert (
            len(listing.files) == IMAGES and listing.files.name(IMAGES - 1) == "train.tar/00099999"
        )
        assert held() < 250 * IMAGES  # bytes an image: its name, its places, its id
    finally:
        tracemalloc.stop()


def test_a_day_of_reading(tmp_path):
    source = ImageFolder(path=str(write_folder(tmp_path, each=100)), size=16).open().train
    labels = source.labels("label")
    part = Part(source, np.arange(len(source)), labels, None)
    stream = Candidates(part, 0)
    day = 86_400 * 10 * 1024  # ten steps of 1,024 candidates a second
    tracemalloc.start()
    try:
        levels = []
        for count, start in enumerate(np.linspace(0, day, 30).astype(int).tolist()):
            stream.read(start, 32, slice(None), False)
            if count % 6 == 5:
                levels.append(held_by_the_package())
        assert max(levels[2:]) - max(levels[:2]) < 300_000  # 18 batches that stay would be 440 kB
    finally:
        tracemalloc.stop()
