"""What reading costs, as ratios within one run: every round times all of a group's parts in turn,
so that drift hits all alike. Both wall and CPU time are taken: on a machine that others use the
latter is the steadier.

    python -m experiments.bench_data [--preset=smoke|full] [--out experiments/results]

memory: a batch from arrays in memory, with ids and labels, against NumPy taking the same rows.
decode: JPEGs of 500 x 375 to 224 px through a source, against the bare decoder and resize in as
many threads. candidates: a sub-batch of b in full at ratio 1; at ratio 5 all 5 b in full (naive),
by DCT scale, or from the small views that `prepare --small=64` wrote, and then b in full.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from active_learning.data import images
from active_learning.data.parts import Part
from active_learning.data.sources.array_record import ArrayRecords
from active_learning.data.sources.from_path import listings_of
from active_learning.data.sources.image_folder import ImageFolder
from active_learning.data.sources.shapes import uniform
from active_learning.data.sources.source import Memory, Source
from active_learning.prepare import Options, prepare

PRESETS = {
    "smoke": {"photos": 24, "rows": 2_000, "rounds": 2},
    "full": {"photos": 600, "rows": 50_000, "rounds": 21},
}
HEIGHT, WIDTH, SIZE, SMALL = 375, 500, 224, 64
RATIO = 5


def photo(number: int) -> np.ndarray:
    """A synthetic picture with the file size of a photo (about 60 kB at quality 90): smooth shapes,
    edges and grain.
    """
    u = uniform(40, 7, np.array([number]))[0]
    y, x = np.mgrid[0 : 1 : HEIGHT * 1j, 0 : 1 : WIDTH * 1j]
    image = np.zeros((HEIGHT, WIDTH, 3))
    for k in range(6):
        a, b, c, d, e, f = u[6 * k : 6 * k + 6]
        wave = np.sin(2 * np.pi * (3 * a * x + 3 * b * y + c))
        image += (wave if k % 2 else np.sign(wave))[..., None] * np.array([d, e, f]) * 30
    noise = np.random.default_rng(number).normal(0, 12, image.shape)
    return np.clip(120 + image + noise, 0, 255).astype(np.uint8)


def interleaved(calls: dict[str, Callable[[int], object]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds (rounds, wall and CPU of all threads) of each call; each is called once before."""
    for call in calls.values():
        call(0)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for n in range(rounds):
        names = list(calls)
        for name in names[n % len(names) :] + names[: n % len(names)]:
            wall, cpu = time.perf_counter(), time.process_time()
            calls[name](n + 1)
            seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: np.array(values) for name, values in seconds.items()}


def ratio(seconds: dict[str, np.ndarray], over: str, under: str) -> dict[str, float]:
    """Medians over the rounds of one time over another."""
    wall, cpu = np.median(seconds[over] / seconds[under], axis=0).tolist()
    return {"wall": wall, "cpu": cpu}


def part_of(source: Source) -> Part:
    return Part(source, np.arange(len(source)), source.labels("label"), None)


def rows_of(n: int, count: int) -> Callable[[int], np.ndarray]:
    """Other rows at every call, the same for all that are compared."""
    return lambda call: np.random.default_rng(call).integers(0, n, count)


def memory(rows: int, rounds: int) -> dict:
    """A batch of 512 images of 32 x 32 from memory."""
    image = np.random.default_rng(0).integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)
    part = part_of(Memory(image, {"label": np.zeros(rows, np.int32)}, 1))
    pick, epochs = rows_of(rows, 512), np.zeros(512, np.int32)

    def repeated(once: Callable[[np.ndarray], object]) -> Callable[[int], None]:
        return lambda call: [once(pick(20 * call + k)) for k in range(20)] and None

    calls = {
        "numpy": repeated(lambda at: image[at]),
        "batch": repeated(lambda at: part.batch(at, epochs)),
        "draw": repeated(lambda at: at),
    }
    seconds = interleaved(calls, rounds)
    net = {name: seconds[name] - seconds["draw"] for name in ("numpy", "batch")}
    return {
        "gather_share_of_numpy": ratio(net, "numpy", "batch"),
        "images_per_s": 20 * 512 / float(np.median(net["batch"][:, 0])),
    }


