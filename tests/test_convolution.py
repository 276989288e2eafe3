"""The fast forms of a convolution are the plain one, in another order."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from codi_tf.models import convolution
from codi_tf.models.layers import Conv2D, Upsample

RANDOM = np.random.default_rng(0)


def draw(*shape):
    return tf.constant(RANDOM.normal(size=shape))  # float64: what differs is a mistake, not rounding


def plain(x, kernel, bias):
    return tf.nn.conv2d(x, kernel, 1, "SAME") + bias


def doubled(x, kernel, bias):
    return plain(tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2), kernel, bias)


CASES = {"product": (convolution.product_convolution, plain), "phases": (convolution.doubled_convolution, doubled)}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("height, width", [(1, 1), (2, 5), (7, 4)])
def test_values_and_gradients_are_those_of_the_plain_form(name, height, width):
    fast, reference = CASES[name]
    inputs = draw(2, height, width, 3), draw(3, 3, 3, 5), draw(5)
    results = []
    for form in (fast, reference):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            out = form(*inputs)
            loss = tf.reduce_sum(out * tf.cos(tf.cast(tf.reshape(tf.range(tf.size(out)), out.shape), "float64")))
        results.append([out, *tape.gradient(loss, inputs)])
    for value, expected in zip(*results, strict=True):
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-12)


def operations(layer, x) -> list[str]:
    graph = tf.function(layer).get_concrete_function(x).graph
    return [operation.type for operation in graph.get_operations()]


@pytest.mark.skipif(bool(tf.config.list_logical_devices("GPU")), reason="for processors")
def test_layers_choose_the_form_by_size():
    large = Conv2D(1280)
    large.build((None, None, None, 640))
    assert "Conv2D" not in operations(large, tf.zeros((1, 16, 16, 640)))
    assert "Conv2D" in operations(large, tf.zeros((1, 32, 32, 640)))
    wide, narrow = Upsample(256), Upsample(8)
    for layer, channels in ((wide, 256), (narrow, 8)):
        layer.build()
        kinds = operations(layer, tf.zeros((1, 16, 16, channels)))
        assert ("DepthToSpace" in kinds) == (layer is wide)
    with convolution.plain_convolutions():
        assert operations(large, tf.zeros((1, 16, 16, 640))).count("Conv2D") == 1
        assert operations(wide, tf.zeros((1, 16, 16, 256))).count("Conv2D") == 1


def test_the_layers_give_what_they_give_in_the_plain_form():
    wide, large = Upsample(256), Conv2D(768)
    wide.build()
    large.build((None, None, None, 768))
    for layer, x in ((wide, tf.random.normal((1, 16, 16, 256))), (large, tf.random.normal((2, 8, 12, 768)))):
        fast = layer(x)
        with convolution.plain_convolutions():
            np.testing.assert_allclose(fast, layer(x), rtol=0, atol=2e-5)
