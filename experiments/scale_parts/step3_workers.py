"""`prepare`, `store_scores` and `curate` by several workers: the same bytes, and their time.

Photos of 1,000 px shrink to 256 px, so that decoding is what takes time. One worker and four write
them in turns, with one decoding thread each and with the default of one for each core; three more
plain commands into one folder are refused. All commands then run with 3 and 4 workers, and with 4
of which the first is killed when its first piece is there and started again. Each is a process.
"""

import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from active_learning.data import images
from active_learning.data.sources.preparation import SUMS
from active_learning.data.sources.shapes import Shapes
from experiments.bench_data import photo

SCALES = {
    "smoke": {
        "photos": 24,
        "rounds": 0,
        "scored": 8100,
        "curated": 120,
        "arms": {"prepare": ((2, True),), "store_scores": (), "curate": ()},
    },
    "desk": {
        "photos": 3600,
        "rounds": 2,
        "scored": 24_000,
        "curated": 1500,
        "arms": dict.fromkeys(
            ("prepare", "store_scores", "curate"), ((3, False), (4, False), (4, True))
        ),
    },
}
KINDS = 40  # different photos; the others are these with other bytes at the end


@dataclass(frozen=True)
class Job:
    """A command whose work is shared.

    Attributes:
      name: Of the command.
      flags: Its arguments for results in a folder, without --task.
      piece: Pattern of the files that the workers leave, beside or in that folder.
      content: What must be the same, in that folder.
    """

    name: str
    flags: Callable[[Path], list[str]]
    piece: str
    content: Callable[[Path], str]

    def start(self, out: Path, *more: str) -> subprocess.Popen:
        """The command as a process."""
        command = [sys.executable, "-m", f"active_learning.{self.name}", *self.flags(out), *more]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(processes: list[subprocess.Popen]) -> list[tuple[int, str]]:
    """Exit codes and last lines of stderr."""
    outputs = [(process, process.communicate()[1]) for process in processes]
    return [(process.returncode, (text.splitlines() or [""])[-1]) for process, text in outputs]


def succeed(processes: list[subprocess.Popen]) -> tuple[float, float]:
    """Waits for processes; returns seconds, and processor seconds of those that ended."""
    began, before = time.perf_counter(), _cpu()
    for code, line in ended(processes):
        if code:
            raise RuntimeError(line)
    return time.perf_counter() - began, _cpu() - before


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def alone(job: Job, out: Path, *more: str) -> dict:
    """One process that does everything."""
    seconds, cpu = succeed([job.start(out, *more)])
    return {"seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2)}


def shared(job: Job, out: Path, count: int, kill: bool, *more: str) -> dict:
    """`count` workers, then the last step."""
    began, before = time.perf_counter(), _cpu()
    workers = [job.start(out, f"--task={n}/{count}", *more) for n in range(count)]
    if kill:
        first = workers[0]
        while not list(out.parent.rglob(job.piece)) and first.poll() is None:
            time.sleep(0.02)
        first.kill()
        first.communicate()
        workers[0] = job.start(out, f"--task=0/{count}", *more)
    succeed(workers)
    seconds = time.perf_counter() - began
    finish, _ = succeed([job.start(out, "--task=finish", *more)])
    return {
        "seconds": round(seconds, 2),
        "seconds_to_finish": round(finish, 2),
        "cpu_seconds": round(_cpu() - before, 2),
    }


def write_photos(folder: Path, count: int) -> None:
    """Photos of 1,000 x 750 px in two class folders."""
    blobs = []
    for number in range(min(count, KINDS)):
        pixels = np.repeat(np.repeat(photo(number + 1), 2, axis=0), 2, axis=1)
        blobs.append(images.encode(pixels, 90))
    for number in range(count):
        place = folder / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        # Copies of one picture would be one id.
        blob = blobs[number % len(blobs)] + b"%d" % number
        (place / f"{number:05d}.jpg").write_bytes(blob)


def write_shapes(folder: Path, count: int) -> None:
    """Drawn shapes with a tenth of the labels wrong, in a folder for each class."""
    source = Shapes(train=count, test=1, noise=0.1).open().train
    pictures, labels = source.gather(np.arange(count))["image"], source.labels("label")
    for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        place = folder / f"class{label:02d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:05d}.png").write_bytes(images.encode_png(picture))


def digest(*names: str) -> Callable[[Path], str]:
    """A hash of these files in a folder."""
    return lambda out: hashlib.sha256(b"".join((out / n).read_bytes() for n in names)).hexdigest()


