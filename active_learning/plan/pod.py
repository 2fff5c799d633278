"""Our own step compiled for a TPU pod that is not here: memory of a chip, what moves between chips, and arithmetic about its time.

The real compiler does it (libtpu, extra [plan]) on this machine's CPU; nothing runs. Memory and collectives are its word. Times are
arithmetic with the assumptions printed beside them.
"""

import dataclasses
import importlib.util
import math
import os
import re
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from active_learning.config import ConfigError
from active_learning.core import sharding
from active_learning.core.step import train_step, uniform_step
from active_learning.cost.flops import PEAK_FLOPS
from active_learning.cost.ledger import ACCOUNTS
from active_learning.plan.hlo import Collective, collectives
from active_learning.settings import Pairs, Select
from active_learning.train.build import Run, assemble, state_shapes

MIB, GIB, LARGE = 2**20, 2**30, 1e6
SELECTION = (
    "score_online",
    "score_reference",
    "score_learner",
    "select",
    "take",
)  # named scopes of the step


@dataclass(frozen=True)
class Chip:
    """What a vendor's sheet says of a chip: GiB of memory, its bytes a second, and those of all links to its neighbours."""

    memory: float
    memory_bandwidth: float
    links: float


CHIPS = {
    "TPU v5 lite": Chip(16.0, 819e9, 200e9),
    "TPU v5": Chip(95.0, 2765e9, 600e9),
    "TPU v6 lite": Chip(32.0, 1640e9, 448e9),
}


def devices_of(topology: str) -> list[jax.Device]:
    """The chips of a topology such as 'v5e:16x16'. ConfigError when libtpu is not installed, does not know it, or we have no sheet."""
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            f"--topology={topology}: needs the TPU compiler, pip install -e '.[plan]'"
        )
    for name, value in (
        ("SKIP_MDS_QUERY", "1"),
        ("ACCELERATOR_TYPE", "none"),
        ("WORKER_HOSTNAMES", "localhost"),
    ):
        os.environ.setdefault(f"TPU_{name}", value)
    from jax.experimental import topologies

    try:
        devices = list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except Exception as error:
        why = str(error).splitlines()[0]
        raise ConfigError(
            f"--topology={topology}: unknown, expected e.g. v5e:4x4, v5p:4x4x4 or v6e:8x8 ({why})"
        ) from error
    if devices[0].device_kind not in CHIPS:
        raise ConfigError(
            f"--topology={topology}: no figures for {devices[0].device_kind}; known: {', '.join(CHIPS)}"
        )
    return devices


def batch_shapes(it: Run) -> dict[str, jax.ShapeDtypeStruct]:
    """A step's batch as shapes with their shardings."""
    b, task = it.config.batch_size, it.task
    size = b * it.config.select.ratio if it.clock.window else b
    place = sharding.batch_sharding(it.mesh)
    leaf = lambda dtype, *shape: jax.ShapeDtypeStruct((size, *shape), dtype, sharding=place)  # noqa: E731
    batch = {
        "image": leaf(jnp.uint8, *task.image_shape),
        "label": leaf(jnp.int32),
        "epoch": leaf(jnp.int32),
    }
    if isinstance(it.config.task, Pairs):
        batch["tokens"] = leaf(jnp.int32, task.context)
    if it.scorer_task.image_shape != task.image_shape:
        batch["image_small"] = leaf(jnp.uint8, *it.scorer_task.image_shape)
    if (
        it.clock.window
        and it.config.reference.kind == "stored"
        and "reference" in it.recipe.policy.needs
    ):
        batch["reference_loss"] = leaf(jnp.float32)
    if it.clock.window and it.config.reference.kind == "crossfitted":
        batch["scored_by"] = leaf(jnp.int32)
    return batch | {"id": leaf(jnp.uint32, 2)}


@dataclass(frozen=True)
class Compiled:
    """What the compiler says of a step, for one chip: bytes that stay (state and batch), temporary bytes, what moves."""

    chips: int
    kind: str
    stays: int
    temporary: int
    moves: tuple[Collective, ...]
    seconds: float

    @property
    def memory(self) -> int:
        return self.stays + self.temporary


def compile_step(it: Run) -> Compiled:
    """Compiles the run's step (active inside a window, else uniform) for its mesh. Raises ConfigError when it does not fit the chips."""
    began, step = time.monotonic(), train_step if it.clock.window else uniform_step
    state, batch = state_shapes(it), batch_shapes(it)
    device = it.mesh.devices.flat[0]
    try:
        done = sharding.aot_compile(
            partial(step, it.recipe), state, batch, rest=sharding.replicated(it.mesh)
        )
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ConfigError(_too_large(it, str(error))) from error
    memory = done.memory_analysis()
    stays = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    found = Compiled(
        it.mesh.size, device.device_kind, stays, memory.temp_size_in_bytes, tuple(collectives(done.as_text())),
        time.monotonic() - began,
    )  # fmt: skip
    if device.device_kind in CHIPS and found.memory > CHIPS[device.device_kind].memory * GIB:
        raise ConfigError(_too_large(it, "", found))
    return found


