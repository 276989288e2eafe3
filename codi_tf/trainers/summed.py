"""The base class of this project's optimizers: they take gradients that are summed over the replicas already."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from codi_tf.core import replicas
from codi_tf.core.keras_internals import has_weight_decay, trainable_variables_of, with_gradients

ABSENT = ("amsgrad", "use_ema", "gradient_accumulation_steps", "loss_scale_factor", "clipnorm", "clipvalue")
MOMENTS = ("float32", "bfloat16")


class SummedOptimizer(keras.optimizers.Optimizer):
    """An optimizer of Keras whose `apply` clips the norm of the whole batch's gradient and decays weights.

    Under tf.distribute the gradients are summed over the replicas already, as by `Trainer`, and every replica updates
    its own copies. So an update also works inside a `tf.cond`.

    A subclass defines `update_variable` and, in `build`, adds its moments with Keras' methods.

    Args:
        moments: the format of the moments, "float32" or "bfloat16"; moments in bfloat16 are rounded at random.
        args, kwargs: of the optimizer of Keras. lambda of theta <- (1 - eta lambda) theta is `weight_decay`, None for
            none (Loshchilov & Hutter 2019).

    Raises:
        ValueError: an option of Keras' optimizers that these do not have, or another format of moments.
    """

    def __init__(self, *args, moments: str = "float32", **kwargs):
        super().__init__(*args, **kwargs)
        for name in ABSENT:
            if getattr(self, name, None):
                raise ValueError(f"{type(self).__name__} has no {name}: use an optimizer of Keras")
        if moments not in MOMENTS:
            raise ValueError(f"moments is {moments!r}: use {' or '.join(MOMENTS)}")
        self.moments = moments

    def add_variable(self, *args, dtype=None, **kwargs):
        """As in Keras, in the format of the moments."""
        return super().add_variable(*args, dtype=self.moments, **kwargs)

    def apply(self, grads, trainable_variables=None):
        """One update of variables by their gradients; see the class for tf.distribute."""
        if not self.built:
            self.build(list(trainable_variables or ()))
        variables = trainable_variables_of(self) if trainable_variables is None else list(trainable_variables)
        gradients, variables = with_gradients(self, grads, variables)
        if self.global_clipnorm:
            gradients, _ = tf.clip_by_global_norm(gradients, self.global_clipnorm)
        rate = tf.cast(self.learning_rate, tf.float32)
        # Read once a step: TensorFlow does not merge reads of a variable.
        done = self.iterations.value + 0
        shared = self.of_update(tf.cast(done + 1, tf.float32))
        for number, (gradient, variable) in enumerate(zip(gradients, variables, strict=True)):
            if self.weight_decay is not None and has_weight_decay(self, variable):
                replicas.move(variable, 0.0, rate * self.weight_decay)
            self.update_variable(gradient, variable, rate, shared, (done, number))
        replicas.assign_add(self.iterations, 1)

    def of_update(self, k) -> Any:
        """What the updates of all variables share at update k = 1, 2, ..., float32 []."""
        return None

    def update_variable(self, gradient, variable, rate, shared, seed) -> None:
        """Change one variable and its moments.

        Args:
            gradient: of the variable's shape.
            variable: a Keras variable.
            rate: eta, float32 [].
            shared: what `of_update` gives.
            seed: (update, number of the variable), for `keep`.
        """
        raise NotImplementedError

    def keep(self, moment, value, seed) -> None:
        """moment <- value, float32, rounded at random where the moment is bfloat16; `seed`: three integers."""
        if self.moments == "bfloat16":
            update, number, which = seed
            value = rounded_at_random(value, tf.stack([tf.cast(update, tf.int32), 4 * number + which]))
        replicas.assign(moment, value)

    def get_config(self):
        """The arguments."""
        return {**super().get_config(), "moments": self.moments}


def rounded_at_random(x, seed):
    """float32 -> bfloat16, up or down with the probabilities by which the mean over seeds is x.

    Rounding to the nearest would lose every change below 1/256 of a moment, as that of Adam's second, whose changes are
    1/1000: it would stop to follow the gradients (Gupta et al. 2015, section 3).

    Args:
        x: float32, finite.
        seed: int32 [2]; the same seed rounds the same.
    """
    bits = tf.bitcast(x, tf.int32)
    lower = tf.random.stateless_uniform(tf.shape(x), seed, minval=0, maxval=2**16, dtype=tf.int32)
    kept = tf.bitwise.bitwise_and(bits + lower, tf.constant(-(2**16), tf.int32))  # bfloat16 is the upper half
    return tf.cast(tf.bitcast(kept, tf.float32), tf.bfloat16)
