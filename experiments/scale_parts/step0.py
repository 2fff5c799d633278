"""Thousands of tars: loading their indices again and again, within few open files.

2,000 tars of 10 images are written and indexed once; then all indices are loaded 500 times at a
limit of 256 open files. A fault is an error, an index that counts as damaged, or another listing
than the first one's.
"""

import io
import json
import logging
import os
import resource
import statistics
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from active_learning.data.sources.index import LOG
from active_learning.data.sources.webdataset import WebDataset

OPEN_FILES, IMAGES = 256, 10
SIZES = {"desk": (2000, 500), "smoke": (20, 3)}  # Tars, and loads of all of them.


def write_tars(folder: Path, count: int) -> None:
    """Tars of a few tiny images each, with labels."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    for number in range(count):
        with tarfile.open(folder / f"train-{number:05d}.tar", "w") as tar:
            for image in range(IMAGES):
                for suffix, data in ((".jpg", buffer.getvalue()), (".cls", b"%d" % (image % 5))):
                    member = tarfile.TarInfo(f"{number:05d}{image:03d}{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


class _Rebuilt(logging.Handler):
    """Counts indices that were made anew because they seemed damaged or old."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += "anew" in record.getMessage()


def _load(folder: Path) -> tuple[float, float, np.ndarray]:
    """Wall-clock and CPU seconds of one load, and the ids."""
    wall, cpu = time.monotonic(), time.process_time()
    listing, _ = WebDataset(path=str(folder)).listings()
    return time.monotonic() - wall, time.process_time() - cpu, np.asarray(listing.ids)


def main(scale: str, out: Path) -> dict:
    """Runs the loads; writes scale_0.json to `out` and returns its content."""
    tars, loads = SIZES[scale]
    rebuilt, level = _Rebuilt(), LOG.level
    former = resource.getrlimit(resource.RLIMIT_NOFILE)
    LOG.addHandler(rebuilt)
    LOG.setLevel(logging.INFO)
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, former[1]))
    try:
        with tempfile.TemporaryDirectory() as folder:
            write_tars(Path(folder), tars)
            first, _, ids = _load(Path(folder))
            seconds, cpu, most_open, errors, differ = [], [], 0, [], 0
            for _ in range(loads):
                try:
                    wall, process, again = _load(Path(folder))
                except Exception as error:  # Every kind is a fault of the load.
                    errors.append(f"{type(error).__name__}: {error}"[:200])
                    continue
                seconds.append(wall)
                cpu.append(process)
                differ += not np.array_equal(again, ids)
                most_open = max(most_open, len(os.listdir("/proc/self/fd")))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, former)
        LOG.setLevel(level)
        LOG.removeHandler(rebuilt)
    result = {
        "tars": tars,
        "loads": loads,
        "open_files_limit": OPEN_FILES,
        "open_files_after_a_load": most_open,
        "seconds_first_load": round(first, 3),
        "seconds_per_load": _quantiles(seconds),
        "cpu_seconds_per_load": _quantiles(cpu),
        "faults": len(errors) + rebuilt.count + differ,
        "errors": errors[:10],
        "indices_rebuilt": rebuilt.count,
        "other_listings": differ,
    }
    (out / "scale_0.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def _quantiles(values: list[float]) -> dict[str, float]:
    median, largest = statistics.median(values), max(values)
    return {"median": round(median, 3), "largest": round(largest, 3)}


if __name__ == "__main__":
    import sys

    main(sys.argv[1], Path(sys.argv[2]))