def _too_large(it: Run, said: str, found: Compiled | None = None) -> str:
    """By how much it does not fit, and what would make it fit."""
    kind = it.mesh.devices.flat[0].device_kind
    has = CHIPS[kind].memory * GIB
    sizes = re.search(r"[Uu]sed ([\d.]+)([KMG]) of ([\d.]+)([KMG])", said)
    scale = {"K": 2**10, "M": 2**20, "G": 2**30}
    if found is not None:
        uses = float(found.memory)
    elif sizes:
        uses, has = float(sizes[1]) * scale[sizes[2]], float(sizes[3]) * scale[sizes[4]]
    else:
        return f"the step does not fit a {kind}: {said.splitlines()[0]}"
    over = uses - has
    ways = list(remedies(it, over, uses))
    return (
        f"the step needs {uses / GIB:.1f} GiB of a {kind}'s {has / GIB:.1f}, {over / GIB:.1f} GiB too much; "
        f"would fit: {', or '.join(ways) if ways else 'more chips or a smaller model'}"
    )


def state_bytes(it: Run) -> int:
    """Bytes of the learner's parameters and moments on one chip."""

    def on_a_chip(leaf):
        return leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))

    return sum(on_a_chip(leaf) for leaf in jax.tree.leaves(state_shapes(it).learner))


def remedies(it: Run, over: float, uses: float) -> Iterator[str]:
    """Changes of the config that free `over` bytes a chip."""
    config, chips = it.config, it.mesh.size
    whole = state_bytes(it)
    for fsdp in (2, 4, 8, 16, 32):
        if fsdp > config.fsdp and chips % fsdp == 0:
            free = whole - state_bytes(
                dataclasses.replace(it, mesh=sharding.make_mesh(list(it.mesh.devices.flat), fsdp))
            )
            if free > over:
                yield f"--config.fsdp={fsdp} ({free / GIB:.1f} GiB of the learner's state)"
                break
    rest = uses - whole  # what grows with the batch, nearly
    less = int(config.batch_size * (1 - over / rest)) // chips * chips if rest > over else 0
    if 0 < less < config.batch_size:
        yield f"--config.batch_size={less}"
    if getattr(it.learner, "remat", None) in ("off", "dots"):
        yield "perhaps --config.learner.remat=full"