def bare_view(blob: bytes) -> np.ndarray:
    """The decoder and one resize, nothing checked: what nobody can go below."""
    if images.simplejpeg is None or images.cv2 is None:
        return images.decode_view(blob, SIZE)
    image = images.simplejpeg.decode_jpeg(blob, "RGB", fastdct=False, fastupsample=False)
    left = (WIDTH - HEIGHT) // 2
    return images.cv2.resize(
        image[:, left : left + HEIGHT], (SIZE, SIZE), interpolation=images.cv2.INTER_AREA
    )


def decode(folder: Path, rounds: int) -> dict:
    """JPEGs from disk at 224 px."""
    part = part_of(ImageFolder(path=str(folder), size=SIZE).open().train)
    files, threads = part.source.files, len(os.sched_getaffinity(0))
    blobs = [files.read(int(row)) for row in part.source.rows]
    pick, epochs, pool = (
        rows_of(len(blobs), min(128, len(blobs))),
        np.zeros(min(128, len(blobs)), np.int32),
        ThreadPoolExecutor(threads),
    )

    def bare(call: int) -> None:
        list(pool.map(lambda row: bare_view(blobs[row]), pick(call)))

    seconds = interleaved(
        {"bare": bare, "batch": lambda call: part.batch(pick(call), epochs)}, rounds
    )
    pool.shutdown()
    rate = len(epochs) / float(np.median(seconds["batch"][:, 0]))
    return {
        "share_of_bare_decoder": ratio(seconds, "bare", "batch"),
        "images_per_s": rate,
        "threads": threads,
    }


def candidates(folder: Path, prepared: Path, rounds: int) -> dict:
    """The same b examples in full after 5 b candidates in several ways."""
    photos = part_of(ImageFolder(path=str(folder), size=SIZE, small=SMALL).open().train)
    views = part_of(ArrayRecords(path=str(prepared), size=SIZE, small=SMALL).open().train)
    b = min(64, len(photos) // RATIO)
    pick = rows_of(len(photos), RATIO * b)
    full = lambda part, at: part.read(at)
    small = lambda part, at: part.read(at, small=True)
    calls = {
        "ratio 1": lambda call: full(photos, pick(call)[:b]),
        "naive": lambda call: full(photos, pick(call)),
        "by DCT scale": lambda call: (small(photos, pick(call)), full(photos, pick(call)[:b])),
        "prepared ratio 1": lambda call: full(views, pick(call)[:b]),
        "prepared": lambda call: (small(views, pick(call)), full(views, pick(call)[:b])),
    }
    seconds = interleaved(calls, rounds)
    costs = {name: ratio(seconds, name, "ratio 1") for name in calls if name != "ratio 1"}
    size = [len(photos.source.files.read(int(row))) for row in photos.source.rows[:50]]
    view = [len(views.source.files.read_small(int(row))) for row in views.source.rows[:50]]
    return {
        "b": b,
        "ratio": RATIO,
        "cost_of_ratio_1": costs,
        "prepared_over_its_own_ratio_1": ratio(seconds, "prepared", "prepared ratio 1"),
        "bytes": {"photo": float(np.mean(size)), "small view": float(np.mean(view))},
    }


def bench(photos: int, rows: int, rounds: int) -> dict:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "photos"
        for n in range(photos):
            (folder / f"class {n % 4}").mkdir(parents=True, exist_ok=True)
            (folder / f"class {n % 4}" / f"{n:05d}.jpg").write_bytes(images.encode(photo(n)))
        section = ImageFolder(path=str(folder), size=SIZE)
        began = time.perf_counter()
        prepare(*listings_of(section), Path(place) / "out", Options(small=SMALL))
        rate = photos / (time.perf_counter() - began)
        return {
            "decoder": images.decoders(),
            "rounds": rounds,
            "memory": memory(rows, rounds),
            "decode": decode(folder, rounds),
            "candidates": candidates(folder, Path(place) / "out", rounds),
            "prepare_images_per_s": rate,
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=PRESETS, default="full")
    parser.add_argument("--out", type=Path, default=Path("experiments/results"))
    args = parser.parse_args()
    result = bench(**PRESETS[args.preset])
    args.out.mkdir(parents=True, exist_ok=True)
    name = "bench_data.json" if args.preset == "full" else f"bench_data_{args.preset}.json"
    (args.out / name).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
