"""Mesh, partition rules and `take_sharded`, the only collective that selection adds.

Everything is `jax.jit` with `NamedSharding` over a mesh whose axes are Auto: in Explicit mode top_k
and indexing along a sharded axis raise. A batch is split over all axes of the mesh. Models are
replicated, except for the learner on a mesh with an axis "fsdp".
"""

import functools
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, PyTree

# JAX assigns `jax.Device` from an untyped module, so type checkers refuse it in annotations.
if TYPE_CHECKING:
    Device = Any
else:
    Device = jax.Device

DATA_AXIS, FSDP_AXIS = "data", "fsdp"

# Which dimension of an array is split over "fsdp" (None: replicated), by its path in the train
# state; the first match decides. Matrices are split by rows: their slices stay whole tiles of an
# accelerator, and the leading axis of scanned layers stays whole.
PARTITION_RULES: tuple[tuple[str, int | None], ...] = (
    (r"^(learner|ema)/.*(kernel|embed)$", -2),  # Parameters, their two moments, their average.
    (r"", None),  # Biases, norms, positions; the small models; step and key.
)


def make_mesh(devices: list[Device] | None = None, fsdp: int = 1) -> Mesh:
    """Returns a mesh over `devices` (default: all).

    It has an axis "data", and for fsdp > 1 a second one, "fsdp", of that size.

    Raises:
      ValueError: `fsdp` does not divide the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    if fsdp < 1 or len(devices) % fsdp:
        raise ValueError(f"fsdp={fsdp} does not divide the {len(devices)} devices")
    if fsdp == 1:
        return Mesh(np.array(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))
    shape, names = (len(devices) // fsdp, fsdp), (DATA_AXIS, FSDP_AXIS)
    return jax.make_mesh(shape, names, devices=devices, axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis split over all axes of the mesh."""
    return NamedSharding(mesh, P(mesh.axis_names))


def match_partition_rule(path: str, shape: tuple[int, ...], mesh: Mesh) -> tuple[str, P]:
    """Returns the pattern that matches an array of the train state, and the array's spec.

    An array that "fsdp" does not divide is replicated.
    """
    pattern, dimension = next(rule for rule in PARTITION_RULES if re.search(rule[0], path))
    parts = mesh.shape.get(FSDP_AXIS, 1)
    if dimension is None or parts == 1 or len(shape) < -dimension or shape[dimension] % parts:
        return pattern, P()
    return pattern, P(
        *(FSDP_AXIS if n == len(shape) + dimension else None for n in range(len(shape)))
    )


def state_shardings(state: PyTree, mesh: Mesh) -> PyTree:
    """The sharding of every array of a train state (arrays or shapes)."""

    def sharding(path, leaf):
        return NamedSharding(mesh, match_partition_rule(path_of(path), leaf.shape, mesh)[1])

    return jax.tree_util.tree_map_with_path(sharding, state)


def gather(x: Array, path: str, mesh: Mesh) -> Array:
    """All-gathers an array of the train state where it is read; its gradient is sharded again.

    Without this the partitioner may move activations instead, which are many times larger, and
    keep gradients replicated.
    """
    split = NamedSharding(mesh, match_partition_rule(path, x.shape, mesh)[1])

    @jax.custom_vjp
    def whole(x: Array) -> Array:
        return jax.lax.with_sharding_constraint(x, replicated(mesh))

    whole.defvjp(
        lambda x: (whole(x), None), lambda _, grad: (jax.lax.with_sharding_constraint(grad, split),)
    )
    return whole(x)


def path_of(path: tuple) -> str:
    """A key path as 'learner/params/block_0/mlp/up/kernel'."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def aot_compile(
    step: Callable, state: PyTree, *examples: PyTree, rest: NamedSharding | None = None
) -> jax.stages.Compiled:
    """Compiles `step(state, *examples) -> (state, rest)` ahead of time.

    The state is donated, and returned with the shardings it came with.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return (
        jax.jit(step, donate_argnums=0, out_shardings=(shardings, rest))
        .lower(state, *examples)
        .compile()
    )


