"""Several processes give the ids of one, also after a restart with another number; saves are cheap.

Processes: a run on 4 devices by 1, 2 and 4 processes; and one that 4 processes begin, of which all
are killed, that 2 continue and 1 ends. Checkpoints: blocks of updates with and without a save in
them, in turns.
"""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from active_learning import checkpoint, distributed
from active_learning.core import policies
from active_learning.data.sources.shapes import Shapes
from active_learning.models import MLP, ViT
from active_learning.settings import Checkpoint, Config, Evaluate, Log, Select, Split
from active_learning.train import loop, save_clock
from active_learning.train.build import build, first_state
from active_learning.train.signals import PreemptionGuard
from active_learning.train.updates import UpdateRunner

DEVICES, UPDATES, KILL_AT, STOP_AT = 4, 24, 12, 18
HANGS = 1800.0  # Seconds.
# Updates of a block and rounds, of the checkpoints' part.
BLOCKS = {"desk": (25, 7), "smoke": (3, 1)}


def run_config() -> Config:
    """A small run with selection and a checkpoint every 8 updates."""
    return Config(
        data=Shapes(size=16, train=600, test=120),
        learner=MLP(width=32, depth=1),
        scorer=MLP(width=8, depth=1),
        split=Split(parts={"pool": 480, "tune": 60}),
        batch_size=16,
        total=f"{UPDATES} steps",
        select=Select(policy=policies.hard, ratio=4, temperature=0.5),
        evaluate=Evaluate(every="100 %", subset=60, batch_size=60),
        log=Log(every="50 %", chosen=True, snapshots=0),
        checkpoint=Checkpoint(every="8 steps"),
    )


class _Until(PreemptionGuard):
    """Asks the run to stop, or kills the process, at an update."""

    def __init__(self, folder: Path, stop: int, kill: int):
        super().__init__()
        self._folder, self._stop, self._kill, self._step = folder, stop, kill, 0

    @property
    def requested(self) -> bool:
        """Looked at once before each update."""
        if self._kill and self._step == self._kill:
            while not (self._folder / "checkpoints" / "8").exists():
                time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGKILL)
        self._step += 1
        return bool(self._stop) and self._step > self._stop


def child(port: str, count: str, rank: str, folder: str, stop: str, kill: str) -> None:
    """One of `count` processes; `stop` and `kill` count its own updates, 0: never."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES // int(count))
    if count != "1":
        distributed.start(f"localhost:{port}", int(count), int(rank))
    loop.run(run_config(), folder, _Until(Path(folder), int(stop), int(kill)))


def train(count: int, folder: Path, stop: int = 0, kill: int = 0) -> float:
    """Runs `count` processes to their end; returns the seconds that it took."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "experiments.scale_parts.step4", port, str(count)]
    began, rest = time.monotonic(), [str(folder), str(stop), str(kill)]
    started = [subprocess.Popen([*command, str(rank), *rest]) for rank in range(count)]
    try:
        codes = [process.wait(HANGS) for process in started]
    finally:
        for process in started:
            process.kill()
    # When the first process is killed, JAX ends the others before they kill themselves.
    if (any(codes) and not kill) or (kill and 0 in codes):
        raise RuntimeError(f"{count} processes ended with {codes}")
    return time.monotonic() - began


def ids_of(folder: Path) -> list[list[int]]:
    """The ids of every update, sorted: their order follows the devices."""
    files = sorted((folder / "chosen").glob("*.npy"))
    return [sorted(row) for file in files for row in np.load(file).tolist()]


def difference(folder: Path, like: Path) -> float:
    """The largest difference of a parameter of the learner."""
    pair = (jax.tree.leaves(checkpoint.load_params(run)) for run in (folder, like))
    return max(float(np.abs(a - b).max()) for a, b in zip(*pair, strict=True))


def processes() -> dict:
    """1, 2 and 4 processes, and a run that is killed and continued by fewer."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {str(count): Path(folder) / str(count) for count in (1, 2, 4)}
        seconds = {name: train(int(name), run) for name, run in runs.items()}
        elastic = runs["4 killed, then 2, then 1"] = Path(folder) / "elastic"
        train(4, elastic, kill=KILL_AT)
        train(2, elastic, stop=STOP_AT - 8)  # From the checkpoint of update 8.
        train(1, elastic)
        one = ids_of(runs["1"])
        assert len(one) == UPDATES, len(one)
        return {
            "devices": DEVICES,
            "updates": UPDATES,
            "same_ids": {name: ids_of(run) == one for name, run in runs.items()},
            "largest_difference_of_a_parameter": {
                name: difference(run, runs["1"]) for name, run in runs.items()
            },
            "seconds": {name: round(value, 1) for name, value in seconds.items()},
        }


def saves(updates: int, rounds: int) -> dict:
    """Seconds of a block of updates with a save at its beginning and without one, in turns.

    The save's writing goes on behind the updates; the block ends when both are done. CPU time is
    that of all threads, which other load on the machine does not change.
    """
    config = Config(
        data=Shapes(train=4000, test=200),
        learner=ViT(width=192, depth=6, heads=3, patch=8),
        scorer=MLP(width=8, depth=1),
        batch_size=64,
        total="1000 steps",
    )
    experiment = build(config)
    runner = UpdateRunner(experiment, experiment.loader(0), restored=False)
    state = first_state(experiment, None)
    runner.compile(state, active=False)
    blocks: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    returned = []
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state.learner))
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = checkpoint.Checkpoints(Path(folder))
        for block in range(2 * rounds + 2):
            saving = block % 2 == 1
            began = time.perf_counter(), time.process_time()
            if saving:
                checkpoints.save(block + 1, state, {})
                returned.append(time.perf_counter() - began[0])
            for _ in range(updates):
                state, output = runner(state, False, False)
                jax.block_until_ready(output.metrics)
            if saving:
                checkpoints.wait()
            ended = time.perf_counter(), time.process_time()
            if block > 1:  # The first of each kind warms up.
                blocks[saving].append((ended[0] - began[0], ended[1] - began[1]))
        checkpoints.close()
    usual, cpu = (statistics.median(pair[n] for pair in blocks[False]) for n in (0, 1))
    pairs = list(zip(blocks[True], blocks[False], strict=True))
    more, more_cpu = (statistics.median(a[n] - b[n] for a, b in pairs) for n in (0, 1))
    return {
        "state_bytes": size,
        "updates_of_a_block": updates,
        "rounds": rounds,
        "seconds_of_an_update": usual / updates,
        "seconds_until_save_returns": statistics.median(returned[1:]),
        "seconds_more_for_a_save": more,
        "cpu_seconds_of_a_block": cpu,
        "cpu_seconds_more_for_a_save": more_cpu,
        "fraction_of_cpu_time_of_a_block": more_cpu / cpu,
        # The program saves after so many seconds of training at the soonest by its clock.
        "shortest_interval_seconds": save_clock.FIRST_SAVE,
        "fraction_at_the_shortest_interval": more / save_clock.FIRST_SAVE,
    }


def main(scale: str, out: Path) -> dict:
    """Runs both parts; writes scale_4.json to `out` and returns its content."""
    result = {"processes": processes(), "checkpoints": saves(*BLOCKS[scale])}
    (out / "scale_4.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(sys.argv[1], Path(sys.argv[2]))
    else:
        child(*sys.argv[1:])
