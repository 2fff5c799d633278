"""`prepare` by several workers: the same bytes as by one, and how long they take.

JPEGs of 500 x 375 shrink to 256 px, with small views, so that decoding is what takes time. One
worker with one thread writes all; then 3 and 4 workers of one thread each share the shards, and one
of the 4 is killed half-way and started again. At last three plain `prepare` run into one folder:
one does it, the others are refused.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from active_learning.data import images
from active_learning.data.sources.preparation import SUMS
from experiments.bench_data import photo

SCALES = {
    "smoke": {"photos": 24, "shard": 4, "workers": [(2, True)]},
    "desk": {"photos": 1500, "shard": 50, "workers": [(3, False), (4, False), (4, True)]},
}


def write_photos(folder: Path, count: int) -> None:
    """Photos in two class folders."""
    for number in range(count):
        place = folder / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:05d}.jpg").write_bytes(images.encode(photo(number % 40 + 1), 90))
        # Copies of one picture would be one id.
        with (place / f"{number:05d}.jpg").open("ab") as file:
            file.write(b"%d" % number)


def start(source: Path, out: Path, shard: int, *flags: str) -> subprocess.Popen:
    """One worker with one thread."""
    command = [sys.executable, "-m", "active_learning.prepare", str(source), str(out), "--size=256"]
    command += ["--small=64", f"--shard={shard}", "--threads=1", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(processes: list[subprocess.Popen]) -> list[tuple[int, str]]:
    """Exit codes and last lines of stderr."""
    outputs = [(process, process.communicate()[1]) for process in processes]
    return [(process.returncode, (text.splitlines() or [""])[-1]) for process, text in outputs]


def shared(source: Path, out: Path, shard: int, count: int, kill: bool) -> tuple[float, float]:
    """`count` workers, then the last step. Returns the seconds of each of the two."""
    began = time.perf_counter()
    workers = [start(source, out, shard, f"--task={n}/{count}") for n in range(count)]
    if kill:
        while len(list(out.glob("*.array_record"))) < count:
            time.sleep(0.05)
        workers[0].kill()
        workers[0].communicate()
        workers[0] = start(source, out, shard, f"--task=0/{count}")
    assert all(code == 0 for code, _ in ended(workers))
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    assert ended([start(source, out, shard, "--task=finish")])[0][0] == 0
    return seconds, time.perf_counter() - began


def main(scale: str, out: Path) -> dict:
    """Runs all parts; writes scale_3_prepare.json to `out` and returns its content."""
    given = SCALES[scale]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_photos(folder / "photos", given["photos"])
        began = time.perf_counter()
        assert ended([start(folder / "photos", folder / "one", given["shard"])])[0][0] == 0
        alone = time.perf_counter() - began
        sums = (folder / "one" / SUMS).read_bytes()
        rows = []
        for count, kill in given["workers"]:
            name = f"{count}{' killed' if kill else ''}"
            work = shared(folder / "photos", folder / name, given["shard"], count, kill)
            rows.append(
                {
                    "workers": count,
                    "one_killed": kill,
                    "seconds": round(work[0], 2),
                    "seconds_to_finish": round(work[1], 2),
                    "times_one_worker": round(alone / work[0], 2),
                    "same_bytes": (folder / name / SUMS).read_bytes() == sums,
                }
            )
            print(rows[-1], flush=True)
        three = [start(folder / "photos", folder / "three", given["shard"]) for _ in range(3)]
        refused = ended(three)
        result = {
            "scale": scale,
            "cores": len(os.sched_getaffinity(0)),
            "photos": given["photos"],
            "shards": -(-given["photos"] // given["shard"]),
            "seconds_alone": round(alone, 2),
            "workers": rows,
            "three_at_once": {
                "exit_codes": sorted(code for code, _ in refused),
                "same_bytes": (folder / "three" / SUMS).read_bytes() == sums,
                "refusals": [line.replace(place, "DIR") for code, line in refused if code],
            },
        }
        print(result["three_at_once"], flush=True)
    (out / "scale_3_prepare.json").write_text(json.dumps(result, indent=1) + "\n")
    return result
