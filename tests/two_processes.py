"""One of two processes of 4 emulated devices each, started by test_distributed.py.

    python -m tests.two_processes PORT RANK train PHOTOS ARRAYS ALONE BOTH
    python -m tests.two_processes PORT RANK bucket ARRAYS ADDRESS
    python -m tests.two_processes PORT RANK differ KEY VALUE FOLDER
    python -m tests.two_processes PORT RANK fail RANKS
    python -m tests.two_processes PORT RANK absent

`train` trains the folder ALONE for 4 updates, then BOTH until SIGTERM. `bucket` trains a run in a
bucket for 4 updates, and again for 4, and another one with a kernel reference. The others end with
the error that the processes agree on.
"""

import dataclasses
import sys
import time
from pathlib import Path

import jax
import numpy as np

from active_learning import distributed
from active_learning.config import ConfigError
from active_learning.data.sources.source import DataError

STOP = 4


def alone(photos: Path):
    """Selecting ahead on small views: whatever a stop could lose."""
    from tests.train import test_updates

    return test_updates.config(photos, schedule="ahead")


def both(arrays: Path):
    """Longer than anybody waits, with a line for every update."""
    from active_learning.core import policies
    from active_learning.settings import Evaluate, Log, Select
    from tests import world

    return world.config(
        arrays,
        total="200000 steps",
        select=Select(policy=policies.hard, ratio=4),
        evaluate=Evaluate(every="50 %"),
        log=Log(every="1 steps", snapshots=0),
    )


def train(photos: str, arrays: str, *folders: str) -> None:
    from active_learning.train import loop
    from tests import world

    loop.run(alone(Path(photos)), folders[0], world.StopAfter(STOP))
    print(loop.run(both(Path(arrays)), folders[1])["step"])


def in_bucket(arrays: Path, reference: str = ""):
    """A pool filtered by a reference that is trained first; some parameters are on one process."""
    from active_learning.core import policies
    from active_learning.models import ViT
    from active_learning.settings import Select
    from tests import world

    policy = dataclasses.replace(policies.learnability, name="half", pool_fraction=0.5)
    config = world.config(
        arrays,
        learner=ViT(width=64, depth=1, heads=2, patch=4),
        select=Select(policy=policy, ratio=4, temperature=0.5),
        fsdp=8,
    )
    own = dataclasses.replace(config.reference, path=reference)
    return dataclasses.replace(config, reference=own)


def by_kernel(arrays: Path):
    """A reference whose features only the first process keeps."""
    from active_learning.references import Kernel

    config = in_bucket(arrays)
    select = dataclasses.replace(config.select, temperature=0.02)  # Its losses decide, not chance.
    reference = Kernel(size="tiny")
    return dataclasses.replace(config, select=select, reference=reference, total="4 steps")


def check_arrays() -> None:
    """64 bits, several axes and nothing at all arrive as they are; a float32 would hold neither."""
    rank = jax.process_index()  # The others' own are never asked for.
    mine = {"a": [2**60 + 1 + rank], "b": [[1 / 3 + rank]], "c": np.empty((0, 4), np.float32)}
    sent = distributed.arrays_from_primary(lambda: {k: np.asarray(v) for k, v in mine.items()})
    assert sent["a"].tolist() == [2**60 + 1] and sent["b"].tolist() == [[1 / 3]]
    assert (sent["c"].shape, sent["c"].dtype) == ((0, 4), np.float32)


def bucket(arrays: str, address: str) -> None:
    from active_learning.train import loop
    from tests import world

    check_arrays()
    # The reference is a run in the bucket, too: trained by the first call, found by the second.
    config = in_bucket(Path(arrays), f"{address}-reference")
    reference = int(config.reference.total.split()[0])
    print(loop.run(config, address, world.StopAfter(reference + STOP))["step"])
    print(loop.run(config, address, world.StopAfter(STOP))["step"])
    print(loop.run(by_kernel(Path(arrays)), f"{address}-kernel")["step"])


def differ(key: str, value: str, folder: str) -> None:
    """Rank 1 has another value of `key`, or, given "run folder", another folder."""
    mine = jax.process_index() == 1 and key != "run folder"
    if key == "run folder" and jax.process_index() == 1:
        folder = value
    distributed.check_same({"code": "same", key: value if mine else "usual"}, Path(folder), 6)


def fail(ranks: str) -> None:
    """The block fails on these ranks."""
    with distributed.agreement("data"):
        if str(jax.process_index()) in ranks:
            raise DataError(f"train.npz is not there for {jax.process_index()}")


def absent() -> None:
    """Rank 1 never reports."""
    if jax.process_index() == 1:
        time.sleep(4)
        return
    distributed.check_same({"code": "same"}, seconds=1)


def main(port: str, rank: str, scene: str, *arguments: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 4)
    distributed.start(f"localhost:{port}", 2, int(rank))
    began = time.monotonic()
    try:
        scenes = (train, bucket, differ, fail, absent)
        next(one for one in scenes if one.__name__ == scene)(*arguments)
    except (ConfigError, DataError) as error:
        print(f"{type(error).__name__} after {time.monotonic() - began:.1f} s: {error}")
        distributed.leave(2)


if __name__ == "__main__":
    main(*sys.argv[1:])