def jobs(folder: Path, given: dict) -> list[Job]:
    """The three commands, on sets that are written here."""
    photos, shapes, run = folder / "photos", folder / "shapes", folder / "run"
    write_photos(photos, given["photos"])
    shard = 50 if given["photos"] > 1000 else 4
    flags = ["--size=256", "--small=64", f"--shard={shard}"]
    prepare = lambda o: [str(photos), str(o), *flags]
    out = [Job("prepare", prepare, "*.array_record", digest(SUMS))]
    if given["arms"]["store_scores"]:
        _train(run, given["scored"])
        scores = lambda o: [str(run), f"--out={o}.npz"]
        same = lambda o: hashlib.sha256(Path(f"{o}.npz").read_bytes()).hexdigest()
        out.append(Job("store_scores", scores, ".*.pieces/*.npz", same))
    if given["arms"]["curate"]:
        write_shapes(shapes, given["curated"])
        curate = lambda o: [str(shapes), str(o), "--minutes=600"]
        same = digest("scores.csv", "summary.json", "index.html")
        out.append(Job("curate", curate, "work/*.npz", same))
    return out


def _train(run: Path, examples: int) -> None:
    config = Path(__file__).with_name("small_run.py")
    command = [sys.executable, "-m", "active_learning.main", f"--config={config}"]
    succeed(
        [
            subprocess.Popen(
                [*command, f"--config.data.train={examples}", f"--workdir={run}"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        ]
    )


def identity(job: Job, folder: Path, arms: tuple[tuple[int, bool], ...]) -> dict:
    """What one worker and several write."""
    first = folder / f"{job.name}-one" / "out"
    first.parent.mkdir()
    one, rows = alone(job, first), []
    for count, kill in arms:
        out = folder / f"{job.name}-{count}{'-killed' if kill else ''}" / "out"
        out.parent.mkdir()
        row = {"workers": count, "one_killed": kill} | shared(job, out, count, kill)
        rows.append(row | {"same_bytes": job.content(out) == job.content(first)})
        print(job.name, rows[-1], flush=True)
    return {"one": one, "several": rows}


def speed(job: Job, folder: Path, rounds: int) -> list[dict]:
    """One worker and four in turns, with one thread each and with the default."""
    rows = []
    for number in range(rounds):
        for threads in (1, 0):
            more = f"--threads={threads}"
            name = folder / f"speed-{number}-{threads}"
            one = alone(job, name / "one", more)
            four = shared(job, name / "four", 4, False, more)
            load = os.getloadavg()[0]
            row = {"threads": threads, "one": one, "four": four, "load": round(load, 1)}
            row["times_one_worker"] = round(one["seconds"] / four["seconds"], 2)
            rows.append(row)
            print(row, flush=True)
    return rows


def main(scale: str, out: Path) -> dict:
    """Runs all parts; writes scale_3.json to `out` and returns its content."""
    given = SCALES[scale]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        made = jobs(folder, given)
        result: dict = {
            "scale": scale,
            "cores": len(os.sched_getaffinity(0)),
            "photos": given["photos"],
            "scored": given["scored"],
            "curated": given["curated"],
        }
        for job in made:
            result[job.name] = identity(job, folder, given["arms"][job.name])
            _save(result, out)
        result["speed"] = speed(made[0], folder, given["rounds"])
        _save(result, out)
        three = [made[0].start(folder / "three") for _ in range(3)]
        refused = ended(three)
        result["three_at_once"] = {
            "exit_codes": sorted(code for code, _ in refused),
            "same_bytes": made[0].content(folder / "three")
            == made[0].content(folder / "prepare-one" / "out"),
            "refusals": [line.replace(place, "DIR") for code, line in refused if code],
        }
        print(result["three_at_once"], flush=True)
    _save(result, out)
    return result


def _save(result: dict, out: Path) -> None:
    (out / "scale_3.json").write_text(json.dumps(result, indent=1) + "\n")


def table(result: dict) -> str:
    """What several workers write and take beside one, as Markdown."""
    head = "| | seconds | processor seconds | same bytes |"
    lines = [head, f"|{' --- |' * 4}"]
    for name in ("prepare", "store_scores", "curate"):
        one = result[name]["one"]
        lines.append(f"| {name}, one | {one['seconds']:.0f} | {one['cpu_seconds']:.0f} | |")
        for row in result[name]["several"]:
            killed = ", one killed" if row["one_killed"] else ""
            seconds = f"{row['seconds']:.0f} + {row['seconds_to_finish']:.0f}"
            same = "yes" if row["same_bytes"] else "NO"
            lines.append(
                f"| {name}, {row['workers']}{killed} | {seconds} | {row['cpu_seconds']:.0f} "
                f"| {same} |"
            )
    return "\n".join(lines)
