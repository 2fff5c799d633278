"""Losses by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from active_learning.core import losses

LOGITS = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]))
LABELS = jnp.array([0, 1])


def test_cross_entropy_is_minus_the_log_probability_of_the_label():
    np.testing.assert_allclose(
        losses.softmax_xent(LOGITS, LABELS), [-np.log(0.5), -np.log(0.2)], rtol=1e-6
    )


def test_label_smoothing_by_hand():
    s, p = 0.1, np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
    target = (1 - s) * np.eye(3)[[0, 1]] + s / 3
    np.testing.assert_allclose(
        losses.softmax_xent(LOGITS, LABELS, s), -(target * np.log(p)).sum(axis=1), rtol=1e-6
    )


def test_cross_entropy_ignores_a_shift_and_survives_large_logits():
    np.testing.assert_allclose(
        losses.softmax_xent(LOGITS + 1e4, LABELS), losses.softmax_xent(LOGITS, LABELS), atol=2e-3
    )


def test_the_loss_is_per_example_and_float32_from_bfloat16():
    loss = losses.softmax_xent(LOGITS.astype(jnp.bfloat16), LABELS)
    assert loss.shape == (2,)
    assert loss.dtype == jnp.float32


def test_gradient_is_probability_minus_one_hot():
    grads = jax.grad(lambda logits: jnp.sum(losses.softmax_xent(logits, LABELS)))(LOGITS)
    np.testing.assert_allclose(grads, np.exp(np.asarray(LOGITS)) - np.eye(3)[[0, 1]], atol=1e-6)


def test_accuracy_by_hand():
    np.testing.assert_array_equal(losses.accuracy(LOGITS, jnp.array([0, 1])), [1.0, 0.0])


def test_logits_of_another_length_than_labels_are_refused_by_the_shape_annotations():
    with pytest.raises(Exception, match="labels"):
        losses.softmax_xent(LOGITS, jnp.array([0, 1, 2]))