def home_first(
    indices: Int[Array, "b"], super_batch_size: int, devices: int, period: int = 1
) -> Int[Array, "b"]:
    """Permutes `indices` so that a selected row stays on the device that owns it where it can.

    The order inside a sub-batch is free, so only rows of devices with more than b / devices of them
    move. These spare rows are assigned to free slots such that rows of one owner land on different
    devices: owners with few spares get the deepest free slots (which few devices have), owners with
    many get the shallow ones (which most devices have).

    Args:
      indices: Rows of the super-batch, distinct.
      super_batch_size: B; a device owns B / devices consecutive rows.
      devices: Must divide both B and b / period.
      period: Where the place in the sub-batch decides how a row is treated: index i stays at a
        place that is i modulo `period`.
    """
    if devices == 1:
        return indices
    if period > 1:
        groups = [
            home_first(indices[first::period], super_batch_size, devices) for first in range(period)
        ]
        return jnp.stack(groups, axis=1).reshape(-1)
    b = indices.shape[0]
    room = b // devices
    indices = jnp.sort(indices)  # Sorts by owner.
    owner = indices // (super_batch_size // devices)
    count = jnp.bincount(owner, length=devices)
    # Position among the rows of the same owner.
    rank = jnp.arange(b) - (jnp.cumsum(count) - count)[owner]
    spare = rank >= room
    slot_device, slot_depth = jnp.arange(b) // room, jnp.arange(b) % room
    free_rank = slot_depth - count[slot_device]  # Negative: taken by a row that stays.
    last = jnp.iinfo(jnp.int32).max
    # Spare rows first, owners with few spares first.
    by_spares = jnp.lexsort((owner, jnp.where(spare, count[owner], last)))
    # Free slots first, deepest first.
    by_depth = jnp.lexsort((slot_device, jnp.where(free_rank >= 0, -free_rank, last)))
    moves = spare[by_spares]
    slot = jnp.where(moves, by_depth, owner[by_spares] * room + rank[by_spares])
    return jnp.zeros_like(indices).at[slot].set(indices[by_spares])


def _rank_in_pair(pair: Int[Array, "b"]) -> Int[Array, "b"]:
    """How many earlier slots have the same (owner, home) pair."""
    order = jnp.argsort(pair, stable=True)
    ordered = pair[order]
    place = jnp.arange(pair.shape[0])
    starts = jnp.concatenate([jnp.array([True]), ordered[1:] != ordered[:-1]])
    first = jax.lax.cummax(jnp.where(starts, place, 0))
    return jnp.zeros_like(place).at[order].set(place - first)


def arrival_rounds(
    indices: Int[Array, "b"], super_batch_size: int, devices: int
) -> Int[Array, "b"]:
    """The round of `take_local` in which each row travels, one row per pair of devices in each."""
    owner = indices // (super_batch_size // devices)
    home = jnp.arange(indices.shape[0]) // (indices.shape[0] // devices)
    return _rank_in_pair(owner * devices + home)


