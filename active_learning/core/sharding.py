"""Who holds what: the mesh, the rules, and the one collective of the method, `take_sharded`.

Everything is `jax.jit` with `NamedSharding` over a mesh whose axes are Auto: in Explicit mode top_k and indexing along a sharded axis raise.
A batch is split over all axes of the mesh. Models are whole on every device, but for the learner where there is an axis "fsdp".
"""

import functools
import math
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, PyTree

DATA_AXIS, FSDP_AXIS = "data", "fsdp"

# Which dimension of an array is split over "fsdp" (None: the array is whole), by its path in the train state; the first match decides.
# Rows of matrices: their slices stay whole tiles of an accelerator, and the leading axis of scanned layers stays whole.
RULES: tuple[tuple[str, int | None], ...] = (
    (r"^learner/.*(kernel|embed)$", -2),  # parameters and their two moments
    (r"", None),  # biases, norms, positions; the small models; clocks and keys
)


def make_mesh(devices: list[jax.Device] | None = None, fsdp: int = 1) -> Mesh:
    """A mesh over `devices` (default: all): axis "data", and for fsdp > 1 a second one of that size. ValueError when it does not divide."""
    devices = jax.devices() if devices is None else devices
    if fsdp < 1 or len(devices) % fsdp:
        raise ValueError(f"fsdp={fsdp} does not divide the {len(devices)} devices")
    if fsdp == 1:
        return Mesh(np.array(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))
    shape, names = (len(devices) // fsdp, fsdp), (DATA_AXIS, FSDP_AXIS)
    return jax.make_mesh(shape, names, devices=devices, axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def over_data(mesh: Mesh) -> NamedSharding:
    """Leading axis split over all axes of the mesh."""
    return NamedSharding(mesh, P(mesh.axis_names))


def rule_of(path: str, shape: tuple[int, ...], mesh: Mesh) -> tuple[str, P]:
    """The pattern that decides on an array of the train state, and its spec; an array that "fsdp" does not divide is whole."""
    pattern, dimension = next((pattern, at) for pattern, at in RULES if re.search(pattern, path))
    parts = mesh.shape.get(FSDP_AXIS, 1)
    if dimension is None or parts == 1 or len(shape) < -dimension or shape[dimension] % parts:
        return pattern, P()
    return pattern, P(
        *(FSDP_AXIS if n == len(shape) + dimension else None for n in range(len(shape)))
    )


def shardings_of(state: PyTree, mesh: Mesh) -> PyTree:
    """The sharding of every array of a train state (arrays or shapes)."""

    def of(path, leaf):
        return NamedSharding(mesh, rule_of(path_of(path), leaf.shape, mesh)[1])

    return jax.tree_util.tree_map_with_path(of, state)


def gather(x: Array, path: str, mesh: Mesh) -> Array:
    """An array of the train state, made whole where it is read; its gradient is split again by its rule.

    Left alone, the partitioner may move activations instead, which are many times larger, and keep gradients whole.
    """
    split = NamedSharding(mesh, rule_of(path, x.shape, mesh)[1])

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


def compiled(
    step: Callable, state: PyTree, *examples: PyTree, rest: NamedSharding | None = None
) -> jax.stages.Compiled:
    """`step(state, *examples) -> (state, rest)` compiled ahead of time; the state is donated and comes back sharded as it came."""
    as_it_came = jax.tree.map(lambda leaf: leaf.sharding, state)
    return (
        jax.jit(step, donate_argnums=0, out_shardings=(as_it_came, rest))
        .lower(state, *examples)
        .compile()
    )


def home_first(indices: Int[Array, "b"], super_batch_size: int, devices: int) -> Int[Array, "b"]:
    """Permutes `indices` so that a chosen row stays on the device that owns it wherever that device has room.

    The order inside a sub-batch is free, so only the rows of over-full devices travel. These spare rows are dealt to free slots so that
    rows of one owner land on different devices: owners with few spares get the deepest free slots (which few devices have), owners with
    many get the shallow ones (which most devices have). `devices` must divide both b and B.
    """
    if devices == 1:
        return indices
    b = indices.shape[0]
    room = b // devices
    indices = jnp.sort(indices)  # by owner
    owner = indices // (super_batch_size // devices)
    count = jnp.bincount(owner, length=devices)
    rank = (
        jnp.arange(b) - (jnp.cumsum(count) - count)[owner]
    )  # position among the rows of the same owner
    spare = rank >= room
    slot_device, slot_depth = jnp.arange(b) // room, jnp.arange(b) % room
    free_rank = slot_depth - count[slot_device]  # < 0: taken by a row that stays
    far = jnp.iinfo(jnp.int32).max
    by_spares = jnp.lexsort(
        (owner, jnp.where(spare, count[owner], far))
    )  # spare rows first, owners with few spares first
    by_depth = jnp.lexsort(
        (slot_device, jnp.where(free_rank >= 0, -free_rank, far))
    )  # free slots first, deepest first
    travels = spare[by_spares]
    slot = jnp.where(travels, by_depth, owner[by_spares] * room + rank[by_spares])
    return jnp.zeros_like(indices).at[slot].set(indices[by_spares])


def _rank_in_pair(pair: Int[Array, "b"]) -> Int[Array, "b"]:
    """How many earlier slots have the same (owner, home) pair."""
    order = jnp.argsort(pair, stable=True)
    ordered = pair[order]
    place = jnp.arange(pair.shape[0])
    starts = jnp.concatenate([jnp.array([True]), ordered[1:] != ordered[:-1]])
    first = jax.lax.cummax(jnp.where(starts, place, 0))
    return jnp.zeros_like(place).at[order].set(place - first)


def _take_local(
    x: Array,
    indices: Int[Array, "b"],
    rank: Int[Array, "b"],
    *,
    axis: tuple[str, ...],
    devices: int,
) -> Array:
    """One device's part of `take_sharded`: rows at home by indexing, the others in rounds of one row per pair of devices."""
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

    rounds = jnp.max(
        jnp.where(away, rank + 1, 0)
    )  # indices are replicated, so every device computes the same bound
    return jax.lax.while_loop(lambda carry: carry[0] < rounds, exchange, (jnp.int32(0), out))[1]


def take_sharded(
    x: PyTree,
    indices: Int[Array, "b"],
    mesh: Mesh | None,
    axis: str | tuple[str, ...] | None = None,
) -> PyTree:
    """x[indices] along the leading axis of every leaf; rows stay sharded over `axis` (default: all axes), only those not at home travel.

    Plain indexing of a sharded array compiles to an all-reduce of masked rows or comes back replicated. Here each device sends at most one
    row to each other device a round; the number of rounds is computed from the indices, so any skew is exact. Call `home_first` before:
    one round is then the rule. Raises ValueError when the mesh axis does not divide B or b.
    """
    axis = ((axis,) if isinstance(axis, str) else axis) or (() if mesh is None else mesh.axis_names)
    devices = math.prod(mesh.shape[name] for name in axis)
    if devices == 1:
        return jax.tree.map(lambda leaf: leaf[indices], x)
    for size, what in (
        (jax.tree.leaves(x)[0].shape[0], "super-batch"),
        (indices.shape[0], "sub-batch"),
    ):
        if size % devices:
            raise ValueError(
                f"{what} size {size} is not divisible by the {devices} devices of mesh axis {'x'.join(axis)!r}"
            )
    indices = jax.lax.with_sharding_constraint(indices, replicated(mesh))
    room = indices.shape[0] // devices
    owner = indices // (jax.tree.leaves(x)[0].shape[0] // devices)
    rank = _rank_in_pair(owner * devices + jnp.arange(indices.shape[0]) // room)
    local = functools.partial(_take_local, axis=axis, devices=devices)
    take = jax.shard_map(
        lambda leaves, indices, rank: jax.tree.map(lambda leaf: local(leaf, indices, rank), leaves),
        mesh=mesh, in_specs=(P(axis), P(), P()), out_specs=P(axis), check_vma=False,
    )  # fmt: skip
    return take(x, indices, rank)


def by_rows(function: Callable, mesh: Mesh | None, rows: int) -> Callable:
    """`function` of arrays whose first `rows` arguments (and whose result) have a leading axis that is split over the mesh, the others
    replicated; on several devices it is called with `axis` (the mesh's names), to gather over it what it needs of the others."""
    if mesh is None or mesh.size == 1:
        return function

    def split(*arguments):
        over = P(mesh.axis_names)
        specs = tuple(over if n < rows else P() for n in range(len(arguments)))
        inner = functools.partial(function, axis=mesh.axis_names)
        return jax.shard_map(inner, mesh=mesh, in_specs=specs, out_specs=over, check_vma=False)(
            *arguments
        )

    return split
