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
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from active_learning.data import images
from active_learning.data.sources.preparation import SUMS
from active_learning.data.sources.shapes import Shapes
from experiments.bench_data import photo

SCALES = {
    "smoke": {
        "prepare": 24,
        "store_scores": 0,
        "curate": 0,
        "timed": 8,
        "rounds": 0,
        "arms": [[2, True]],
    },
    "desk": {
        "prepare": 3600,
        "store_scores": 24_000,
        "curate": 1500,
        "timed": 9600,
        "rounds": 2,
        "arms": [[3, False], [4, False], [4, True]],
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
    seconds, cpu = time.perf_counter() - began, _cpu() - before
    finish, cpu_to_finish = succeed([job.start(out, "--task=finish", *more)])
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "seconds_to_finish": round(finish, 2),
        "cpu_seconds_to_finish": round(cpu_to_finish, 2),
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


def prepare_job(folder: Path, count: int) -> Job:
    """`prepare` of photos that are written here."""
    write_photos(folder / "photos", count)
    flags = ["--size=256", "--small=64", f"--shard={50 if count > 1000 else 4}"]
    command = lambda out: [str(folder / "photos"), str(out), *flags]
    return Job("prepare", command, "*.array_record", digest(SUMS))


def scores_job(folder: Path, count: int) -> Job:
    """`store_scores` of a run that is trained here."""
    _train(folder / "run", count)
    command = lambda out: [str(folder / "run"), f"--out={out}.npz"]
    same = lambda out: hashlib.sha256(Path(f"{out}.npz").read_bytes()).hexdigest()
    return Job("store_scores", command, ".*.pieces/*.npz", same)


def curate_job(folder: Path, count: int) -> Job:
    """`curate` of pictures that are written here."""
    write_shapes(folder / "shapes", count)
    command = lambda out: [str(folder / "shapes"), str(out), "--minutes=600"]
    return Job("curate", command, "work/*.npz", digest("scores.csv", "summary.json", "index.html"))


JOBS = {"prepare": prepare_job, "store_scores": scores_job, "curate": curate_job}


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


def identity(job: Job, folder: Path, arms: Sequence[Sequence]) -> dict:
    """What one worker and several write."""
    first = folder / "one" / "out"
    first.parent.mkdir()
    one, rows = alone(job, first), []
    for count, kill in arms:
        out = folder / f"{count}{'-killed' if kill else ''}" / "out"
        out.parent.mkdir()
        row = {"workers": count, "one_killed": kill} | shared(job, out, count, kill)
        rows.append(row | {"same_bytes": job.content(out) == job.content(first)})
        print(job.name, rows[-1], flush=True)
    return {"one": one, "several": rows}


def speed(folder: Path, given: dict) -> dict:
    """`prepare` by one worker and four in turns, with one thread each and with the default."""
    job, rows = prepare_job(folder, given["timed"]), []
    for number in range(given["rounds"]):
        for threads in (1, 0):
            more, place = f"--threads={threads}", folder / f"speed-{number}-{threads}"
            one = alone(job, place / "one", more)
            four = shared(job, place / "four", 4, False, more)
            row = {"threads": threads, "one": one, "four": four}
            row["times_one_worker"] = round(one["seconds"] / four["seconds"], 2)
            rows.append(row | {"load": round(os.getloadavg()[0], 1)})
            shutil.rmtree(place)
            print(rows[-1], flush=True)
    return {"photos": given["timed"], "rounds": rows}


def three_at_once(folder: Path, given: dict) -> dict:
    """Three plain `prepare` into one folder: one does it, the others are refused."""
    job = prepare_job(folder, given["prepare"])
    refused = ended([job.start(folder / "three") for _ in range(3)])
    alone(job, folder / "one")
    return {
        "exit_codes": sorted(code for code, _ in refused),
        "same_bytes": job.content(folder / "three") == job.content(folder / "one"),
        "refusals": [line.replace(str(folder), "DIR") for code, line in refused if code],
    }


def main(scale: str, out: Path) -> dict:
    """Measures what is not in scale_3.json in `out` already; returns its content."""
    given, file = SCALES[scale], out / "scale_3.json"
    result: dict = {"scale": scale, "cores": len(os.sched_getaffinity(0)), "sets": given}
    before = json.loads(file.read_text()) if file.exists() else {}
    if all(before.get(name) == value for name, value in result.items()):
        result = before
    parts: dict[str, Callable[[Path], dict]] = {
        name.__name__: partial(name, given=given) for name in (speed, three_at_once)
    }
    parts |= {name: partial(_identity_of, name, given=given) for name in JOBS if given[name]}
    for name, measure in parts.items():
        if name in result:
            continue
        with tempfile.TemporaryDirectory() as place:
            result[name] = measure(Path(place))
        file.write_text(json.dumps(result, indent=1) + "\n")
    return result


def _identity_of(name: str, folder: Path, given: dict) -> dict:
    return identity(JOBS[name](folder, given[name]), folder, given["arms"])


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
            what = f"{name}, {row['workers']}{killed}"
            lines.append(f"| {what} | {seconds} | {row['cpu_seconds']:.0f} | {same} |")
    return "\n".join(lines)


def speed_table(result: dict) -> str:
    """How long `prepare` takes by one worker and by four, as Markdown."""
    head = "| threads of each | one: seconds (of processors) | four | times one |"
    lines = [head, f"|{' --- |' * 4}"]
    for row in result["speed"]["rounds"]:
        one, four = row["one"], row["four"]
        cells = [
            row["threads"] or "one a core",
            *(f"{side['seconds']:.0f} ({side['cpu_seconds']:.0f})" for side in (one, four)),
            f"{row['times_one_worker']:.2f}",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)
