"""One of two processes of 4 emulated devices each: trains the folder ALONE for 4 updates, then BOTH
until SIGTERM.

Run by test_processes.py: `python -m tests.two_processes PORT RANK PHOTOS ARRAYS ALONE BOTH`.
"""

import sys
from pathlib import Path

import jax

from active_learning import distributed
from active_learning.core import policies
from active_learning.settings import Evaluate, Log, Select
from active_learning.train import loop
from tests import world
from tests.train import test_updates

STOP = 4


def alone(photos: Path):
    """Selecting ahead on small views: whatever a stop could lose."""
    return test_updates.config(photos, schedule="ahead")


def both(arrays: Path):
    """Longer than anybody waits, with a line for every update."""
    return world.config(
        arrays,
        total="200000 steps",
        select=Select(policy=policies.hard, ratio=4),
        evaluate=Evaluate(every="50 %"),
        log=Log(every="1 steps", snapshots=0),
    )


def main(port: str, rank: str, photos: str, arrays: str, *folders: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 4)
    distributed.start(f"localhost:{port}", 2, int(rank))
    loop.run(alone(Path(photos)), folders[0], world.StopAfter(STOP))
    print(loop.run(both(Path(arrays)), folders[1])["step"])


if __name__ == "__main__":
    main(*sys.argv[1:])
