"""Opening large sets by an index on the disk: two million examples, and a billion.

- `real`: tars of tiny images with labels and captions. Their indices are made and merged once; then
  the set is opened again by fresh processes, alone and as the data of a run whose pool is part of a
  split, and batches of 256 are read.
- `sparse`: a catalog of a billion examples whose files are sparse (each number is 0), beside empty
  tars: what opening and finding the next super-batch takes at that size. Nothing is decoded.

Allocated is what a process holds beyond what it did before (RssAnon), resident all of it, with what
the libraries need. Pages of mapped files that batches touch come on top; the system takes them back
whenever it needs them.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from active_learning.data.loader import Candidates
from active_learning.data.parts import Part
from active_learning.data.sources import catalog
from active_learning.data.sources.index import Index, open_index
from active_learning.data.sources.storage import open_file
from active_learning.data.sources.webdataset import WebDataset
from active_learning.models import MLP
from active_learning.settings import Config, Split
from active_learning.train.open_data import open_data

BATCH, RATIO, CLASSES, SIZE = 256, 5, 1000, 16
# Tars and examples in each, real and sparse; fresh processes that open each set; batches.
SCALES = {
    "smoke": {"real": (12, 100), "sparse": (20, 100_000), "opens": 1, "batches": 3, "large": 100},
    "desk": {
        "real": (200, 10_000),
        "sparse": (10_000, 100_000),
        "opens": 5,
        "batches": 50,
        "large": catalog.LARGE,
    },
}


def write_tars(folder: Path, tars: int, each: int) -> None:
    """Tars of one image under many names, with a label and a caption of its own."""
    image = _jpeg()
    for number in range(tars):
        _write_tar(folder / f"train-{number:05d}.tar", image, number * each, each)
    _write_tar(folder / "test-00000.tar", image, 0, min(each, 100))


def _write_tar(path: Path, image: bytes, first: int, count: int) -> None:
    with path.open("wb") as file:
        for n in range(first, first + count):
            texts = (b"%d" % (n % CLASSES), b"example %d of a large set" % n)
            for suffix, content in zip((".jpg", ".cls", ".txt"), (image, *texts), strict=True):
                info = tarfile.TarInfo(f"{n:010d}{suffix}")
                info.size = len(content)
                file.write(info.tobuf(tarfile.USTAR_FORMAT))
                file.write(content + bytes(-len(content) % 512))
        file.write(bytes(1024))


def write_sparse(folder: Path, tars: int, each: int) -> None:
    """Empty tars, and the catalog of a set of `tars` times `each` examples in them."""
    paths = [folder / f"train-{number:05d}.tar" for number in range(tars)]
    for path in paths:
        with path.open("wb") as file:
            file.truncate(1 << 33)
    _write_tar(folder / "test-00000.tar", _jpeg(), 0, 100)
    files = [open_file(str(path)) for path in paths]
    few = max(10, 2 * catalog.LARGE // tars)
    stand_in = Index([f"{n:010d}" for n in range(few)], {}, np.zeros((few, 4), np.int64))
    open_index(files[0].name, files[0].stamp, "", lambda: stand_in, columns=4, size=1)
    one = catalog.open_catalog(files, "", lambda: [stand_in] * tars, "key")
    assert one is not None
    _grow(one.folder, tars, each)


def _jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(buffer, "JPEG")
    return buffer.getvalue()


def _grow(folder: Path, tars: int, each: int) -> None:
    """Gives each tar of a catalog `each` examples, by sparse files."""
    count, about = tars * each, json.loads((folder / "about.json").read_text())
    coded = {"kind": "coded", "values": [str(k) for k in range(CLASSES)], "file": "column-0"}
    about |= {"examples": count, "columns": {"label": coded}, "repeated": []}
    about["keys"] = {"kind": "coded", "values": ["0000000000"], "file": "keys"}
    for name, size in (("ids", 8), ("places", 32), ("column-0.codes", 4), ("keys.codes", 4)):
        with (folder / name).open("wb") as file:
            file.truncate(count * size)
    np.arange(0, count + 1, each).tofile(folder / "starts")
    (folder / "about.json").write_text(json.dumps(about))


def _memory(name: str) -> int:
    """Bytes of this process: RssAnon and VmRSS now, VmHWM the most that were ever resident."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _measured(make: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    wall, cpu, memory = time.perf_counter(), time.process_time(), _memory("RssAnon")
    made = make()
    return made, {
        "seconds": round(time.perf_counter() - wall, 4),
        "cpu_seconds": round(time.process_time() - cpu, 4),
        "allocated_bytes": _memory("RssAnon") - memory,
    }


