"""Whole runs in a bucket on loopback: what faults, kills and an outage do to their ids.

The commands run in processes of their own, against Google's, Amazon's and Azure's protocols. For
each:

- 10 % of the requests fail; the run is killed with SIGKILL once its first checkpoint is committed,
  and continued by the same command with an empty cache folder, as on another machine; then it is
  evaluated, reported into the bucket, and its ids are compared with those of a run on disk;
- the same run in a bucket that does not answer for 30 s from the first committed checkpoint on;
- what the commands say of a bucket that refuses or is not there, and how soon.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from active_learning.storage import addresses
from active_learning.storage.caches import user_cache
from active_learning.storage.commits import Bucket
from active_learning.storage.runs import readable
from experiments.bucket_servers import Faults, buckets

# Updates, and seconds of the outage.
SCALES = {"smoke": (24, 2.0), "desk": (400, 30.0)}
FAULTS = 0.1


class Commands:
    """The program's commands, in processes of their own.

    Args:
      environment: By which they find the bucket.
      caches: Where their caches are, but for compiled programs, which all share.
      flags: Of the training command.
    """

    def __init__(self, environment: dict[str, str], caches: Path, flags: list[str]):
        self._environment, self._caches, self._flags = environment, caches, flags

    def start(self, module: str, *words: str, cache: str = "one") -> subprocess.Popen:
        compiled = {"JAX_COMPILATION_CACHE_DIR": str(user_cache() / "compiled")}
        own = compiled | {"XDG_CACHE_HOME": str(self._caches / cache)}
        return subprocess.Popen(
            [sys.executable, "-m", f"active_learning.{module}", *words],
            env=os.environ | self._environment | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def train(self, workdir: str, cache: str = "one") -> subprocess.Popen:
        return self.start("main", f"--workdir={workdir}", *self._flags, cache=cache)


def finished(process: subprocess.Popen) -> str:
    """What a command printed; it must have succeeded."""
    out, error = process.communicate()
    assert process.returncode == 0, error[-2000:]
    return out


def refused(process: subprocess.Popen) -> dict:
    """How a command ended that could not succeed."""
    began = time.monotonic()
    _, error = process.communicate()
    lines = error.strip().splitlines()
    return {
        "exit_code": process.returncode,
        "lines": len(lines),
        "message": lines[-1],
        "seconds": round(time.monotonic() - began, 1),
    }


def digest_of(run: Path) -> str:
    """Hash over the recorded ids; what a killed run wrote twice counts once."""
    rows: list = []
    for file in sorted((run / "chosen").glob("*.npy")):
        rows[int(file.stem) :] = list(np.load(file))
    return hashlib.sha256(np.stack(rows).tobytes()).hexdigest()[:16]


def wait_for_step(process: subprocess.Popen, address: str) -> int:
    """Waits until a run has committed a checkpoint of its own; returns its update."""
    bucket = Bucket(address)
    while process.poll() is None:
        commit = bucket.read_commit()
        names = [] if commit is None else [n for n in commit.files if n.startswith("checkpoints/")]
        if names:
            return int(names[0].split("/")[1])
        time.sleep(0.1)
    raise AssertionError(f"ended before its first checkpoint: {process.communicate()[1][-2000:]}")


@contextmanager
def entered(kind: str) -> Iterator[tuple[dict[str, str], Faults]]:
    """An empty bucket that this process finds as well."""
    with buckets(kind) as (environment, faults):
        os.environ.update(environment)
        addresses._store.cache_clear()
        yield environment, faults


def killed_and_continued(commands: Commands, faults: Faults, kind: str) -> dict:
    """The run with faults, killed once and continued elsewhere, then evaluated and reported."""
    address = f"{kind}://bucket/experiments/run"
    faults.fraction = FAULTS
    process = commands.train(address)
    step = wait_for_step(process, address)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished(commands.train(address, cache="another"))
    metrics = json.loads(finished(commands.start("evaluate", address)))
    report = f"{kind}://bucket/report"
    finished(commands.start("report", f"{kind}://bucket/experiments", f"--out={report}"))
    faults.fraction = 0.0
    return {
        "killed_after_commit_of_update": step,
        "digest": digest_of(readable(address)),
        "test_accuracy": metrics["test"]["accuracy"],
        "reported": sorted(Bucket(report).names()),
        "requests": faults.requests,
        "failed": faults.injected,
    }


def through_an_outage(commands: Commands, faults: Faults, kind: str, seconds: float) -> dict:
    """The run while its bucket does not answer for a while."""
    address = f"{kind}://bucket/outage"
    before = faults.injected
    process = commands.train(address)
    step = wait_for_step(process, address)
    faults.outage(seconds)
    began = time.monotonic()
    _, error = process.communicate()
    assert process.returncode == 0, error[-2000:]
    return {
        "seconds": seconds,
        "began_after_commit_of_update": step,
        "digest": digest_of(readable(address)),
        "run_ended_after_seconds": round(time.monotonic() - began, 1),
        "failed": faults.injected - before,
        "told": [line for line in error.splitlines() if "trying again" in line][:2],
    }


def refusals(commands: Commands, faults: Faults, kind: str) -> dict:
    """What is said of buckets that cannot be used."""
    result = {"no bucket": refused(commands.train(f"{kind}://another/run"))}
    faults.denied = True
    result["denied"] = refused(commands.train(f"{kind}://bucket/denied"))
    result["denied, evaluate"] = refused(commands.start("evaluate", f"{kind}://bucket/run"))
    faults.denied = False
    return result


def on_disk(folder: Path, flags: list[str]) -> dict:
    """The run in a local folder."""
    began = time.monotonic()
    finished(Commands({}, folder, flags).train(str(folder / "local")))
    summary = json.loads((folder / "local" / "summary.json").read_text())
    return {
        "digest": digest_of(folder / "local"),
        "test_accuracy": summary["final"]["test_full/accuracy"],
        "seconds": round(time.monotonic() - began, 1),
    }


def arms(scale: str) -> dict[str, Callable[[Path], dict]]:
    """What is measured, by name: a function of a folder for files."""
    updates, outage = SCALES[scale]
    flags = [f"--config=experiments/scale_parts/small_run.py:{updates}"]

    def in_bucket(kind: str, measure: Callable) -> Callable[[Path], dict]:
        def arm(folder: Path) -> dict:
            with entered(kind) as (environment, faults):
                return measure(Commands(environment, folder, flags), faults, kind)

        return arm

    measures = {
        "killed and continued": killed_and_continued,
        "outage": partial(through_an_outage, seconds=outage),
        "refusals": refusals,
    }
    return {"local": partial(on_disk, flags=flags)} | {
        f"{kind}: {name}": in_bucket(kind, measure)
        for kind in ("gs", "s3", "az")
        for name, measure in measures.items()
    }


def table(result: dict) -> str:
    """Whole runs in buckets beside the local one, as Markdown."""
    lines = ["| | requests that failed | ids | test accuracy, % |", "| --- | --- | --- | --- |"]
    local = result["local"]
    lines.append(f"| on the disk | | | {100 * local['test_accuracy']:.1f} |")
    for name, row in result.items():
        if not name.endswith(("killed and continued", "outage")):
            continue
        same = "the same" if row["same_ids"] else "OTHERS"
        if "requests" in row:
            what = f"{name}, {result['fault_fraction']:.0%} of the requests fail"
            failed = f"{row['failed']:,} of {row['requests']:,}"
            accuracy = f"{100 * row['test_accuracy']:.1f}"
        else:
            what, failed, accuracy = f"{name} of {row['seconds']:g} s", f"{row['failed']:,}", ""
        lines.append(f"| {what} | {failed} | {same} | {accuracy} |")
    return "\n".join(lines)


def main(scale: str, out: Path) -> dict:
    """Measures what is not in scale_1_runs.json in `out` already; returns its content."""
    file = out / "scale_1_runs.json"
    result: dict = {"scale": scale, "updates": SCALES[scale][0], "fault_fraction": FAULTS}
    if file.exists() and (saved := json.loads(file.read_text()))["scale"] == scale:
        result = saved
    for name, arm in arms(scale).items():
        if name in result:
            continue
        with tempfile.TemporaryDirectory() as folder:
            row = arm(Path(folder))
        if "digest" in row:
            row["same_ids"] = row["digest"] == result.get("local", row)["digest"]
        result[name] = row
        file.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps({name: row}, indent=1), flush=True)
    return result
