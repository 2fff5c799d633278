import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from active_learning.core import sharding
from active_learning.data.transforms import augment, normalize, resize

KEY = jax.random.key(3)


def batch(n=24, size=12, channels=3):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (n, size, size, channels), dtype=np.uint8)
    return (
        jnp.asarray(image),
        jnp.asarray(rng.integers(0, 2**32, (n, 2), dtype=np.uint32)),
        jnp.zeros(n, jnp.int32),
    )


def crops(image, padding):
    """All crops of the zero-padded image, plain and mirrored, as bytes -> (top, left, mirrored)."""
    h, w = image.shape[:2]
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    windows = {
        (t, x): padded[t : t + h, x : x + w]
        for t in range(2 * padding + 1)
        for x in range(2 * padding + 1)
    }
    plain = {window.tobytes(): (*where, 0) for where, window in windows.items()}
    return plain | {
        np.ascontiguousarray(window[:, ::-1]).tobytes(): (*where, 1)
        for where, window in windows.items()
    }


def test_normalize_against_numpy():
    image, mean, std = batch()[0], (0.4, 0.5, 0.6), (0.2, 0.1, 0.3)
    expected = (np.asarray(image) / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(normalize(image, mean, std), expected, atol=2e-6)
    half = normalize(image, mean, std, jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        half, normalize(image, mean, std).astype(jnp.bfloat16)
    )  # rounded once, at the end


def test_normalize_wants_a_value_for_each_channel():
    with pytest.raises(ValueError, match="1 means and 1 deviations for images of 3 channels"):
        normalize(batch()[0], (0.5,), (0.2,))


def test_augment_is_a_crop_and_a_flip_of_each_image():
    image, ids, epoch = batch()
    for padding, flip in ((4, True), (2, False), (0, True), (0, False)):
        out = np.asarray(augment(image, ids, epoch, KEY, crop_padding=padding, flip=flip))
        assert out.dtype == np.uint8
        result = [
            crops(np.asarray(i), padding)[o.tobytes()] for i, o in zip(image, out, strict=True)
        ]
        assert {mirrored for *_, mirrored in result} == ({0, 1} if flip else {0})


def test_offsets_and_flips_are_uniform():
    image, n, padding = (
        np.random.default_rng(1).integers(0, 256, (5, 5, 3), dtype=np.uint8),
        4000,
        1,
    )
    ids = jnp.stack([jnp.zeros(n, jnp.uint32), jnp.arange(n, dtype=jnp.uint32)], axis=1)
    out = np.asarray(
        augment(
            jnp.asarray(np.broadcast_to(image, (n, 5, 5, 3))),
            ids,
            jnp.zeros(n, jnp.int32),
            KEY,
            crop_padding=padding,
        )
    )
    known = crops(image, padding)
    result = np.array([known[o.tobytes()] for o in out])
    counts = np.unique(result, axis=0, return_counts=True)[1]
    assert len(counts) == 18  # 3 x 3 offsets, mirrored or not
    assert (
        (counts - n / 18) ** 2 / (n / 18)
    ).sum() < 45  # chi-square with 17 degrees of freedom: p = 0.0002


def test_augment_follows_the_id_and_not_the_place():
    image, ids, epoch = batch()
    out = np.asarray(augment(image, ids, epoch, KEY))
    order = np.random.default_rng(2).permutation(len(image))
    np.testing.assert_array_equal(augment(image[order], ids[order], epoch[order], KEY), out[order])
    np.testing.assert_array_equal(augment(image[5:9], ids[5:9], epoch[5:9], KEY), out[5:9])


def test_another_id_word_epoch_or_key_is_another_draw():
    n = 64
    image = jnp.broadcast_to(batch(1)[0], (n, 12, 12, 3))
    ids, epoch = jnp.full((n, 2), 7, jnp.uint32), jnp.zeros(n, jnp.int32)
    count = jnp.arange(n, dtype=jnp.uint32)

    def kinds(ids, epoch):
        return len(np.unique(np.asarray(augment(image, ids, epoch, KEY)), axis=0))

    assert kinds(ids, epoch) == 1
    assert kinds(ids.at[:, 0].set(count), epoch) > 30
    assert kinds(ids.at[:, 1].set(count), epoch) > 30
    assert kinds(ids, epoch + count.astype(jnp.int32)) > 30
    assert (augment(image, ids, epoch, KEY) != augment(image, ids, epoch, jax.random.key(4))).any()


def test_augment_moves_nothing_between_devices():
    mesh = sharding.make_mesh()
    image, ids, epoch = batch(8 * mesh.size)
    placed = jax.device_put((image, ids, epoch), sharding.batch_sharding(mesh))
    compiled = jax.jit(augment).lower(*placed, KEY).compile()
    assert not re.findall(
        r"(all-gather|all-reduce|all-to-all|collective-permute)", compiled.as_text()
    )
    out = compiled(*placed, KEY)
    assert out.sharding.spec[0] == sharding.DATA_AXIS
    np.testing.assert_array_equal(out, augment(image, ids, epoch, KEY))


def test_resize_is_the_block_mean_with_halves_up():
    image = batch(4, 12)[0]
    blocks = np.asarray(image).reshape(4, 4, 3, 4, 3, 3).astype(np.int64).sum(axis=(2, 4))
    np.testing.assert_array_equal(resize(image, 4), np.floor(blocks / 9 + 0.5))
    two = jnp.asarray(np.array([[0, 1], [1, 0]], np.uint8)[None, :, :, None])
    assert resize(two, 1).item() == 1  # 0.5
    np.testing.assert_array_equal(resize(image, 12), image)


def test_resize_to_a_size_that_does_not_divide():
    fine = np.indices((30, 30)).sum(0) % 2 * 255  # a checkerboard must turn grey, not alias
    out = resize(jnp.asarray(fine.astype(np.uint8)[None, :, :, None]), 13)
    assert out.shape == (1, 13, 13, 1) and out.dtype == jnp.uint8
    assert np.abs(np.asarray(out, int) - 127.5).max() < 20
    flat = resize(jnp.full((1, 9, 7, 3), 255, jnp.uint8), 4)
    assert (flat == 255).all()
    with pytest.raises(ValueError, match="size=0"):
        resize(flat, 0)
