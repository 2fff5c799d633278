"""What newly selected pairs add to the sums of joint selection, on one device or many.

A candidate's sum grows by its pairs with every newly selected one, so the embeddings of each
candidate must meet those of each selected one. On a mesh the devices form a grid, (rows, columns,
terms): a device holds the candidates of its row of the grid, gets the newly selected ones of its
column, and computes one term of the score only, which needs one tower's embeddings of one model.
Then 256 devices move a few percent of what a copy of the selected embeddings on every device takes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Float16, Int

from active_learning.core import contrastive
from active_learning.core.contrastive import Embeddings
from active_learning.core.homes import home_first
from active_learning.core.sharding import replicated, take_local

TILE = 64  # Newly selected pairs whose products are computed at once, in (B, TILE) of memory.
AXES = ROWS, COLUMNS, TERMS = ("rows", "columns", "terms")

Gains = Callable[[Int[Array, "n"]], Float[Array, "B"]]


@dataclass(frozen=True)
class Grid:
    """Devices in the order in which the rows of the super-batch are split over them."""

    mesh: Mesh
    rows: int
    columns: int
    terms: int


def make_grid(mesh: Mesh, terms: int, candidates: int, selected: int) -> Grid:
    """The grid over the devices of `mesh` in which a device receives the fewest embeddings.

    Args:
      mesh: All devices, over which the candidates are split.
      terms: Terms of a pair's score.
      candidates: Pairs in the super-batch, B.
      selected: Pairs in the sub-batch, b.
    """
    each = math.gcd(mesh.size, terms)
    rest = mesh.size // each
    columns = min(
        (n for n in range(1, rest + 1) if rest % n == 0),
        key=lambda n: candidates * n / rest + selected / n,
    )
    shape = (rest // columns, columns, each)
    devices = mesh.devices.reshape(shape)
    return Grid(Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 3), *shape)


def _towers(models: list[Embeddings]) -> tuple[Float16[Array, "r A D"], Array, Array]:
    """Both towers of all models side by side, with scale and bias (A,) of each.

    Rounded to float16, half of the bytes: this changes a product of unit vectors by about 1e-5,
    less than computing them in bfloat16 does.
    """
    arrays = [tower.astype(jnp.float16) for one in models for tower in (one.image, one.text)]
    scale, bias = (
        jnp.repeat(jnp.stack([getattr(one, name)[0] for one in models]), 2)
        for name in ("scale", "bias")
    )
    return jnp.stack(arrays, axis=1), scale, bias


def _sums(
    rows: Float16[Array, "R A D"],
    columns: Float16[Array, "C A D"],
    scale: Float[Array, "A"],
    bias: Float[Array, "A"],
    weights: Float[Array, "C"],
) -> Float[Array, "A R"]:
    """Sum of softplus(x_ij) over the columns j, for each tower of the rows i and its counterpart.

    x_ij is the logit of the pair, as a negative.
    """

    def one(term: int) -> Float[Array, "R"]:
        total = jnp.zeros((rows.shape[0],), jnp.float32)
        for at in range(0, columns.shape[0], TILE):
            part = slice(at, at + TILE)
            logits = scale[term] * contrastive.products(rows[:, term], columns[part, term])
            terms = jax.nn.softplus(logits + bias[term]) * weights[None, part]
            total = total + jnp.sum(terms, axis=1)
        return total

    return jnp.stack([one(term) for term in range(rows.shape[1])])


def _combine(sums: Float[Array, "A R"], signs: tuple[int, ...]) -> Float[Array, "R"]:
    """Adds the two towers of each model, then the models by their signs."""
    return sum(
        (sign * (sums[2 * n] + sums[2 * n + 1]) for n, sign in enumerate(signs)),
        jnp.zeros((sums.shape[1],), jnp.float32),
    )


def _counterparts(towers: Array) -> Array:
    """Images for texts and texts for images, (r, A, D) with an even A."""
    shape = towers.shape
    return towers.reshape(shape[0], -1, 2, shape[2])[:, :, ::-1].reshape(shape)


def _columns(
    grid: Grid, rows: Float16[Array, "R A D"], new: Int[Array, "n"], fill: Float[Array, ""]
) -> tuple[Float16[Array, "m A D"], Float[Array, "m"]]:
    """The counterparts of the newly selected ones of this device's column, and their weights.

    The devices of a column hold all candidates, so they collect an equal part each and share it.
    """
    count = new.shape[0] // grid.columns
    part = jax.lax.dynamic_slice_in_dim(new, jax.lax.axis_index(COLUMNS) * count, count)
    part = home_first(part, rows.shape[0] * grid.rows, grid.rows)
    mine = take_local(rows, part, (ROWS,))
    if mine.shape[1] > 1:
        mine = _counterparts(mine)
    else:
        pairs = [(term, term ^ 1) for term in range(grid.terms)]
        mine = jax.lax.ppermute(mine, TERMS, pairs)
    weights = jnp.where(part == new[0], 1.0 / (1.0 + fill), 1.0)
    return jax.lax.all_gather(mine, ROWS, axis=0, tiled=True), weights


def gains(
    models: list[Embeddings], signs: tuple[int, ...], mesh: Mesh | None, selected: int
) -> Gains:
    """Returns what the pairs with newly selected ones add to every candidate's sum.

    That is, for each i, the sum over the new j and the models of sign * (softplus(x_ij) +
    softplus(x_ji)); entries of the new ones themselves are unspecified.

    Args:
      models: Embeddings of all candidates.
      signs: Of each model's terms, 1 or -1.
      mesh: Over whose devices the candidates are split; None on one device.
      selected: Pairs that will be selected in all.
    """
    if mesh is None or mesh.size == 1:
        rows, scale, bias = _towers(models)
        columns = _counterparts(rows)

        def on_one(new: Int[Array, "n"]) -> Float[Array, "B"]:
            ones = jnp.ones(new.shape, jnp.float32)
            return _combine(_sums(rows, columns[new], scale, bias, ones), signs)

        return on_one

    grid = make_grid(mesh, 2 * len(models), models[0].image.shape[0], selected)

    def place(models: list[Embeddings]) -> tuple[Array, Array, Array]:
        """Moves each tower to the devices of its term, then gathers a row of the grid."""
        towers, scale, bias = _towers(models)
        own = jax.lax.all_to_all(towers, TERMS, 1, 0, tiled=True)
        placed = jax.lax.all_gather(own, COLUMNS, axis=0, tiled=True)
        count = placed.shape[1]
        at = jax.lax.axis_index(TERMS) * count
        scale, bias = (jax.lax.dynamic_slice_in_dim(x, at, count) for x in (scale, bias))
        return placed, scale, bias

    def add(rows: Array, scale: Array, bias: Array, new: Array, fill: Array) -> Array:
        columns, weights = _columns(grid, rows, new, fill)
        sums = jax.lax.psum(_sums(rows, columns, scale, bias, weights), COLUMNS)
        every = jax.lax.all_gather(sums, TERMS, axis=0, tiled=True)
        return jax.lax.all_gather(_combine(every, signs), ROWS, tiled=True)

    split = (P(ROWS, TERMS), P(TERMS), P(TERMS))
    layout = jax.shard_map(
        place, mesh=grid.mesh, in_specs=P(AXES), out_specs=split, check_vma=False
    )(models)
    sharded = jax.shard_map(
        add, mesh=grid.mesh, in_specs=(*split, P(), P()), out_specs=P(), check_vma=False
    )

    def on_many(new: Int[Array, "n"]) -> Float[Array, "B"]:
        # Every device takes as many: the first one also fills the places that are left.
        fill = -new.shape[0] % (grid.rows * grid.columns)
        new = jnp.concatenate([new, jnp.broadcast_to(new[:1], (fill,))])
        added = sharded(*layout, new, jnp.float32(fill))
        return jax.lax.with_sharding_constraint(added, replicated(mesh))

    return on_many
