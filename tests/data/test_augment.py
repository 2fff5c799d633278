import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from active_learning.config import ConfigError, config_hash
from active_learning.core import losses, sharding
from active_learning.data.augment import (
    KINDS,
    Augmentation,
    augmented,
    mixed,
    operate,
    resized_crop,
)
from active_learning.data.transforms import augment
from active_learning.train.build import build
from tests import world

KEY = jax.random.key(3)
RNG = np.random.default_rng(0)
IMAGE = jnp.asarray(RNG.integers(0, 256, (24, 12, 12, 3), dtype=np.uint8))
IDS = jnp.asarray(RNG.integers(0, 2**32, (24, 2), dtype=np.uint32))
EPOCH = jnp.zeros(24, jnp.int32)
ALL = Augmentation(crop="resized", num_ops=2)
every = jax.jit(lambda *batch: augmented(ALL, *batch, KEY))


def take(rows, indices):
    return jax.tree.map(lambda leaf: leaf[indices], rows)


def test_the_default_is_pad_crop_and_flip():
    out = augmented(Augmentation(), IMAGE, IDS, EPOCH, KEY)
    np.testing.assert_array_equal(out, augment(IMAGE, IDS, EPOCH, KEY, crop_padding=4, flip=True))
    none = Augmentation(crop="none", flip=False)
    np.testing.assert_array_equal(augmented(none, IMAGE, IDS, EPOCH, KEY), IMAGE)


def test_all_of_it_follows_the_id_and_the_epoch_and_not_the_place():
    out = np.asarray(every(IMAGE, IDS, EPOCH))
    order = RNG.permutation(24)
    np.testing.assert_array_equal(every(IMAGE[order], IDS[order], EPOCH[order]), out[order])
    assert len(np.unique(np.asarray(every(IMAGE[:1].repeat(24, 0), IDS, EPOCH)), axis=0)) > 20
    other = np.asarray(every(IMAGE, IDS, EPOCH + 1))
    assert (out != other).any(axis=(1, 2, 3)).mean() > 0.9


def test_no_image_moves_between_devices():
    mesh = sharding.make_mesh()
    placed = jax.device_put((IMAGE, IDS, EPOCH), sharding.batch_sharding(mesh))
    compiled = every.lower(*placed).compile()
    assert not re.findall(
        r"(all-gather|all-reduce|all-to-all|collective-permute)", compiled.as_text()
    )
    np.testing.assert_array_equal(compiled(*placed), every(IMAGE, IDS, EPOCH))


def test_a_resized_part_keeps_straight_lines_and_its_area():
    y, x = np.mgrid[0:64, 0:64]
    ramp = jnp.asarray(
        np.stack([x * 3, y * 3, 0 * x], -1).astype(np.uint8)
    )  # red and green say where a pixel came from
    keys = jax.random.split(KEY, 200)
    cut = jax.jit(jax.vmap(lambda key: resized_crop(ramp, key, (0.25, 0.5), True)))
    parts = np.asarray(cut(keys), float)
    across, down = (
        parts[:, 32, 60, 0] - parts[:, 32, 3, 0],
        parts[:, 60, 32, 1] - parts[:, 3, 32, 1],
    )
    width, height = np.abs(across) / 3 / 57, down / 3 / 57  # shares of the picture's sides
    assert 0.23 < (width * height).min() < 0.3 and 0.45 < (width * height).max() < 0.52
    assert (height > 0).all() and 0.3 < (across < 0).mean() < 0.7  # mirrored, never upside down
    assert 0.72 < (width / height).min() < 0.8 and 1.25 < (width / height).max() < 1.4


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_operations_against_their_definitions(kind):
    image = np.asarray(IMAGE[0], np.float32)
    for level in (0.0, 0.5, -0.5):
        out = np.asarray(operate(jnp.asarray(image), jnp.int32(kind), jnp.float32(level)))
        assert out.shape == image.shape and 0 <= out.min() <= out.max() <= 255
        gray, flat = image.mean(2, keepdims=True), image.mean()
        low, high = image.min((0, 1)), image.max((0, 1))
        want = {
            "identity": image,
            "autocontrast": (image - low) * 255 / (high - low),
            "brightness": image * (1 + 0.9 * level),
            "contrast": flat + (image - flat) * (1 + 0.9 * level),
            "color": gray + (image - gray) * (1 + 0.9 * level),
            "posterize": image // 2 ** (4 * abs(level)) * 2 ** (4 * abs(level)),
            "solarize": np.where(image >= 256 * (1 - abs(level)), 255 - image, image),
        }.get(KINDS[kind])
        if want is not None:
            np.testing.assert_allclose(out, np.clip(np.round(want), 0, 255), atol=1.01)
        elif level == 0:
            np.testing.assert_allclose(out, image, atol=1e-3)
        else:
            assert np.abs(out - image).mean() > 5


