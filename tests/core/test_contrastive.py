"""Contrastive losses by hand, in chunks and over devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from active_learning.core import contrastive, sharding
from tests import toy

B, D = 64, 16
SCALE, BIAS = jnp.float32(3.0), jnp.float32(-2.0)
THREE = (
    jnp.array([[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]]),
    jnp.array([[0.8, 0.6], [0.0, 1.0], [0.6, 0.8]]),
)


def embeddings(size: int = B, seed: int = 0):
    keys = jax.random.split(jax.random.key(seed))
    return tuple(contrastive.l2_normalize(jax.random.normal(key, (size, D))) for key in keys)


def np_logits(image, text, scale, bias=0.0):
    return float(scale) * np.asarray(image, np.float64) @ np.asarray(text, np.float64).T + float(
        bias
    )


def np_info_nce(image, text, scale):
    x = np_logits(image, text, scale)
    rows = np.log(np.exp(x).sum(axis=1)) - np.diag(x)
    columns = np.log(np.exp(x).sum(axis=0)) - np.diag(x)
    return (rows + columns) / 2


def np_sigmoid(image, text, scale, bias):
    x = np_logits(image, text, scale, bias)
    sign = 2 * np.eye(len(x)) - 1
    return np.log1p(np.exp(-sign * x)).sum(axis=1)


LOSSES = {
    "info_nce": (contrastive.info_nce, (SCALE,)),
    "sigmoid": (contrastive.sigmoid, (SCALE, BIAS)),
}


def test_the_dot_product_of_three_pairs_by_hand():
    np.testing.assert_allclose(contrastive.negative_dot(*THREE), [-0.8, -0.8, 0.8], rtol=1e-6)


def test_sigmoid_loss_of_three_pairs_by_hand():
    image, text = THREE
    x = (
        3 * np.array([[0.8, 0.0, 0.6], [0.96, 0.8, 1.0], [-0.6, -1.0, -0.8]]) - 2
    )  # image i . text j
    expected = [
        np.log1p(np.exp(-x[0, 0])) + np.log1p(np.exp(x[0, 1])) + np.log1p(np.exp(x[0, 2])),
        np.log1p(np.exp(x[1, 0])) + np.log1p(np.exp(-x[1, 1])) + np.log1p(np.exp(x[1, 2])),
        np.log1p(np.exp(x[2, 0])) + np.log1p(np.exp(x[2, 1])) + np.log1p(np.exp(-x[2, 2])),
    ]
    np.testing.assert_allclose(contrastive.sigmoid(image, text, SCALE, BIAS), expected, rtol=1e-5)


@pytest.mark.parametrize("chunk", [0, 16, 64])
def test_losses_equal_their_formulas_in_float64(chunk):
    image, text = embeddings()
    np.testing.assert_allclose(
        contrastive.info_nce(image, text, SCALE, chunk=chunk),
        np_info_nce(image, text, SCALE),
        rtol=2e-6,
    )
    ours = contrastive.sigmoid(image, text, SCALE, BIAS, chunk=chunk)
    np.testing.assert_allclose(ours, np_sigmoid(image, text, SCALE, BIAS), rtol=1e-5)


def test_info_nce_of_equal_embeddings_is_log_of_the_batch():
    same = jnp.ones((8, 4)) / 2
    np.testing.assert_allclose(
        contrastive.info_nce(same, same, jnp.float32(7.0)), np.log(8.0), rtol=1e-6
    )


def test_large_scales_do_not_overflow():
    image, text = embeddings()
    assert np.isfinite(contrastive.info_nce(image, text, jnp.float32(1e4))).all()
    assert np.isfinite(contrastive.sigmoid(image, text, jnp.float32(1e4), BIAS)).all()


def test_losses_are_float32_per_example_from_bfloat16():
    image, text = (z.astype(jnp.bfloat16) for z in embeddings())
    for loss in (
        contrastive.negative_dot(image, text),
        contrastive.sigmoid(image, text, SCALE, BIAS),
    ):
        assert loss.shape == (B,)
        assert loss.dtype == jnp.float32


def value_and_grads(name: str, mesh=None, **options):
    """The mean loss and its gradient for every input, compiled, inputs over the mesh."""
    function, scalars = LOSSES[name]
    image, text = embeddings()
    if mesh is not None:
        image, text = jax.device_put((image, text), sharding.batch_sharding(mesh))
    loss = sharding.shard_map_rows(partial(function, **options), mesh, rows=2)
    mean = lambda *inputs: jnp.mean(loss(*inputs))
    return jax.jit(jax.value_and_grad(mean, argnums=tuple(range(2 + len(scalars)))))(
        image, text, *scalars
    )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("chunk", [8, 32])
def test_chunks_change_neither_value_nor_gradient(name, chunk):
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7),
        value_and_grads(name, chunk=chunk),
        value_and_grads(name),
    )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("devices", "chunk"), [(1, 0), (4, 0), (8, 0), (8, 16)])
def test_devices_change_neither_value_nor_gradient(name, devices, chunk):
    sharded = value_and_grads(name, toy.mesh_of(devices), chunk=chunk)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7),
        jax.device_get(sharded),
        value_and_grads(name),
    )
    if devices > 1:
        assert all(
            len(g.sharding.device_set) == devices and not g.sharding.is_fully_replicated
            for g in sharded[1][:2]
        )


def temporaries(loss, rows: int, columns: int) -> int:
    """Bytes of temporaries of the compiled gradient, for `rows` images against `columns` texts."""
    image, text = (
        jax.ShapeDtypeStruct((rows, D), jnp.float32),
        jax.ShapeDtypeStruct((columns, D), jnp.float32),
    )
    gradient = jax.jit(jax.grad(lambda image, text: jnp.sum(loss(image, text)), argnums=(0, 1)))
    return gradient.lower(image, text).compile().memory_analysis().temp_size_in_bytes


def test_memory_of_the_gradient_is_flat_in_the_number_of_chunks():
    """4 or 32 chunks of 64 columns: the block of one chunk, not of all.

    Without the checkpoint all blocks are kept.
    """
    rows, chunk = 256, 64

    def chunked(image, text, wrap=jax.checkpoint):
        def block(rows, part):
            return jnp.sum(jax.nn.softplus(SCALE * contrastive.products(rows, part) + BIAS), axis=1)

        return contrastive._over_columns(block, image, text, chunk)

    few, many = (temporaries(chunked, rows, count * chunk) for count in (4, 32))
    one_block = 4 * rows * chunk
    embeddings_grow = 4 * D * chunk * (32 - 4)
    assert many - few <= 3 * embeddings_grow + 4 * rows * (32 - 4) < 28 * one_block / 2
    assert many < 8 * one_block


@pytest.mark.parametrize("name", LOSSES)
def test_memory_of_a_loss_falls_with_the_size_of_its_chunks(name):
    function, scalars = LOSSES[name]
    size = 1024
    whole, cut = (
        temporaries(lambda i, t, c=c: function(i, t, *scalars, chunk=c), size, size)
        for c in (0, 64)
    )
    assert whole >= 4 * size * size
    assert cut <= whole / 3


def test_a_loop_without_checkpoint_would_keep_every_block(monkeypatch):
    size = 1024
    loss = lambda i, t: contrastive.sigmoid(i, t, SCALE, BIAS, chunk=64)
    kept = temporaries(loss, size, size)
    monkeypatch.setattr(jax, "checkpoint", lambda f, **_: f)
    assert temporaries(loss, size, size) > 4 * size * size > 2 * kept


def test_a_chunk_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="chunk 7 does not divide the 64 pairs"):
        contrastive.sigmoid(*embeddings(), SCALE, BIAS, chunk=7)


def test_normalize_survives_zero_in_value_and_gradient():
    zero = jnp.zeros((2, 4))
    np.testing.assert_array_equal(contrastive.l2_normalize(zero), zero)
    assert np.isfinite(jax.grad(lambda x: jnp.sum(contrastive.l2_normalize(x)))(zero)).all()
    image, _ = embeddings()
    np.testing.assert_allclose(np.linalg.norm(image, axis=1), 1.0, rtol=1e-6)


def test_accuracy_in_the_batch_by_hand():
    np.testing.assert_array_equal(contrastive.in_batch_accuracy(*THREE), [1.0, 0.0, 0.0])
    image, _ = embeddings()
    np.testing.assert_array_equal(contrastive.in_batch_accuracy(image, image), np.ones(B))
