"""Reading tars from a bucket on loopback: what a slow or failing server does to a run's examples.

The bucket is Google's protocol in a process of its own. Candidates are drawn and decoded as in a
run, and compared with those of the same tars on disk, by ids and pixels:

- ten percent of the requests fail, and an outage of 30 s in the middle;
- each request takes 50 ms: one request an example (`cache_gb=0`), blocks in a cache that holds the
  whole set (empty, and full), and chunks through a cache that does not (`shuffle`);
- the index of the tars, by requests for headers alone and through blocks.

The examples are JPEGs of 128 px (about 5 kB), decoded to 64 px.
"""

import dataclasses
import hashlib
import io
import json
import multiprocessing
import os
import tarfile
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import obstore

from active_learning.data import images
from active_learning.data.loader import Candidates, Loader
from active_learning.data.parts import Part
from active_learning.data.sources import remote
from active_learning.data.sources.source import Source
from active_learning.data.sources.webdataset import WebDataset
from active_learning.storage import addresses
from experiments.bucket_servers import Faults, Google, environment, serve, with_faults

BATCH, SIZE, SIDE, SHUFFLE = 256, 64, 128, 512
SCALES = {
    "smoke": {"tars": 2, "examples": 1200, "drawn": 512, "outage": 1.0, "block": 1 << 16},
    "desk": {"tars": 8, "examples": 2500, "drawn": 5120, "outage": 30.0, "block": 1 << 20},
}
LATENCY, FAULTS = 0.05, 0.1
ADDRESS = "gs://bucket/set"


