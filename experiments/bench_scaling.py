"""How the step grows with the number of devices: its structure on emulated devices and processes,
and what the TPU compiler says of pods.

    python -m experiments.bench_scaling [--preset=smoke|full] [--topologies v5e:4x4 ...] [--out DIR]

The share of a device is the same everywhere (weak scaling), so memory and what the learner moves
should stay as they are; what selection moves grows with the number of devices, and this is printed.
No speed is measured: emulated devices share the cores of one machine.
"""

import argparse
import dataclasses
import hashlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

DEVICES, SHARE, STEPS = (1, 2, 4, 8), 8, 3


def emulate(count: int) -> None:
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
    )  # structure, not speed
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)


def tiny(batch_size: int, fsdp: int = 1):
    """A run without data on tiny models, over as many devices as asked for."""
    import jax

    from active_learning.models import MLP
    from active_learning.plan.abstract import build_abstract
    from experiments.bench_step import case

    config = case(MLP(width=64, depth=2), MLP(width=16, depth=1), batch_size)
    return lambda devices: build_abstract(
        dataclasses.replace(config, fsdp=fsdp), (32, 32, 3), 10, 10**6, jax.devices()[:devices]
    )


def structure(experiment, result) -> dict:
    """What the compiler says of one device, and the largest thing that is gathered or reduced
    beside the images of a device.
    """
    import numpy as np

    from active_learning.plan import pod

    metrics = pod.plan_metrics(experiment, result, 0.5)
    images = (
        int(np.prod(experiment.view.image_shape))
        * experiment.config.batch_size
        * metrics["ratio"]
        // experiment.mesh.size
    )
    merged = [
        c.bytes
        for c in result.collectives
        if c.kind in ("all-gather", "all-reduce") and c.scope in pod.SELECTION
    ]
    learner = [c for c in result.collectives if c.scope not in pod.SELECTION]
    return metrics | {
        "images_bytes": images,
        "selection_largest_merge_bytes": max(merged, default=0),
        "learner_payload_bytes": sum(c.bytes * max(1, c.times) for c in learner),
        "learner_moved_bytes": sum(c.wire * max(1, c.times) for c in learner),
    }


def choices(experiment) -> str:
    """Trains a few updates on drawn candidates: a digest of all chosen ids, the same whoever holds
    what.
    """
    from functools import partial

    import jax
    import numpy as np

    from active_learning.core import sharding
    from active_learning.core.step import train_step
    from active_learning.train.build import first_state

    state = first_state(experiment, experiment.init_scorer(jax.random.key(1)))
    place, everywhere = (
        sharding.batch_sharding(experiment.mesh),
        sharding.replicated(experiment.mesh),
    )
    step, digest = None, hashlib.sha256()
    for n in range(STEPS):
        rng, size = (
            np.random.default_rng(n),
            experiment.config.batch_size * experiment.config.select.ratio,
        )
        whole = {
            "image": rng.integers(0, 256, (size, *experiment.view.image_shape)).astype(np.uint8),
            "label": rng.integers(0, experiment.view.num_classes, size).astype(np.int32),
            "epoch": np.zeros(size, np.int32),
            "id": np.stack([np.zeros(size), np.arange(size) + n * size], axis=1).astype(np.uint32),
        }
        batch = {
            k: jax.make_array_from_callback(v.shape, place, lambda at, v=v: v[at])
            for k, v in whole.items()
        }
        step = step or sharding.aot_compile(
            partial(train_step, experiment.recipe), state, batch, rest=everywhere
        )
        state, (_, chosen) = step(state, batch)
        digest.update(np.sort(np.asarray(chosen.ids)[:, 1]).tobytes())
    return digest.hexdigest()[:16]


def one_process() -> list[dict]:
    """Emulated devices: the same share of each, and the same choices of the same candidates."""
    from active_learning.plan import pod

    emulate(max(DEVICES))
    rows = []
    for count in DEVICES:
        experiment = tiny(SHARE * count)(count)
        rows.append(
            {"processes": 1, "devices": count} | structure(experiment, pod.compile_step(experiment))
        )
        rows[-1]["choices"] = choices(tiny(SHARE * max(DEVICES))(count))
    experiment = tiny(SHARE * max(DEVICES), fsdp=2)(max(DEVICES))
    shared = (
        {"processes": 1, "devices": max(DEVICES)}
        | structure(experiment, pod.compile_step(experiment))
        | {"choices": choices(experiment)}
    )
    return [*rows, shared]