def test_turns_and_shifts_go_where_they_should():
    dot = np.zeros((21, 21, 1), np.float32)
    dot[10, 16] = 255.0  # right of the centre

    def at(name, level):
        out = np.asarray(
            operate(jnp.asarray(dot), jnp.int32(KINDS.index(name)), jnp.float32(level))
        )[..., 0]
        return np.unravel_index(np.argmax(np.where(out == 128, 0, out)), out.shape)

    assert {at("rotate", 1.0), at("rotate", -1.0)} == {
        (13, 15),
        (7, 15),
    }  # by 30 degrees: 6 cos, 6 sin
    assert at("shift x", 1.0)[0] == 10 and abs(at("shift x", 1.0)[1] - 16) == 6
    assert at("shear y", 1.0)[1] == 16 and at("shear y", 1.0)[0] != 10


def test_mixup_by_hand_and_by_the_set_of_examples():
    batch = {"image": IMAGE, "label": jnp.arange(24), "id": IDS, "epoch": EPOCH}
    out = jax.device_get(mixed(batch, "image", KEY, 1.0, take))
    share, partner = out["mix"], out["mixed_label"]
    assert sorted(partner) == list(range(24)) and (partner != np.arange(24)).all()
    assert 0.5 <= share.min() < 0.6 and 0.9 < share.max() <= 1
    pixels = np.asarray(IMAGE, np.float32)
    weight = share[:, None, None, None]
    want = np.round(weight * pixels + (1 - weight) * pixels[partner])
    np.testing.assert_allclose(out["image"], want, atol=1)
    order = RNG.permutation(24)
    again = jax.device_get(mixed(take(batch, order), "image", KEY, 1.0, take))
    for name in ("image", "mixed_label", "mix"):
        np.testing.assert_array_equal(again[name], out[name][order])


def test_the_loss_of_a_mixed_example(tmp_path):
    experiment = build(world.config(world.write_arrays(tmp_path)))
    logits = jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32)
    batch = {
        "label": jnp.array([0, 1, 2]),
        "mixed_label": jnp.array([3, 1, 0]),
        "mix": jnp.array([0.75, 0.5, 1.0]),
    }
    own, other = (losses.softmax_xent(logits, batch[name]) for name in ("label", "mixed_label"))
    np.testing.assert_allclose(
        experiment.recipe.learner.learn_loss({"logits": logits}, batch),
        batch["mix"] * own + (1 - batch["mix"]) * other,
        rtol=1e-6,
    )


def test_the_pairs_are_the_same_on_one_and_on_two_devices(tmp_path):
    config = world.config(
        world.write_arrays(tmp_path), augmentation=Augmentation(crop="none", mixup=0.2)
    )
    seen = []
    for count in (1, 2):
        experiment = build(config, jax.devices()[:count])
        batch = experiment.data.train.batch(np.arange(16), np.zeros(16, np.int64))
        seen.append(
            jax.device_get(
                jax.jit(experiment.recipe.augment)(
                    jax.device_put(batch, sharding.batch_sharding(experiment.mesh)), KEY
                )
            )
        )
    for name in ("image", "mixed_label", "mix"):
        np.testing.assert_array_equal(seen[0][name], seen[1][name])
    assert (seen[0]["image"] != batch["image"]).any()


def test_the_keys_and_the_hash(tmp_path):
    config = world.config(world.write_arrays(tmp_path))
    assert config_hash(dataclasses.replace(config, augmentation=ALL)) != config_hash(config)
    for wrong, key in (
        ({"crop": "cut"}, "crop='cut'"),
        ({"area": (0.5, 0.2)}, r"area=\(0.5, 0.2\)"),
        ({"magnitude": 2.0}, "magnitude=2.0"),
    ):
        with pytest.raises(ConfigError, match=f"config.augmentation.{key}"):
            build(dataclasses.replace(config, augmentation=Augmentation(**wrong)))
