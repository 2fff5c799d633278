"""InfoBatch (arXiv 2303.04947): what it remembers of every example, as a policy state.

What is drawn from the memory is decided on the host (`data.pruned`); here the losses of the
training pass are kept, which cost nothing.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

# Policy state: "loss" (n,), of each example when it was last trained on, inf before; "snapshot"
# (n,), the same when the epoch began; "epoch" and "start", its number and first update.
Memory = dict[str, Array]


def init(count: int) -> Memory:
    """Nothing is known of `count` examples."""
    unknown = jnp.full((count,), jnp.inf, jnp.float32)
    zero = jnp.int32(0)
    return {"loss": unknown, "snapshot": jnp.copy(unknown), "epoch": zero, "start": jnp.copy(zero)}


def remember(memory: Memory, batch: dict[str, Array], losses: Float[Array, "b"]) -> Memory:
    """The memory after an update; `batch["row"]` (b,) says which examples it trained on."""
    return memory | {"loss": memory["loss"].at[batch["row"]].set(losses.astype(jnp.float32))}


def next_epoch(memory: Memory, start: int) -> Memory:
    """The memory when a further epoch begins with update `start`."""
    return memory | {
        "snapshot": jnp.copy(memory["loss"]),
        "epoch": memory["epoch"] + 1,
        "start": jnp.int32(start),
    }
