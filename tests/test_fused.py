"""The functions with gradients in closed form, against the plain operations and automatic differentiation."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from codi_tf.models import fused

RANDOM = np.random.default_rng(0)


def draw(*shape, scale=1.0, mean=0.0):
    return tf.constant(RANDOM.normal(mean, scale, shape), tf.float32)


def group_norm(x, gamma, beta, *shift, silu):
    """Its definition, in the dtype of x; the groups are of two channels."""
    x = x + shift[0] if shift else x
    grouped = tf.reshape(x, (*x.shape[:3], 2, 2))
    mean, variance = tf.nn.moments(grouped, (1, 2, 4), keepdims=True)
    y = tf.reshape((grouped - mean) / tf.sqrt(variance + 1e-3), x.shape) * gamma + beta
    return y * tf.sigmoid(y) if silu else y


def layer_norm(x, gamma, beta):
    mean, variance = tf.nn.moments(x, -1, keepdims=True)
    return (x - mean) / tf.sqrt(variance + 1e-3) * gamma + beta


def attend(q, k, v):
    return tf.nn.softmax(q @ tf.linalg.matrix_transpose(k)) @ v


def geglu(value, gate):
    return value * 0.5 * gate * (1.0 + tf.math.erf(gate / np.sqrt(2.0)))


def of_groups(silu):
    return lambda *args: fused.group_norm(*args, groups=2, epsilon=1e-3, silu=silu)


MAP, GAMMA, BETA = (3, 4, 2, 4), draw(4, mean=1.0), draw(4)
CASES = {
    "norm": (of_groups(False), lambda *a: group_norm(*a, silu=False), [draw(*MAP, mean=2.0), GAMMA, BETA]),
    "norm and silu": (of_groups(True), lambda *a: group_norm(*a, silu=True), [draw(*MAP, mean=2.0), GAMMA, BETA]),
    "of a shifted map": (
        of_groups(True),
        lambda *a: group_norm(*a, silu=True),
        [draw(*MAP), GAMMA, BETA, draw(3, 1, 1, 4, scale=3.0)],
    ),
    "of one shift for all": (
        of_groups(False),
        lambda *a: group_norm(*a, silu=False),
        [draw(*MAP), GAMMA, BETA, draw(1, 1, 1, 4, scale=3.0)],
    ),
    "layer norm": (lambda *a: fused.layer_norm(*a, epsilon=1e-3), layer_norm, [draw(3, 5, 4, mean=2.0), GAMMA, BETA]),
    "attention": (fused.attend, attend, [draw(2, 3, 5, 4), draw(2, 3, 7, 4), draw(2, 3, 7, 4)]),
    "attention to one context": (fused.attend, attend, [draw(2, 3, 5, 4), draw(1, 3, 7, 4), draw(1, 3, 7, 4)]),
    "geglu": (fused.geglu, geglu, [draw(3, 5, 4, scale=2.0), draw(3, 5, 4, scale=2.0)]),
}


def value_and_gradients(function, inputs):
    """The function's value and the gradients of a weighted sum of it."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        out = function(*inputs)
        weights = tf.cos(tf.reshape(tf.range(float(tf.size(out)), dtype=tf.float64), out.shape))
        loss = tf.reduce_sum(tf.cast(out, tf.float64) * weights)
    return [out, *tape.gradient(loss, inputs)]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_automatic_differentiation(monkeypatch, name, compiled):
    """Catches a wrong term in a gradient, a sum over the wrong axes, and a loop that differs when compiled."""
    monkeypatch.setattr(fused, "COMPILED", 0 if compiled else 2**62)
    function, definition, inputs = CASES[name]
    for dtype, tolerance in (("float32", 3e-6), ("bfloat16", 2e-2)):
        given = [tf.cast(x, dtype) for x in inputs]
        exact = value_and_gradients(definition, [tf.cast(x, tf.float64) for x in given])
        for found, wanted in zip(value_and_gradients(function, given), exact, strict=True):
            assert found.dtype == dtype and found.shape == wanted.shape
            error = np.abs(tf.cast(found, tf.float64) - wanted).max()
            assert error <= tolerance * np.abs(wanted).max()
