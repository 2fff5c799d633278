"""Losses by hand."""

import re

import jax
import jax.numpy as jnp
import jaxtyping
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


@pytest.mark.parametrize(
    ("labels", "actual"),
    [
        (jnp.array([0, 1, 2]), "i32[3]"),
        (jnp.array([0.0, 1.0]), "f32[2]"),
        (jnp.eye(2, 3, dtype=jnp.int32), "i32[2,3]"),
    ],
    ids=["another length", "no integers", "one-hot"],
)
def test_labels_that_do_not_fit_the_logits_are_refused_by_the_annotations(labels, actual):
    """By the annotations and not by a later operation, which would broadcast some of them."""
    named = f"(?s)parameters of .*softmax_xent.*'labels'.*Actual value: {re.escape(actual)}.*B=2"
    with pytest.raises(jaxtyping.TypeCheckError, match=named):
        losses.softmax_xent(LOGITS, labels)
