"""Image transforms on the device. What is random about an example depends on (key, id, epoch) only, never on its place in the batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8, UInt32


def normalize(
    image: UInt8[Array, "B H W C"], mean: tuple[float, ...], std: tuple[float, ...], dtype=jnp.float32
) -> Float[Array, "B H W C"]:
    """(image / 255 - mean) / std by channel, in `dtype`."""
    scale = 1.0 / (255.0 * jnp.asarray(std, jnp.float32))
    shift = jnp.asarray(mean, jnp.float32) / jnp.asarray(std, jnp.float32)
    return (image.astype(jnp.float32) * scale[None, None, None] - shift[None, None, None]).astype(dtype)


def example_keys(key: Key[Array, ""], ids: UInt32[Array, "B 2"], epoch: Int[Array, "B"]) -> Key[Array, "B"]:
    """One key an example, folded from (id, epoch)."""

    def fold(words, turn):
        return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, words[0]), words[1]), turn)

    return jax.vmap(fold)(ids, epoch)


def augment(
    image: UInt8[Array, "B H W C"],
    ids: UInt32[Array, "B 2"],
    epoch: Int[Array, "B"],
    key: Key[Array, ""],
    *,
    crop_padding: int = 4,
    flip: bool = True,
) -> UInt8[Array, "B H W C"]:
    """Random crop after zero padding, and horizontal flip, keyed by (id, epoch)."""
    height, width = image.shape[1:3]

    def draw(key):
        offsets, mirror = jax.random.split(key)
        return jax.random.randint(offsets, (2,), 0, 2 * crop_padding + 1), jax.random.bernoulli(mirror)

    offset, mirror = jax.vmap(draw)(example_keys(key, ids, epoch))
    rows = offset[:, :1] + jnp.arange(height)[None]
    columns = jnp.arange(width)[None]
    if flip:
        columns = jnp.where(mirror[:, None], width - 1 - columns, columns)
    columns = offset[:, 1:] + columns
    padded = jnp.pad(image, ((0, 0), (crop_padding, crop_padding), (crop_padding, crop_padding), (0, 0)))
    return padded[jnp.arange(image.shape[0])[:, None, None], rows[:, :, None], columns[:, None, :]]
