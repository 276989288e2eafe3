"""AdamW in one pass over memory, and a learning rate for trainings of several phases.

With hundreds of small variables, the number of operations limits the speed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from codi_tf.core import replicas
from codi_tf.core.keras_internals import has_weight_decay, moments_of, trainable_variables_of, with_gradients


class FusedAdamW(keras.optimizers.Adam):
    """Keras' AdamW through TensorFlow's fused kernel: the same update, one operation per variable instead of a dozen.

    m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2, theta <- theta - eta sqrt(1 - b2^k) / (1 - b1^k) m / (sqrt(v) + e)
    at step k (Kingma & Ba 2015, section 2, the efficient form), after theta <- (1 - eta lambda) theta (Loshchilov &
    Hutter 2019). Arguments as for `keras.optimizers.Adam`; lambda is `weight_decay`, None for none.

    Under tf.distribute `apply` takes gradients that are already summed over the replicas, as `Trainer` does: the norm
    of the whole batch's gradient is clipped, and every replica updates its own copies.

    Raises:
        ValueError: an option of Keras' optimizers that this one does not have.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for name in ("amsgrad", "use_ema", "gradient_accumulation_steps", "loss_scale_factor", "clipnorm", "clipvalue"):
            if getattr(self, name):
                raise ValueError(f"FusedAdamW has no {name}: use keras.optimizers.AdamW")

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
        k = tf.cast(self.iterations.value + 1, tf.float32)
        powers = [tf.pow(beta, k) for beta in (self.beta_1, self.beta_2)]
        for gradient, variable in zip(gradients, variables, strict=True):
            if self.weight_decay is not None and has_weight_decay(self, variable):
                replicas.move(variable, 0.0, rate * self.weight_decay)
            self._update(gradient, variable, rate, powers)
        replicas.assign_add(self.iterations, 1)

    def _update(self, gradient, variable, rate, powers) -> None:
        (momentum, velocity), kind = moments_of(self, variable), variable.value.dtype
        beta1_power, beta2_power = (tf.cast(power, kind) for power in powers)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.value.handle,
            m=momentum.value.handle,
            v=velocity.value.handle,
            beta1_power=beta1_power,
            beta2_power=beta2_power,
            lr=tf.cast(rate, kind),
            beta1=tf.constant(self.beta_1, kind),
            beta2=tf.constant(self.beta_2, kind),
            epsilon=tf.constant(self.epsilon, kind),
            grad=tf.cast(gradient, kind),
        )


class CosinePhases(keras.optimizers.schedules.LearningRateSchedule):
    """peak / 2 (1 + cos(pi k / K)) at update k of a phase of K updates: from the peak to 0, once in each phase.

    Every phase begins at its own update, so the restarts do not drift, however long the phases are. After the last one
    the rate is 0.

    Args:
        peak: the rate at the first update of a phase.
        lengths: K of each phase, at least 1.
    """

    def __init__(self, peak: float, lengths: Sequence[int]):
        super().__init__()
        self.peak, self.lengths = peak, tuple(lengths)

    def __call__(self, step):
        """The learning rate of an update, float32 []."""
        step, starts = tf.cast(step, tf.float32), np.cumsum([0, *self.lengths[:-1]]).astype("float32")
        phase = tf.reduce_sum(tf.cast(step >= starts[1:], tf.int32))
        done = (step - tf.gather(starts, phase)) / tf.gather(np.array(self.lengths, "float32"), phase)
        return self.peak / 2 * (1.0 + tf.cos(math.pi * tf.minimum(done, 1.0)))

    def get_config(self):
        """The arguments."""
        return {"peak": self.peak, "lengths": list(self.lengths)}
