"""Our loader against grain, over one source: JPEGs of 500 x 375 at 224 px, in batches, in one
order.

    python -m experiments.bench_loader [--preset=smoke|full] [--out experiments/results]

source: batches read one after the other. loader: `data.pipeline.Loader`, two batches ahead. grain:
a MapDataset that reads one example at a time in as many threads as there are cores, batched. Every
round times all of them in turn; the time of the processor, which a busy machine does not change,
beside that of the clock, which it does.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import grain
import numpy as np

from active_learning.data import images
from active_learning.data.loader import Candidates, Loader
from active_learning.data.sources.image_folder import ImageFolder
from experiments.bench_data import SIZE, interleaved, part_of, photo, ratio

PRESETS = {
    "smoke": {"photos": 32, "batches": 2, "rounds": 2},
    "full": {"photos": 300, "batches": 4, "rounds": 9},
}
BATCH = 32


class Ending(Candidates):
    """Nothing is read beyond `end`, where the others stop as well."""

    def __init__(self, part, seed: int, end: int):
        super().__init__(part, seed)
        self.end = end

    def read(self, position, count, mine, small):
        return super().read(position, count, mine, small) if position < self.end else {}


def bench(photos: int, batches: int, rounds: int) -> dict:
    with tempfile.TemporaryDirectory() as place:
        for n in range(photos):
            (Path(place) / f"class {n % 4}").mkdir(exist_ok=True)
            (Path(place) / f"class {n % 4}" / f"{n:05d}.jpg").write_bytes(images.encode(photo(n)))
        part = part_of(ImageFolder(path=place, size=SIZE).open().train)
        threads = len(os.sched_getaffinity(0))

        def source(call: int) -> None:
            stream = Candidates(part, call)
            for n in range(batches):
                stream.read(n * BATCH, BATCH, slice(None), False)

        def loader(call: int) -> None:
            ours = Loader(Ending(part, call, batches * BATCH), None)
            for _ in range(batches):
                ours.next(BATCH)
            ours.close()

        def one(row: int) -> dict[str, np.ndarray]:
            return {
                name: values[0]
                for name, values in part.batch(np.array([row]), np.zeros(1, np.int32)).items()
            }

        def theirs(call: int) -> None:
            rows, _ = Candidates(part, call).at(0, batches * BATCH)
            reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * BATCH)
            for _ in (
                grain.MapDataset.source(rows.tolist())
                .map(one)
                .to_iter_dataset(reading)
                .batch(BATCH)
            ):
                pass

        seconds = interleaved({"source": source, "loader": loader, "grain": theirs}, rounds)
    medians = {
        name: np.median(values, axis=0) / (batches * BATCH) for name, values in seconds.items()
    }
    return {
        "threads": threads,
        "rounds": rounds,
        "loader_over_source": ratio(seconds, "loader", "source"),
        "grain_over_loader": ratio(seconds, "grain", "loader"),
        "images_per_s": {name: 1 / wall for name, (wall, _) in medians.items()},
        "processor_ms_an_image": {name: 1e3 * cpu for name, (_, cpu) in medians.items()},
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
    name = "bench_loader.json" if args.preset == "full" else f"bench_loader_{args.preset}.json"
    (args.out / name).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