def rules(it: Run) -> Iterator[str]:
    """The sharding rules and what each of them decides on, of the learner."""
    shapes, mesh = state_shapes(it), it.mesh
    yield f"mesh {' x '.join(f'{name} {size}' for name, size in mesh.shape.items())}; a batch is split over all of it"
    decided: dict[str, list[tuple[int, bool]]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        pattern, spec = sharding.match_partition_rule(sharding.path_of(path), leaf.shape, mesh)
        decided.setdefault(pattern, []).append((leaf.size * leaf.dtype.itemsize, any(spec)))
    for pattern, dimension in sharding.PARTITION_RULES:
        arrays = decided.get(pattern, [])
        split = [size for size, is_split in arrays if is_split]
        parts, where = mesh.shape.get(sharding.FSDP_AXIS, 1), "whole on every chip"
        if dimension is not None and parts > 1:
            where = f"{len(split)} of them ({sum(split) / MIB:.0f} MiB) in {parts} parts along dimension {dimension}, the others whole"
        yield f"  {pattern or 'the rest':40s} {len(arrays):4d} arrays {sum(s for s, _ in arrays) / MIB:9.1f} MiB: {where}"


def figures(it: Run, found: Compiled, mfu: float) -> dict:
    """The plan of a step as numbers: bytes and FLOPs are those of one chip, seconds those of a step."""
    costs, uniform = (it.costs if it.clock.window else it.uniform_costs), it.uniform_costs
    rate = PEAK_FLOPS.get(found.kind, 0.0) * mfu * found.chips
    chip = CHIPS.get(found.kind)
    moved = sum(c.wire * max(1, c.times) for c in found.moves)
    selection = sum(c.wire * max(1, c.times) for c in found.moves if c.scope in SELECTION)
    return {
        "chips": found.chips,
        "device": found.kind,
        "mesh": dict(it.mesh.shape),
        "batch_size": it.config.batch_size,
        "ratio": it.config.select.ratio if it.clock.window else 1,
        "stays_bytes": found.stays,
        "temporary_bytes": found.temporary,
        "flops": {
            account: costs.get(account, 0.0) / found.chips for account in (*ACCOUNTS, "recompute")
        },
        "flops_over_uniform": sum(costs.values()) / sum(uniform.values()),
        "moved_bytes": moved,
        "selection_moved_bytes": selection,
        "compute_seconds": sum(costs.values()) / rate if rate else None,
        "uniform_compute_seconds": sum(uniform.values()) / rate if rate else None,
        "moved_seconds": moved / chip.links if chip else None,
        "compile_seconds": found.seconds,
    }


@dataclass(frozen=True)
class Layers:
    """What the compiler counts for one chip: FLOPs and bytes of memory traffic of an update of the learner."""

    flops: float
    memory_traffic: float


def count_layers(it: Run) -> Layers | None:
    """The learner's update on one chip's share of the batch, from 1 and 2 unrolled layers (the body of a scan is counted once, however long).

    None for a learner without layers to count.
    """
    depth, share = getattr(it.learner, "depth", 0), it.config.batch_size // it.mesh.size
    if depth < 2 or not hasattr(it.learner, "scan"):
        return None
    counts = []
    for layers in (1, 2):
        learner = dataclasses.replace(it.learner, depth=layers, scan=False)
        config = dataclasses.replace(
            it.config, learner=learner, batch_size=share, select=Select(), fsdp=1
        )
        clock = dataclasses.replace(it.clock, window=0)
        alone = assemble(config, clock, it.task, it.scorer_task, [it.mesh.devices.flat[0]])
        step = partial(uniform_step, alone.recipe)
        cost = sharding.aot_compile(step, state_shapes(alone), batch_shapes(alone)).cost_analysis()
        counts.append(np.array([cost["flops"], cost["bytes accessed"]]))
    return Layers(*map(float, counts[0] + (depth - 1) * (counts[1] - counts[0])))


def lines(it: Run, topology: str, mfu: float) -> Iterator[str]:
    """Compiles the step for the run's mesh and says what the compiler says. Raises ConfigError when it does not fit."""
    yield ""
    yield from rules(it)
    found = compile_step(it)
    yield ""
    yield f"compiled for {topology} ({found.chips} x {found.kind}) in {found.seconds:.0f} s; of one chip and step:"
    yield (
        f"  memory: {found.stays / GIB:.2f} GiB of state and batch, {found.temporary / GIB:.2f} GiB temporary; "
        f"{found.memory / GIB:.2f} of {CHIPS[found.kind].memory:.0f} GiB"
    )
    said = figures(it, found, mfu)
    for account, value in said["flops"].items():
        if value:
            yield f"  {account:16s} {value:9.3g} FLOPs"
    yield from _traffic(found, said)
    yield ""
    yield from _time(it, said, mfu)
    used = resource.getrusage(resource.RUSAGE_SELF)
    yield f"planned in {used.ru_utime + used.ru_stime:.0f} s of CPU time with {used.ru_maxrss / MIB:.1f} GiB of this machine's memory"


def _traffic(found: Compiled, said: dict) -> Iterator[str]:
    large = [c for c in found.moves if c.bytes > LARGE]
    yield f"  collectives above 1 MB: {len(large) or 'none'}"
    count: dict[Collective, int] = {}
    for c in large:
        count[c] = count.get(c, 0) + 1
    for c, alike in sorted(
        count.items(), key=lambda pair: -pair[0].bytes * max(1, pair[0].times) * pair[1]
    ):
        often = (
            f"x {c.times * alike}"
            if c.times
            else "a round, as many rounds as the choice needs (1 is the rule)"
        )
        yield f"    {c.kind:18s} {c.bytes / 1e6:8.1f} MB {often}, over {c.group} chips, in {c.scope or 'the step'}"
    yield f"  selection moves {said['selection_moved_bytes'] / 1e6:.1f} MB (scores, choice and the rows that travel in one round)"


def _time(it: Run, said: dict, mfu: float) -> Iterator[str]:
    seconds, moves, chip = said["compute_seconds"], said["moved_seconds"], CHIPS[said["device"]]
    peak = PEAK_FLOPS[said["device"]]
    yield (
        f"estimated step: {1e3 * seconds:.1f} ms of arithmetic ({peak / 1e12:.0f} TFLOP/s a chip, MFU {mfu:.0%} assumed), "
        f"{1e3 * moves:.1f} ms of traffic ({chip.links / 1e9:.0f} GB/s a chip assumed): "
        f"{1e3 * max(seconds, moves):.1f} to {1e3 * (seconds + moves):.1f} ms, as one hides the other or not"
    )
    if counted := count_layers(it):
        products = sum(it.uniform_costs.values()) / said["chips"]
        yield (
            f"  the compiler counts {counted.flops:.3g} FLOPs for the learner's update on a chip (1 and 2 layers unrolled; products alone "
            f"{products:.3g}), and {counted.memory_traffic / GIB:.1f} GiB read and written: at most "
            f"{1e3 * counted.memory_traffic / chip.memory_bandwidth:.1f} ms at {chip.memory_bandwidth / 1e9:.0f} GB/s"
        )
    yield f"relative to a uniform update: {said['flops_over_uniform']:.3f}x the FLOPs"