def photo(number: int) -> bytes:
    """A JPEG with shapes and grain."""
    random = np.random.default_rng(number)
    coarse = random.integers(0, 256, (8, 8, 3)).repeat(SIDE // 8, 0).repeat(SIDE // 8, 1)
    image = coarse + random.normal(0, 12, (SIDE, SIDE, 3))
    return images.encode(np.clip(image, 0, 255).astype(np.uint8), 85)


def write_tars(folder: Path, count: int, examples: int) -> None:
    """Tars of images with labels, keys in order."""
    for number in range(count):
        with tarfile.open(folder / f"train-{number:04d}.tar", "w") as tar:
            for n in range(number * examples, (number + 1) * examples):
                for suffix, content in ((".jpg", photo(n)), (".cls", b"%d" % (n % 10))):
                    member = tarfile.TarInfo(f"{n:08d}{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def _serve(pipe: Any) -> None:
    """The bucket's process: a message sets faults, every answer is how many requests there were."""
    faults = Faults()
    with serve(with_faults(Google("bucket"), faults)) as address:
        pipe.send(address)
        while (changes := pipe.recv()) is not None:
            if seconds := changes.pop("outage", 0):
                faults.outage(seconds)
            for name, value in changes.items():
                setattr(faults, name, value)
            pipe.send((faults.requests, faults.injected))


@contextmanager
def bucket():
    """A bucket in another process; yields a function that sets faults and counts requests."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    os.environ.update(environment("gs", ours.recv()))
    addresses._store.cache_clear()
    lock = threading.Lock()

    def control(**changes: Any) -> tuple[int, int]:
        with lock:
            ours.send(changes)
            return ours.recv()

    try:
        yield control
    finally:
        ours.send(None)
        process.join()


def opened(path: str, cache: Path, **keys: Any) -> Source:
    return WebDataset(path=path, size=SIZE, cache=str(cache), holdout=0.01, **keys).open().train


def drawn(source: Source, count: int, halfway=None) -> tuple[str, float, float]:
    """Draws `count` candidates as a run does.

    Returns a digest of their ids and pixels, the seconds, and those of the processor.
    """
    part = Part(source, np.arange(len(source)), source.labels("label"), None)
    loader, digest = Loader(Candidates(part, 0), None), hashlib.sha256()
    began, cpu = time.perf_counter(), time.process_time()
    for batch in range(count // BATCH):
        if halfway is not None and batch == count // BATCH // 2:
            halfway()
        loaded = loader.next(BATCH)
        digest.update(part.ids[loaded.rows].tobytes())
        digest.update(np.asarray(loaded.batch["image"]).tobytes())
    seconds = time.perf_counter() - began
    loader.close()
    assert not any(problems.bad for problems in source.problems_of())
    return digest.hexdigest(), seconds, time.process_time() - cpu


def _failing(control, folder: Path, given: dict, local: dict) -> list[dict]:
    """The rows with faults: are the examples those of the disk?"""
    chunks = {"cache_gb": 0.6 * local["bytes"] / 1e9, "shuffle": SHUFFLE}
    rows = []
    for name, faults, keys in (
        ("10 % of the requests fail, one by one", {"fraction": FAULTS}, {"cache_gb": 0.0}),
        ("10 % of the requests fail, blocks", {"fraction": FAULTS}, {}),
        ("10 % of the requests fail, in chunks", {"fraction": FAULTS}, chunks),
        (f"an outage of {given['outage']:g} s, one by one", {}, {"cache_gb": 0.0}),
    ):
        before = control(**faults)
        source = opened(ADDRESS, folder / name, **keys)
        halfway = None if faults else (lambda: control(outage=given["outage"]))
        digest, seconds, _ = drawn(source, given["drawn"], halfway)
        after = control(fraction=0.0)
        wanted = local["in chunks" if keys.get("shuffle") else "digest"]
        rows.append(
            {
                "what": name,
                "same_ids_and_pixels": digest == wanted,
                "requests": after[0] - before[0],
                "failed": after[1] - before[1],
                "seconds": round(seconds, 2),
            }
        )
        print(rows[-1], flush=True)
    return rows


def _rates(control, folder: Path, given: dict, local: dict) -> list[dict]:
    """The rows with 50 ms a request: examples a second, and requests an example."""
    chunks = {"cache_gb": 0.6 * local["bytes"] / 1e9, "shuffle": SHUFFLE}
    rows = []
    for name, cache, keys in (
        ("one by one", "one", {"cache_gb": 0.0}),
        ("blocks, nothing in the cache", "blocks", {}),
        ("blocks, all in the cache", "blocks", {}),
        ("in chunks, through half of the set", "chunks", chunks),
    ):
        control(latency=0.0)
        source = opened(ADDRESS, folder / cache, **keys)
        if name == "blocks, nothing in the cache":
            _forget(folder / cache)
            source = opened(ADDRESS, folder / cache, **keys)
        before = control(latency=LATENCY)
        digest, seconds, cpu = drawn(source, given["drawn"])
        after = control()
        wanted = local["in chunks" if keys.get("shuffle") else "digest"]
        rows.append(
            {
                "what": name,
                "examples_per_second": round(given["drawn"] / seconds),
                "cpu_seconds_per_1000": round(1000 * cpu / given["drawn"], 3),
                "requests_per_example": round((after[0] - before[0]) / given["drawn"], 4),
                "same_ids_and_pixels": digest == wanted,
            }
        )
        print(rows[-1], flush=True)
    return rows


def _forget(cache: Path) -> None:
    """Removes copies, and leaves indices."""
    for file in (cache / "copies").rglob("*"):
        if file.is_file():
            file.unlink()


def _indexing(control, folder: Path) -> list[dict]:
    """The rows about the first opening at 50 ms a request."""
    rows = []
    for name, keys in (("headers", {"cache_gb": 0.0}), ("blocks", {})):
        before = control(latency=LATENCY)
        began = time.perf_counter()
        source = opened(ADDRESS, folder / f"index {name}", **keys)
        seconds = time.perf_counter() - began
        after = control(latency=0.0)
        rows.append(
            {
                "what": name,
                "seconds": round(seconds, 2),
                "requests_per_example": round((after[0] - before[0]) / len(source), 4),
            }
        )
        print(rows[-1], flush=True)
    return rows


def main(scale: str, out: Path) -> dict:
    """Runs all parts; writes scale_1_data.json to `out` and returns its content."""
    given = SCALES[scale]
    remote.BLOCK, block = given["block"], remote.BLOCK
    try:
        with tempfile.TemporaryDirectory() as place, bucket() as control:
            folder = Path(place)
            (folder / "set").mkdir()
            write_tars(folder / "set", given["tars"], given["examples"])
            store, _ = addresses.store_of(ADDRESS)
            for file in sorted((folder / "set").iterdir()):
                obstore.put(store, f"set/{file.name}", file.read_bytes())
            source = opened(str(folder / "set"), folder / "local")
            digest, seconds, cpu = drawn(source, given["drawn"])
            chunked = dataclasses.replace(source, shuffle=SHUFFLE)  # pyright: ignore
            local = {
                "digest": digest,
                "in chunks": drawn(chunked, given["drawn"])[0],
                "bytes": sum(file.stat().st_size for file in (folder / "set").iterdir()),
            }
            result = {
                "scale": scale,
                "cores": len(os.sched_getaffinity(0)),
                "set": {
                    "tars": given["tars"],
                    "examples": given["tars"] * given["examples"],
                    "bytes": local["bytes"],
                    "drawn": given["drawn"],
                    "batch": BATCH,
                    "block_bytes": given["block"],
                    "shuffle": SHUFFLE,
                    "connections": remote.CONNECTIONS,
                },
                "local": {
                    "examples_per_second": round(given["drawn"] / seconds),
                    "cpu_seconds_per_1000": round(1000 * cpu / given["drawn"], 3),
                },
                "indexing": _indexing(control, folder),
                "latency_ms": 1000 * LATENCY,
                "rates": _rates(control, folder, given, local),
                "faults": _failing(control, folder, given, local),
            }
    finally:
        remote.BLOCK = block
    (out / "scale_1_data.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    import sys

    main(sys.argv[1], Path(sys.argv[2]))