def process(port: str, rank: int) -> None:
    """One of two processes of 4 emulated devices each; the first prints its row."""
    import jax

    from active_learning.plan import pod

    emulate(max(DEVICES) // 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=rank)
    experiment = tiny(SHARE * max(DEVICES))(max(DEVICES))
    row = (
        {"processes": 2, "devices": jax.device_count()}
        | structure(experiment, pod.compile_step(experiment))
        | {"choices": choices(experiment)}
    )
    if rank == 0:
        print(json.dumps(row))


def two_processes() -> dict:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "experiments.bench_scaling", "--process", port]
    both = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    out = [one.communicate(timeout=600)[0] for one in both]
    if any(one.returncode for one in both):
        raise RuntimeError("one of the two processes failed")
    return json.loads(next(line for line in out[0].splitlines() if line.startswith("{")))


def pod_row(topology: str, ratio: int, fsdp: int) -> dict:
    """The paper's setting on a topology, 16 images of the learner a chip; where chips share the
    learner its plain update alone.
    """
    from active_learning.config import freeze
    from active_learning.plan import pod
    from active_learning.plan.abstract import build_abstract
    from active_learning.plan.topology import devices_of
    from configs import classact_vit_l

    devices = devices_of(topology)
    config = classact_vit_l.get_config("ti" if fsdp == 1 else "uniform")
    config.batch_size, config.fsdp = 16 * len(devices), fsdp
    if fsdp == 1:
        config.select.ratio, config.select.score_chunk = ratio, 16
    experiment = build_abstract(freeze(config), (224, 224, 3), 1000, 1_281_167, devices)
    return {"topology": topology} | structure(experiment, pod.compile_step(experiment))


def table(rows: list[dict]) -> list[str]:
    """Payload: what the learner's collectives reduce and gather; ring: what a device sends for it,
    (n - 1) / n of it once or twice.
    """
    lines = [
        "MB a device            ratio  state+batch    temporary  learner payload  on a "
        "ring    selection"
    ]
    for row in rows:
        where = (
            row.get("topology")
            or f"{row['processes']} process x {row['devices'] // row['processes']}"
        )
        where += "" if row["mesh"].get("fsdp", 1) == 1 else f", fsdp {row['mesh']['fsdp']}"
        mb = {name: row[name] / 1e6 for name in row if name.endswith("_bytes")}
        lines.append(
            f"{where:22s} {row['ratio']:5d} {mb['stays_bytes']:12.3f} "
            f"{mb['temporary_bytes']:12.3f} "
            f"{mb['learner_payload_bytes']:16.3f} {mb['learner_moved_bytes']:10.3f} "
            f"{mb['selection_moved_bytes']:12.3f}"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--preset", choices=("smoke", "full"), default="full", help="smoke: no pods"
    )
    parser.add_argument("--topologies", nargs="*", default=["v5e:4x4", "v5e:8x8", "v5e:16x16"])
    parser.add_argument("--ratio", type=int, default=2)
    parser.add_argument(
        "--fsdp",
        type=int,
        default=16,
        help="also the first topology, the learner shared by so many",
    )
    parser.add_argument("--process", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    args = parser.parse_args()
    if args.process:
        return process(args.process[0], int(args.process[1]))
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "bench_scaling.json"
    result = {"emulated": [*one_process(), two_processes()], "pods": [], "skipped": None}
    if args.preset == "smoke" or importlib.util.find_spec("libtpu") is None:
        result["skipped"] = (
            "pods: smoke"
            if args.preset == "smoke"
            else "pods: no libtpu (pip install -e '.[plan]')"
        )
        print(f"skipped {result['skipped']}")
    else:
        for topology, fsdp in [(topology, 1) for topology in args.topologies] + [
            (args.topologies[0], args.fsdp)
        ]:
            began = time.process_time()
            result["pods"].append(pod_row(topology, args.ratio, fsdp))
            print(
                f"{topology}, fsdp {fsdp}: {time.process_time() - began:.0f} s of CPU time",
                flush=True,
            )
            file.write_text(json.dumps(result, indent=1) + "\n")
    file.write_text(json.dumps(result, indent=1) + "\n")
    same = {row["choices"] for row in result["emulated"]}
    print("\n".join(table(result["emulated"] + result["pods"])))
    print(
        f"choices on 1 to {max(DEVICES)} devices and 2 processes: "
        f"{'the same' if len(same) == 1 else 'DIFFERENT'}"
    )
    if len(same) > 1:
        sys.exit(1)


if __name__ == "__main__":
    main()
