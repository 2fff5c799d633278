"""Image transforms on the device.

What is random about an example depends on (key, id, epoch), never on its place in the batch.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8, UInt32


def normalize(
    image: UInt8[Array, "B H W C"],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dtype=jnp.float32,
) -> Float[Array, "B H W C"]:
    """(image / 255 - mean) / std by channel, computed in float32 and returned in `dtype`.

    Raises ValueError unless C means and C deviations are given.
    """
    channels = image.shape[-1]
    if len(mean) != channels or len(std) != channels:
        raise ValueError(
            f"normalize: {len(mean)} means and {len(std)} deviations for images of {channels} "
            f"channels"
        )
    scale = 1.0 / (255.0 * jnp.asarray(std, jnp.float32))
    shift = jnp.asarray(mean, jnp.float32) / jnp.asarray(std, jnp.float32)
    return (image.astype(jnp.float32) * scale[None, None, None] - shift[None, None, None]).astype(
        dtype
    )


def example_keys(
    key: Key[Array, ""], ids: UInt32[Array, "B 2"], epoch: Int[Array, "B"]
) -> Key[Array, "B"]:
    """One key an example, folded from both words of its id and its epoch."""

    def fold(words, turn):
        return jax.random.fold_in(
            jax.random.fold_in(jax.random.fold_in(key, words[0]), words[1]), turn
        )

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
    """Crops at random after padding with zeros, then flips with probability 1/2.

    Both are drawn from (key, id, epoch).
    """
    height, width = image.shape[1:3]
    pad = (crop_padding, crop_padding)

    def one(image, key):
        offsets, mirror = jax.random.split(key)
        top, left = jax.random.randint(offsets, (2,), 0, 2 * crop_padding + 1)
        rows, columns = top + jnp.arange(height), jnp.arange(width)
        if flip:
            columns = jnp.where(jax.random.bernoulli(mirror), width - 1 - columns, columns)
        return jnp.pad(image, (pad, pad, (0, 0)))[rows[:, None], left + columns[None]]

    # vmap, not a gather over the batch axis: the partitioner answers that one with an all-gather of
    # the images
    return jax.vmap(one)(image, example_keys(key, ids, epoch))


def resize(
    image: UInt8[Array | np.ndarray, "B H W C"], size: int
) -> UInt8[Array | np.ndarray, "B size size C"]:
    """Square images of `size` px, the small view that scorers can read; anti-aliased.

    Raises ValueError for a size below 1.

    The exact mean of each block (halves up) where `size` divides height and width, else a triangle
    filter.
    """
    if size < 1:
        raise ValueError(f"resize: size={size}, expected at least 1")
    batch, height, width, channels = image.shape
    if (height, width) == (size, size):
        return image
    if height % size or width % size:
        smooth = jax.image.resize(
            image.astype(jnp.float32), (batch, size, size, channels), "linear", antialias=True
        )
        return jnp.clip(jnp.round(smooth), 0, 255).astype(jnp.uint8)
    y, x = height // size, width // size
    blocks = image.reshape(batch, size, y, size, x, channels).astype(jnp.int32)
    return ((blocks.sum(axis=(2, 4)) + y * x // 2) // (y * x)).astype(jnp.uint8)


def view(batch: dict, shape: tuple[int, int, int]) -> UInt8[Array, "B H W C"]:
    """Returns the batch's images at `shape` (height, width, channels).

    `image` or `image_small` as it is where its size fits, else `image` resized.
    """
    for name in ("image_small", "image"):
        if name in batch and batch[name].shape[1:3] == tuple(shape[:2]):
            return batch[name]
    return jnp.asarray(resize(batch["image"], shape[0]))
