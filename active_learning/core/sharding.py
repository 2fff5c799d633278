"""Mesh, partition rules and `take_sharded`, the only collective that selection adds.

Everything is `jax.jit` with `NamedSharding` over a mesh whose axes are Auto: in Explicit mode top_k
and indexing along a sharded axis raise. A batch is split over all axes of the mesh. Models are
replicated, except for the learner on a mesh with an axis "fsdp".
"""

import functools
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, PyTree

from active_learning.core.homes import groups_of, rank_in_pair

# JAX assigns `jax.Device` from an untyped module, so type checkers refuse it in annotations.
if TYPE_CHECKING:
    Device = Any
else:
    Device = jax.Device

DATA_AXIS, FSDP_AXIS = "data", "fsdp"
# Mesh axes of `homes.groups_of`.
GROUP_AXES = ("groups", "places")

# Which dimension of an array is split over "fsdp" (None: replicated), by its path in the train
# state; the first match decides. Matrices are split by rows: their slices stay whole tiles of an
# accelerator, and the leading axis of scanned layers stays whole.
PARTITION_RULES: tuple[tuple[str, int | None], ...] = (
    # Of both towers of a two-tower learner, as of a single one: parameters, their moments, their
    # average.
    (r"^(learner|ema)/.*text/.*(kernel|embed)$", -2),
    (r"^(learner|ema)/.*(kernel|embed)$", -2),
    # Scorers: each device scores its own candidates without waiting for others.
    (r"^(online|reference)/", None),
    (r"", None),  # Biases, norms and positions of the learner; policy state, step and key.
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


class _Rows(NamedTuple):
    """Rows that a device owns, and all that are taken: the same on all devices but `x` and `me`."""

    x: Array
    indices: Int[Array, "b"]
    me: Int[Array, ""]
    devices: int

    @property
    def owner(self) -> Int[Array, "b"]:
        return self.indices // self.x.shape[0]

    @property
    def home(self) -> Int[Array, "b"]:
        return jnp.arange(self.indices.shape[0]) // (self.indices.shape[0] // self.devices)

    def here(self, values: Array) -> Array:
        """The part for the rows that this device takes."""
        room = self.indices.shape[0] // self.devices
        return jax.lax.dynamic_slice_in_dim(values, self.me * room, room)

    def at_home(self) -> Array:
        """What this device takes, right where it owns the row."""
        mine = self.here(self.indices) - self.me * self.x.shape[0]
        return self.x[jnp.clip(mine, 0, self.x.shape[0] - 1)]

    def exchanged(
        self,
        out: Array,
        moves: Array,
        rank: Array,
        axis: Any,
        to: Array,
        of: Array,
        hop: Any = None,
    ) -> Array:
        """`out` with the rows that move, which arrive in rounds of one row per pair of devices.

        Args:
          out: What this device takes.
          moves: Which of all rows move.
          rank: The round in which each of them does.
          axis: Mesh axes of an exchange.
          to: Where on the axis each row goes.
          of: Where on the axis it comes from.
          hop: (round, received rows) -> received rows after a second exchange.
        """
        size = jax.lax.psum(1, axis)

        def exchange(carry):
            k, out = carry
            sends = moves & (self.owner == self.me) & (rank == k)
            row_for = (
                jnp.zeros((size,), self.indices.dtype)
                .at[jnp.where(sends, to, size)]
                .set(self.indices - self.me * self.x.shape[0], mode="drop")
            )
            received = jax.lax.all_to_all(self.x[row_for], axis, 0, 0, tiled=True)
            received = received[self.here(of)] if hop is None else hop(k, received)
            arrives = self.here(moves) & (self.here(rank) == k)
            return k + 1, jnp.where(arrives.reshape((-1,) + (1,) * (out.ndim - 1)), received, out)

        # Indices are the same everywhere, so every device computes the same bound.
        rounds = jnp.max(jnp.where(moves, rank + 1, 0))
        return jax.lax.while_loop(lambda carry: carry[0] < rounds, exchange, (jnp.int32(0), out))[1]


def take_local(x: Array, indices: Int[Array, "b"], axis: tuple[str, ...]) -> Array:
    """One device's part of `take_sharded`, within a `shard_map`.

    Args:
      x: The device's own rows.
      indices: Rows to take, the same on all devices of `axis`; each gets a consecutive part.
      axis: Mesh axes over which the rows are split.
    """
    devices = jax.lax.psum(1, axis)
    rows = _Rows(x, indices, jax.lax.axis_index(axis), devices)
    owner, home = rows.owner, rows.home
    rank = rank_in_pair(owner * devices + home)
    return rows.exchanged(rows.at_home(), owner != home, rank, axis, home, owner)


def _take_in_groups(x: Array, indices: Int[Array, "b"]) -> Array:
    """`take_local` on the mesh of `groups_of`: inside groups, then between equal places.

    What is left over, in practice nothing, goes by both ways in turn: over the device in the
    owner's group at the place of the home, one row per such device and round.
    """
    groups, places = (jax.lax.psum(1, name) for name in GROUP_AXES)
    rows = _Rows(x, indices, jax.lax.axis_index(GROUP_AXES), groups * places)
    owner, home = rows.owner, rows.home
    (group, place), (to_group, to_place) = ((of // places, of % places) for of in (owner, home))
    rank = rank_in_pair(owner * rows.devices + home)
    inside = (owner != home) & (group == to_group)
    between = (group != to_group) & (place == to_place)
    other = (group != to_group) & (place != to_place)
    over = group * places + to_place
    turn = rank_in_pair(jnp.where(other, over, rows.devices))

    def second(k: Array, received: Array) -> Array:
        passed = other & (over == rows.me) & (turn == k)
        row = received[jnp.sum(jnp.where(passed, place, 0))]
        everywhere = jnp.broadcast_to(row, (groups, *row.shape))
        arrived = jax.lax.all_to_all(everywhere, GROUP_AXES[0], 0, 0, tiled=True)
        return arrived[rows.here(group)]

    out = rows.exchanged(rows.at_home(), inside, rank, GROUP_AXES[1], to_place, place)
    out = rows.exchanged(out, between, rank, GROUP_AXES[0], to_group, group)
    return rows.exchanged(out, other, turn, GROUP_AXES[1], to_place, place, second)


def take_sharded(
    x: PyTree,
    indices: Int[Array, "b"],
    mesh: Mesh | None,
    axis: str | tuple[str, ...] | None = None,
) -> PyTree:
    """x[indices] along the leading axis of every leaf, with rows sharded over `axis`.

    Plain indexing of a sharded array compiles to an all-reduce of masked rows or comes back
    replicated. Here each device sends at most one row to each other device per round; the number
    of rounds is computed from the indices, so any skew is exact. Call `home_first` before, and few
    rounds are enough.

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
    local, split, whole = functools.partial(take_local, axis=axis), P(axis), mesh
    groups = groups_of(devices) if devices == mesh.size else 1
    if groups > 1:
        grid = mesh.devices.reshape(groups, devices // groups)
        whole = Mesh(grid, GROUP_AXES, axis_types=(AxisType.Auto,) * 2)
        local, split = _take_in_groups, P(GROUP_AXES)
    take = jax.shard_map(
        lambda leaves, indices: jax.tree.map(lambda leaf: local(leaf, indices), leaves),
        mesh=whole, in_specs=(split, P()), out_specs=split, check_vma=False,
    )  # fmt: skip
    # What follows knows the rows by the axes of `mesh`.
    return jax.lax.with_sharding_constraint(take(x, indices), NamedSharding(mesh, P(axis)))


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
