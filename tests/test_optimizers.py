"""FusedAdamW against Keras' AdamW, step by step on the same gradients."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from codi_tf.trainers.optimizers import FusedAdamW

SHAPES = [(3, 3, 4, 5), (7,), ()]


def stepper(optimizer, variables, graph):
    def step(gradients):
        optimizer.apply(gradients, variables)

    return tf.function(step, autograph=False) if graph else step


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_it_does_what_keras_does(weight_decay, graph):
    random = np.random.default_rng(0)
    start = [random.normal(size=shape).astype("float32") for shape in SHAPES]
    gradients = [[random.normal(size=shape).astype("float32") for shape in SHAPES] for _ in range(5)]
    rate = keras.optimizers.schedules.CosineDecay(0.1, 6)
    ends = []
    for optimizer in (
        keras.optimizers.AdamW(rate, weight_decay=weight_decay, global_clipnorm=1.0),
        FusedAdamW(rate, weight_decay=weight_decay or None, global_clipnorm=1.0),
    ):
        variables = [keras.Variable(value) for value in start]
        optimizer.exclude_from_weight_decay(var_list=variables[1:2])
        optimizer.build(variables)
        run = stepper(optimizer, variables, graph)
        for step in gradients:
            run([tf.constant(g) for g in step])
        assert int(optimizer.iterations) == len(gradients)
        ends.append([v.numpy() for v in variables])
    for keras_end, end, value in zip(*ends, start, strict=True):
        np.testing.assert_allclose(end, keras_end, rtol=2e-6, atol=2e-6)
        assert np.abs(end - value).mean() > 1e-3


def test_amsgrad_is_refused():
    with pytest.raises(ValueError, match="amsgrad"):
        FusedAdamW(amsgrad=True)
