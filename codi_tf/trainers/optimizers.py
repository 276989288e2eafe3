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
from codi_tf.core.keras_internals import moments_of
from codi_tf.trainers.summed import SummedOptimizer


class FusedAdamW(SummedOptimizer, keras.optimizers.Adam):
    """Keras' AdamW through TensorFlow's fused kernel: the same update, one operation per variable instead of a dozen.

    m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2, theta <- theta - eta sqrt(1 - b2^k) / (1 - b1^k) m / (sqrt(v) + e)
    at step k (Kingma & Ba 2015, section 2, the efficient form), after theta <- (1 - eta lambda) theta (Loshchilov &
    Hutter 2019). Arguments as for `keras.optimizers.Adam` and `SummedOptimizer`. With moments in bfloat16 the update is
    the same and takes several operations; the kernel has no such moments.
    """

    def of_update(self, k):
        return [tf.pow(beta, k) for beta in (self.beta_1, self.beta_2)]

    def update_variable(self, gradient, variable, rate, shared, seed) -> None:
        if self.moments == "float32":
            self._fused(gradient, variable, rate, shared)
            return
        kept = moments_of(self, variable)
        g, m, v = (tf.cast(value, tf.float32) for value in (gradient, *(moment.value for moment in kept)))
        m, v = m + (1.0 - self.beta_1) * (g - m), v + (1.0 - self.beta_2) * (tf.square(g) - v)
        rate = rate * tf.sqrt(1.0 - shared[1]) / (1.0 - shared[0])
        replicas.assign_add(variable, -rate * m / (tf.sqrt(v) + self.epsilon))
        for which, (moment, value) in enumerate(zip(kept, (m, v), strict=True)):
            self.keep(moment, value, (*seed, which))

    def _fused(self, gradient, variable, rate, powers) -> None:
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