def opened(
    large: int, folder: str, shuffle: int, batches: int, as_run: bool, decode: bool
) -> dict[str, Any]:
    """Opens a set in this process and draws batches of candidates, as a run does."""
    catalog.LARGE = large
    section = WebDataset(path=folder, size=SIZE, shuffle=shuffle)
    if as_run:
        split = Split(parts={"pool": 0.9, "gate": 0.05})
        config = Config(section, MLP(width=8, depth=1), MLP(width=8, depth=1), split=split)
        part, result = _measured(lambda: open_data(config).train)
    else:
        source, result = _measured(lambda: section.open().train)
        part = Part(source, source.all_rows(), source.labels("label"), None)
    result["resident_bytes"] = _memory("VmRSS")
    result["bytes_an_example"] = round(result["allocated_bytes"] / len(part.source), 2)
    times = []
    stream = Candidates(part, 0)
    for number in range(batches):
        began = time.perf_counter()
        rows, epochs = stream.at(number * BATCH * RATIO, BATCH * RATIO)
        assert len(part.source.ids[part.indices[rows]]) == len(part.labels[rows]) == len(epochs)
        assert len(part.source.files.places_of(part.source.rows[part.indices[rows]])) == len(rows)
        times.append(time.perf_counter() - began)
    result["super_batch_ms"] = {
        "first": round(1e3 * times[0], 2),
        "median_of_others": round(1e3 * float(np.median(times[1:])), 2),
        "largest_of_others": round(1e3 * max(times[1:]), 2),
    }
    if decode:
        began = time.perf_counter()
        for number in range(batches):
            part.batch(*stream.at(number * BATCH, BATCH))
        result["decoded_batch_ms"] = round(1e3 * (time.perf_counter() - began) / batches, 2)
    return result | {"examples": len(part.source), "most_resident_bytes": _memory("VmHWM")}


def _in_a_process(*arguments: Any) -> dict[str, Any]:
    command = [sys.executable, "-m", __name__, json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _middle(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The result with the median time."""
    return sorted(results, key=lambda one: one["seconds"])[len(results) // 2]


def main(scale: str, out: Path) -> dict:
    """Writes both sets and opens them; scale_2_index.json goes to `out`."""
    given = SCALES[scale]
    catalog.LARGE = large = given["large"]
    batches, result = given["batches"], {"scale": scale, "cores": len(os.sched_getaffinity(0))}
    with tempfile.TemporaryDirectory() as place:
        real, sparse = Path(place, "real"), Path(place, "sparse")
        for folder, write in ((real, write_tars), (sparse, write_sparse)):
            folder.mkdir()
            write(folder, *given[folder.name])
        result["real"] = {
            "tars": given["real"][0],
            "indexed_once": _in_a_process(large, str(real), 0, batches, False, False),
        }
        (folder,) = real.glob(".catalog-*")
        size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        examples = result["real"]["indexed_once"]["examples"]
        result["real"]["index_bytes_an_example"] = round(size / examples, 1)
        for name, as_run, shuffle in (
            ("opened", False, 0),
            ("run", True, 0),
            ("run in chunks", True, 100_000),
        ):
            if as_run:  # the split is made once
                first = _in_a_process(large, str(real), shuffle, batches, as_run, False)
                result["real"][f"{name}, first time"] = first
            again = [
                _in_a_process(large, str(real), shuffle, batches, as_run, True)
                for _ in range(given["opens"])
            ]
            result["real"][name] = _middle(again)
            print(name, result["real"][name], flush=True)
        result["sparse"] = {"tars": given["sparse"][0]}
        for name, shuffle in (("shuffled", 0), ("in chunks", 1_000_000)):
            again = [
                _in_a_process(large, str(sparse), shuffle, batches, False, False)
                for _ in range(given["opens"])
            ]
            result["sparse"][name] = _middle(again)
            print("sparse", name, result["sparse"][name], flush=True)
    (out / "scale_2_index.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def table(result: dict) -> str:
    """Markdown: one row a set and way of opening."""
    lines = [
        "| set | opened | seconds | CPU s | bytes allocated an example | resident when opened, MB "
        "| next super-batch, ms (first) |",
        "|" + " --- |" * 7,
    ]
    for kind, name in (
        *(("real", n) for n in result["real"] if isinstance(result["real"][n], dict)),
        *(("sparse", n) for n in result["sparse"] if isinstance(result["sparse"][n], dict)),
    ):
        row = result[kind][name]
        times = row["super_batch_ms"]
        cells = [f"{row['examples']:,} in {result[kind]['tars']:,} tars", name.replace("_", " ")]
        cells += [f"{row['seconds']:.2f}", f"{row['cpu_seconds']:.2f}"]
        cells += [f"{row['bytes_an_example']:.1f}", f"{row['resident_bytes'] / 1e6:,.0f}"]
        cells += [f"{times['median_of_others']:.1f} ({times['first']:,.0f})"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(json.dumps(opened(*json.loads(sys.argv[1]))))
