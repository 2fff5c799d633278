"""The plan of a TPU slice in words."""

import resource
from collections import Counter
from collections.abc import Iterator

import jax

from active_learning.core import sharding
from active_learning.cost.flops import PEAK_FLOPS
from active_learning.plan.hlo import Collective
from active_learning.plan.pod import (
    GIB,
    CompiledStep,
    compile_step,
    count_update,
    plan_metrics,
)
from active_learning.plan.topology import CHIPS
from active_learning.train.build import Experiment, abstract_state

MIB = 2**20
LARGE = 1e6  # bytes: smaller collectives are not listed


def pod_lines(experiment: Experiment, topology: str, mfu: float) -> Iterator[str]:
    """Compile the step for the experiment's mesh and describe what the compiler reports.

    Args:
      experiment: The experiment on the topology's devices.
      topology: Its name, to print.
      mfu: Fraction of the chips' peak that is assumed.

    Raises:
      ConfigError: Where it does not fit.
    """
    yield ""
    yield from sharding_lines(experiment)
    compiled = compile_step(experiment)
    metrics = plan_metrics(experiment, compiled, mfu)
    yield ""
    yield (
        f"compiled for {topology} ({compiled.chips} x {compiled.device_kind}) in "
        f"{compiled.seconds:.0f} s; of one chip and step:"
    )
    yield (
        f"  memory: {compiled.stays / GIB:.2f} GiB of state and batch, "
        f"{compiled.temporary / GIB:.2f} GiB temporary; "
        f"{compiled.memory / GIB:.2f} of {CHIPS[compiled.device_kind].memory:.0f} GiB"
    )
    for account, value in metrics["flops"].items():
        if value:
            yield f"  {account:16s} {value:9.3g} FLOPs"
    yield from collective_lines(compiled, metrics)
    yield ""
    yield from _time_lines(experiment, metrics, mfu)
    used = resource.getrusage(resource.RUSAGE_SELF)
    yield (
        f"planned in {used.ru_utime + used.ru_stime:.0f} s of CPU time with "
        f"{used.ru_maxrss / MIB:.1f} GiB of this machine's memory"
    )


def sharding_lines(experiment: Experiment) -> Iterator[str]:
    """The sharding rules, and what each of them decides."""
    mesh = experiment.mesh
    sizes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    yield f"mesh {sizes}; a batch is split over all of it"
    decided: dict[str, list[tuple[int, bool]]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_state(experiment)):
        pattern, spec = sharding.match_partition_rule(sharding.path_of(path), leaf.shape, mesh)
        decided.setdefault(pattern, []).append((leaf.size * leaf.dtype.itemsize, any(spec)))
    parts = mesh.shape.get(sharding.FSDP_AXIS, 1)
    for pattern, dimension in sharding.PARTITION_RULES:
        arrays = decided.get(pattern, [])
        split = [size for size, is_split in arrays if is_split]
        where = "whole on every chip"
        if dimension is not None and parts > 1:
            where = (
                f"{len(split)} of them ({sum(split) / MIB:.0f} MiB) in {parts} parts along "
                f"dimension {dimension}, the others whole"
            )
        size = sum(size for size, _ in arrays) / MIB
        yield f"  {pattern or 'the rest':40s} {len(arrays):4d} arrays {size:9.1f} MiB: {where}"


def collective_lines(compiled: CompiledStep, metrics: dict) -> Iterator[str]:
    """The large collectives, equal ones together, and what selection sends."""
    yield from large_collectives(compiled.collectives)
    yield (
        f"  selection moves {metrics['selection_moved_bytes'] / 1e6:.1f} MB "
        "(scores, indices and one round of each exchange of rows)"
    )


def large_collectives(found: tuple[Collective, ...]) -> Iterator[str]:
    """The collectives above 1 MB, equal ones together."""
    large = [c for c in found if c.bytes > LARGE]
    yield f"  collectives above 1 MB: {len(large) or 'none'}"

    def total(pair: tuple[Collective, int]) -> int:
        return pair[0].bytes * max(1, pair[0].times) * pair[1]

    for c, equal in sorted(Counter(large).items(), key=total, reverse=True):
        often = f"x {c.times * equal}" if c.times else "per round, as many as the selection needs"
        yield (
            f"    {c.kind:18s} {c.bytes / 1e6:8.1f} MB {often}, over {c.group} chips, "
            f"in {c.scope or 'the step'}"
        )


def _time_lines(experiment: Experiment, metrics: dict, mfu: float) -> Iterator[str]:
    seconds, moves = metrics["compute_seconds"], metrics["moved_seconds"]
    chip, peak = CHIPS[metrics["device"]], PEAK_FLOPS[metrics["device"]]
    yield (
        f"estimated step: {1e3 * seconds:.1f} ms of arithmetic ({peak / 1e12:.0f} TFLOP/s a chip, "
        f"MFU {mfu:.0%} assumed), {1e3 * moves:.1f} ms of traffic ({chip.links / 1e9:.0f} GB/s a "
        f"chip assumed): {1e3 * max(seconds, moves):.1f} ms if one hides the other, "
        f"{1e3 * (seconds + moves):.1f} ms if not"
    )
    if counted := count_update(experiment):
        products = sum(experiment.uniform_costs.values()) / metrics["chips"]
        yield (
            f"  the compiler counts {counted.flops:.3g} FLOPs for the learner's update on a chip "
            f"(from 1 and 2 unrolled layers; matrix products alone {products:.3g}), and "
            f"{counted.memory_traffic / GIB:.1f} GiB read and written: at most "
            f"{1e3 * counted.memory_traffic / chip.memory_bandwidth:.1f} ms at "
            f"{chip.memory_bandwidth / 1e9:.0f} GB/s"
        )
    yield f"relative to a uniform update: {metrics['flops_over_uniform']:.3f}x the FLOPs"
