"""Augmentation on the device.

What is drawn for an example depends on (key, id, epoch): its place in the batch changes nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8, UInt32

from active_learning.config import ConfigError, Section, setting
from active_learning.data.transforms import augment, example_keys

RATIO = (3 / 4, 4 / 3)  # width to height of a random part
KINDS = (
    "identity", "autocontrast", "brightness", "contrast", "color", "posterize", "solarize",
    "rotate", "shear x", "shear y", "shift x", "shift y",
)  # fmt: skip
_GEOMETRIC = KINDS.index("rotate")  # and all after it
GRAY = 128.0  # what comes in from outside


@dataclass(frozen=True)
class Augmentation(Section):
    """Augmentation of the sub-batch; scorers and evaluation always see the unaugmented view."""

    # 'pad': shifted within a border of zeros; 'resized': a random part, resized; 'none'.
    crop: str = setting("pad", one_of=("pad", "resized", "none"))
    # Pixels of that border.
    padding: int = setting(4, at_least=0, at_most=4096)
    # Fraction of the picture that a random part has, least and most.
    area: tuple[float, ...] = setting((0.25, 1.0), above=0.0, at_most=1.0)
    # Left to right, for half of the examples.
    flip: bool = True
    # Random operations on each picture (RandAugment); 0: none.
    num_ops: int = setting(0, at_least=0, at_most=16)
    # How strong they are.
    magnitude: float = setting(0.5, at_least=0.0, at_most=1.0)
    # Pictures and labels are mixed with fractions from Beta(mixup, mixup); 0: never.
    mixup: float = setting(0.0, at_least=0.0, at_most=1e3)

    def check(self) -> None:
        """Raises ConfigError for an area that is not two ascending fractions."""
        if len(self.area) != 2 or self.area[0] > self.area[1]:
            raise ConfigError(
                f"config.augmentation.area={self.area}: expected two fractions in (0, 1], ascending"
            )


def augmented(
    settings: Augmentation,
    image: UInt8[Array, "B H W C"],
    ids: UInt32[Array, "B 2"],
    epoch: Int[Array, "B"],
    key: Key[Array, ""],
) -> UInt8[Array, "B H W C"]:
    """Crop, flip and random operations, each by `settings`."""
    if settings.crop == "resized":
        keys = example_keys(jax.random.fold_in(key, 1), ids, epoch)
        area = settings.area[0], settings.area[1]
        image = jax.vmap(lambda one, key: resized_crop(one, key, area, settings.flip))(image, keys)
    else:
        padding = settings.padding if settings.crop == "pad" else 0
        image = augment(image, ids, epoch, key, crop_padding=padding, flip=settings.flip)
    if settings.num_ops:
        keys = example_keys(jax.random.fold_in(key, 2), ids, epoch)
        image = jax.vmap(
            lambda one, key: random_operations(one, key, settings.num_ops, settings.magnitude)
        )(image, keys)
    return image


def resized_crop(
    image: UInt8[Array, "H W C"], key: Key[Array, ""], area: tuple[float, float], flip: bool
) -> UInt8[Array, "H W C"]:
    """Cuts out a random part of `area` times the picture and resizes it (bilinear) to full size.

    Its aspect ratio is in RATIO, its place anywhere.
    """
    height, width, channels = image.shape
    share, ratio, place, mirror = jax.random.split(key, 4)
    share = jax.random.uniform(share, (), minval=area[0], maxval=area[1])
    ratio = jnp.exp(
        jax.random.uniform(ratio, (), minval=jnp.log(RATIO[0]), maxval=jnp.log(RATIO[1]))
    )
    part = jnp.minimum(jnp.sqrt(share * jnp.stack([1 / ratio, ratio])), 1.0)  # of height and width
    corner = jax.random.uniform(place, (2,)) * (1.0 - part)
    size = jnp.array([height, width], jnp.float32)
    scale = 1.0 / part
    out = jax.image.scale_and_translate(
        image.astype(jnp.float32),
        (height, width, channels),
        (0, 1),
        scale,
        -corner * size * scale,
        "linear",
        antialias=False,
    )
    if flip:
        out = jnp.where(jax.random.bernoulli(mirror), out[:, ::-1], out)
    return _bytes(out)


def random_operations(
    image: UInt8[Array, "H W C"], key: Key[Array, ""], count: int, magnitude: float
) -> UInt8[Array, "H W C"]:
    """Applies `count` operations one after the other, each drawn from KINDS.

    As in Cubuk et al. 2020, without its equalize.
    """
    out = image.astype(jnp.float32)
    for turn in range(count):
        kind, sign = jax.random.split(jax.random.fold_in(key, turn))
        level = magnitude * jnp.where(jax.random.bernoulli(sign), 1.0, -1.0)
        kind = jax.random.randint(kind, (), 0, len(KINDS))
        out = operate(out, kind, level)
    return _bytes(out)


def operate(
    image: Float[Array, "H W C"], kind: Int[Array, ""], level: Float[Array, ""]
) -> Float[Array, "H W C"]:
    """One operation of KINDS on values 0 .. 255, at `level` -1 .. 1 (its size is the strength)."""
    strength = jnp.abs(level)
    low, high = jnp.min(image, (0, 1), keepdims=True), jnp.max(image, (0, 1), keepdims=True)
    gray = jnp.mean(image, axis=2, keepdims=True)
    step = jnp.exp2(jnp.round(4.0 * strength))  # gray levels that become one
    photometric = [
        image,
        (image - low) * (255.0 / jnp.maximum(high - low, 1.0)),
        image * (1.0 + 0.9 * level),
        jnp.mean(gray) + (image - jnp.mean(gray)) * (1.0 + 0.9 * level),
        gray + (image - gray) * (1.0 + 0.9 * level),
        jnp.floor(image / step) * step,
        jnp.where(image >= 256.0 * (1.0 - strength), 255.0 - image, image),
    ]
    changed = jax.lax.select_n(jnp.minimum(kind, _GEOMETRIC), *map(jnp.round, photometric), image)
    return jnp.where(kind >= _GEOMETRIC, _moved(image, kind, level), jnp.clip(changed, 0.0, 255.0))


def _moved(
    image: Float[Array, "H W C"], kind: Int[Array, ""], level: Float[Array, ""]
) -> Float[Array, "H W C"]:
    """Rotates by up to 30 degrees, shears or shifts by up to 0.3 of the size (bilinear)."""
    height, width, _ = image.shape
    on = lambda name: jnp.where(kind == KINDS.index(name), level, 0.0)
    angle = on("rotate") * (jnp.pi / 6)
    y, x = jnp.meshgrid(
        jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2, indexing="ij"
    )
    from_y = (
        jnp.cos(angle) * y
        + (jnp.sin(angle) + 0.3 * on("shear y")) * x
        + 0.3 * height * on("shift y")
    )
    from_x = (
        jnp.cos(angle) * x
        + (0.3 * on("shear x") - jnp.sin(angle)) * y
        + 0.3 * width * on("shift x")
    )
    at = [from_y + (height - 1) / 2, from_x + (width - 1) / 2]

    def sample(plane: Float[Array, "H W"]) -> Float[Array, "H W"]:
        return jax.scipy.ndimage.map_coordinates(plane, at, 1, "constant", GRAY)

    return jax.vmap(sample, in_axes=2, out_axes=2)(image)


def mixed(batch: dict, name: str, key: Key[Array, ""], alpha: float, take: Callable) -> dict:
    """Mixes each picture (column `name`) with that of a partner.

    Adds `mixed_label`, the partner's label, and `mix` (B,), the fraction of the example's own
    picture, at least 1/2.

    Partners follow each other in an order that is drawn by (key, id, epoch), so the pairs depend on
    the set of examples alone. `take(rows, indices)` takes rows of a pytree.
    """
    keys = example_keys(jax.random.fold_in(key, 3), batch["id"], batch["epoch"])
    drawn = jax.vmap(lambda key: jax.random.bits(jax.random.fold_in(key, 0)))(keys)
    order = jnp.lexsort((batch["id"][:, 1], batch["id"][:, 0], drawn))
    partner = jnp.zeros_like(order).at[order].set(jnp.roll(order, -1))
    other = take({"image": batch[name], "label": batch["label"]}, partner)
    share = jax.vmap(lambda key: jax.random.beta(jax.random.fold_in(key, 1), alpha, alpha))(keys)
    share = jnp.maximum(share, 1.0 - share)
    weight = share[:, None, None, None]
    image = weight * batch[name].astype(jnp.float32) + (1.0 - weight) * other["image"].astype(
        jnp.float32
    )
    return batch | {name: _bytes(image), "mixed_label": other["label"], "mix": share}


def _bytes(image: Float[Array, "*shape"]) -> UInt8[Array, "*shape"]:
    return jnp.clip(jnp.round(image), 0, 255).astype(jnp.uint8)