def take_local(
    x: Array,
    indices: Int[Array, "b"],
    rank: Int[Array, "b"],
    *,
    axis: tuple[str, ...],
    devices: int,
) -> Array:
    """One device's part of `take_sharded`, within a `shard_map`.

    Rows it owns are indexed; the others arrive in rounds of one row per pair of devices.

    Args:
      x: The device's own rows.
      indices: Rows to take, the same on all devices of `axis`; each gets a consecutive part.
      rank: `arrival_rounds` of the indices.
      axis: Mesh axes over which the rows are split.
      devices: Number of devices of `axis`.
    """
    me = jax.lax.axis_index(axis)
    rows, room = x.shape[0], indices.shape[0] // devices
    owner, home = indices // rows, jnp.arange(indices.shape[0]) // room
    away = owner != home
    mine = jax.lax.dynamic_slice_in_dim(indices, me * room, room)
    my_owner, my_rank = mine // rows, jax.lax.dynamic_slice_in_dim(rank, me * room, room)
    out = x[jnp.clip(mine - me * rows, 0, rows - 1)]

    def exchange(carry):
        k, out = carry
        sends = away & (owner == me) & (rank == k)
        row_for = (
            jnp.zeros((devices,), indices.dtype)
            .at[jnp.where(sends, home, devices)]
            .set(indices - me * rows, mode="drop")
        )
        received = jax.lax.all_to_all(x[row_for], axis, 0, 0, tiled=True)
        arrives = (my_owner != me) & (my_rank == k)
        arrives = arrives.reshape((-1,) + (1,) * (x.ndim - 1))
        return k + 1, jnp.where(arrives, received[my_owner], out)

    # Indices are replicated, so every device computes the same bound.
    rounds = jnp.max(jnp.where(away, rank + 1, 0))
    return jax.lax.while_loop(lambda carry: carry[0] < rounds, exchange, (jnp.int32(0), out))[1]


def take_sharded(
    x: PyTree,
    indices: Int[Array, "b"],
    mesh: Mesh | None,
    axis: str | tuple[str, ...] | None = None,
) -> PyTree:
    """x[indices] along the leading axis of every leaf, with rows sharded over `axis`.

    Plain indexing of a sharded array compiles to an all-reduce of masked rows or comes back
    replicated. Here each device sends at most one row to each other device per round; the number
    of rounds is computed from the indices, so any skew is exact. Call `home_first` before, and one
    round is usually enough.

    Args:
      x: Arrays with leading axis B, sharded over `axis`.
      indices: Rows to take.
      mesh: None on one device.
      axis: Mesh axes the rows are split over; default: all.

    Raises:
      ValueError: The devices of the axis do not divide B or b.
    """
    if mesh is None:
        return jax.tree.map(lambda leaf: leaf[indices], x)
    axis = ((axis,) if isinstance(axis, str) else axis) or mesh.axis_names
    devices = math.prod(mesh.shape[name] for name in axis)
    if devices == 1:
        return jax.tree.map(lambda leaf: leaf[indices], x)
    for size, what in (
        (jax.tree.leaves(x)[0].shape[0], "super-batch"),
        (indices.shape[0], "sub-batch"),
    ):
        if size % devices:
            raise ValueError(
                f"{what} size {size} is not divisible by the {devices} devices of mesh axis "
                f"{'x'.join(axis)!r}"
            )
    indices = jax.lax.with_sharding_constraint(indices, replicated(mesh))
    rank = arrival_rounds(indices, jax.tree.leaves(x)[0].shape[0], devices)
    local = functools.partial(take_local, axis=axis, devices=devices)
    take = jax.shard_map(
        lambda leaves, indices, rank: jax.tree.map(lambda leaf: local(leaf, indices, rank), leaves),
        mesh=mesh, in_specs=(P(axis), P(), P()), out_specs=P(axis), check_vma=False,
    )  # fmt: skip
    return take(x, indices, rank)


def shard_map_rows(function: Callable, mesh: Mesh | None, rows: int) -> Callable:
    """`function` under a `shard_map` over the rows of its first `rows` arguments.

    Its result is split over the rows as well, its other arguments are replicated. On several
    devices `function` is called with `axis` (the mesh's axis names), over which it can gather.
    """
    if mesh is None or mesh.size == 1:
        return function

    def sharded(*arguments):
        split = P(mesh.axis_names)
        specs = tuple(split if n < rows else P() for n in range(len(arguments)))
        inner = functools.partial(function, axis=mesh.axis_names)
        return jax.shard_map(inner, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False)(
            *arguments
        )

    return sharded
