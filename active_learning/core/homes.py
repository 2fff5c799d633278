"""Which device gets each row of a sub-batch: arithmetic on indices, the same on every device."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

# Devices up to which rows are exchanged among all at once.
FLAT = 64


def groups_of(devices: int) -> int:
    """Groups that the devices of a large mesh form, so that a row travels in short exchanges.

    An exchange sends a row to every device it spans: 256 devices in 16 groups send two times 16
    rows instead of 256.
    """
    if devices <= FLAT:
        return 1
    return max(n for n in range(1, math.isqrt(devices) + 1) if devices % n == 0)


def home_first(
    indices: Int[Array, "b"], super_batch_size: int, devices: int, period: int = 1
) -> Int[Array, "b"]:
    """Permutes `indices` so that a selected row stays on the device that owns it where it can.

    The order inside a sub-batch is free, so only rows of devices with more than b / devices of them
    move. These spare rows are assigned to free slots such that rows of one owner land on different
    devices: owners with few spares get the deepest free slots (which few devices have), owners with
    many get the shallow ones (which most devices have). On a large mesh they move inside a group of
    devices; what a group has too many of goes to devices of the same place in other groups.

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
        parts = [
            home_first(indices[first::period], super_batch_size, devices) for first in range(period)
        ]
        return jnp.stack(parts, axis=1).reshape(-1)
    b, groups = indices.shape[0], groups_of(devices)
    room, places = b // devices, devices // groups
    indices = jnp.sort(indices)  # Sorts by owner.
    owner = indices // (super_batch_size // devices)
    count = jnp.bincount(owner, length=devices)
    # Position among the rows of the same owner: first those that stay, then those that go to
    # another device of the group, then those that go to another group. Likewise for slots.
    rank = jnp.arange(b) - (jnp.cumsum(count) - count)[owner]
    sent, received = _between_groups(count.reshape(groups, places), room)
    stay = jnp.minimum(count - sent, room - received)
    spare, crosses = rank >= stay[owner], rank >= (count - sent)[owner]
    device, depth = jnp.arange(b) // room, jnp.arange(b) % room
    free, crossed = depth >= stay[device], depth >= (room - received)[device]

    def meeting(crosses: Array, of: Array) -> Array:
        """Where a row and a slot meet: in a group, or at a place of all groups."""
        return jnp.where(crosses, groups + of % places, of // places)

    last = jnp.iinfo(jnp.int32).max
    # Spare rows first, owners with few spares first.
    spares = jnp.where(crosses, sent[owner], (count - sent - stay)[owner])
    by_spares = jnp.lexsort((owner, spares, jnp.where(spare, meeting(crosses, owner), last)))
    # Free slots first, deepest first.
    below = jnp.where(crossed, depth - (room - received)[device], depth - stay[device])
    by_depth = jnp.lexsort((device, -below, jnp.where(free, meeting(crossed, device), last)))
    moves = spare[by_spares]
    slot = jnp.where(moves, by_depth, owner[by_spares] * room + rank[by_spares])
    return jnp.zeros_like(indices).at[slot].set(indices[by_spares])


def _between_groups(count: Int[Array, "G K"], room: int) -> tuple[Array, Array]:
    """Rows that each device sends to its own place in other groups, and receives from there.

    What groups have too many or too few of is dealt out over the places, so that as many rows
    leave as arrive at a place. A device with fewer rows (or slots) than its part sends those it
    has; `home_first` then matches what is left over in any way.
    """
    places = count.shape[1]
    excess = jnp.sum(count, axis=1) - places * room

    def dealt(number: Int[Array, "G"]) -> Int[Array, "G K"]:
        end = jnp.cumsum(number)
        until = lambda n: (n[:, None] - jnp.arange(places)[None] + places - 1) // places
        return until(end) - until(end - number)

    sent = jnp.minimum(dealt(jnp.maximum(excess, 0)), count)
    received = jnp.minimum(dealt(jnp.maximum(-excess, 0)), room)
    return sent.reshape(-1), received.reshape(-1)


def rank_in_pair(pair: Int[Array, "b"]) -> Int[Array, "b"]:
    """How many earlier slots have the same (owner, home) pair."""
    order = jnp.argsort(pair, stable=True)
    ordered = pair[order]
    place = jnp.arange(pair.shape[0])
    starts = jnp.concatenate([jnp.array([True]), ordered[1:] != ordered[:-1]])
    first = jax.lax.cummax(jnp.where(starts, place, 0))
    return jnp.zeros_like(place).at[order].set(place - first)
