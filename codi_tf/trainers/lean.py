"""Optimizers with less state than Adam's two moments for each weight: Lion has one, Adafactor hardly any."""

from __future__ import annotations

import keras
import tensorflow as tf

from codi_tf.core import replicas
from codi_tf.core.keras_internals import index_of, momentum_of
from codi_tf.trainers.summed import SummedOptimizer


class Lion(SummedOptimizer, keras.optimizers.Lion):
    """Keras' Lion on summed gradients (Chen et al. 2023, algorithm 2).

    theta <- theta - eta sign(b1 m + (1 - b1) g), m <- b2 m + (1 - b2) g, after theta <- (1 - eta lambda) theta. Every
    weight moves by eta, so that paper takes a rate 3 to 10 times lower than for AdamW, and a weight decay that much
    higher. Arguments as for `keras.optimizers.Lion` and `SummedOptimizer`.
    """

    def update_variable(self, gradient, variable, rate, shared, seed) -> None:
        momentum = momentum_of(self, variable)
        m, g = (tf.cast(value, tf.float32) for value in (momentum.value, gradient))
        replicas.assign_add(variable, -rate * tf.sign(self.beta_1 * m + (1.0 - self.beta_1) * g))
        self.keep(momentum, self.beta_2 * m + (1.0 - self.beta_2) * g, (*seed, 0))


class Adafactor(SummedOptimizer):
    """Adafactor without momentum (Shazeer & Stern 2018, algorithms 4 and 5), with the rate of AdamW.

    For a weight [.., n, m] it keeps the means of g^2 over rows and over columns, r [.., n] and c [.., m], from which
    v = r c / mean(r) follows; for a weight of fewer axes v itself. u = g / sqrt(v), divided by max(1, RMS(u)), and
    theta <- theta - eta u. The second moments decay by 1 - k^-0.8 at update k.

    The rate is not multiplied by the RMS of the weights, as it is in Keras' Adafactor: mu and the convolutions that
    start at zero would hardly move. And Keras' keeps v beside r and c, as many numbers as there are weights.

    Arguments as for `keras.optimizers.Optimizer` and `SummedOptimizer`.
    """

    FLOOR, CLIP, DECAY = 1e-30, 1.0, -0.8  # epsilon_1, d and the exponent of that paper

    def build(self, variables):
        """As in Keras: adds the second moments."""
        if self.built:
            return
        super().build(variables)
        self._second = [self._moments_for(variable) for variable in variables]

    def _moments_for(self, variable) -> tuple:
        shape = tuple(variable.shape)
        shapes = (shape,) if len(shape) < 2 else (shape[:-1], (*shape[:-2], shape[-1]))
        return tuple(self.add_variable(shape=shape, name=f"second_moment_{i}") for i, shape in enumerate(shapes))

    def of_update(self, k):
        return 1.0 - tf.pow(k, self.DECAY)

    def update_variable(self, gradient, variable, rate, shared, seed) -> None:
        moments, g = self._second[index_of(self, variable)], tf.cast(gradient, tf.float32)
        square = tf.square(g) + self.FLOOR
        means = [square] if len(moments) == 1 else [tf.reduce_mean(square, axis) for axis in (-1, -2)]
        moved = []
        for which, (moment, mean) in enumerate(zip(moments, means, strict=True)):
            moved.append(mean + shared * (tf.cast(moment.value, tf.float32) - mean))
            self.keep(moment, moved[-1], (*seed, which))
        if len(moved) == 1:
            u = g * tf.math.rsqrt(moved[0])
        else:
            r, c = moved
            by_row = tf.math.rsqrt(r / tf.reduce_mean(r, -1, keepdims=True))
            u = g * by_row[..., None] * tf.math.rsqrt(c)[..., None, :]
        rms = tf.sqrt(tf.reduce_mean(tf.square(u)))
        replicas.assign_add(variable, -rate * u / tf.maximum(1.0, rms / self.CLIP))
