"""The keras.Model whose train_step runs a method; `fit` and the command line's loop share it."""

from __future__ import annotations

import keras
import tensorflow as tf


class Trainer(keras.Model):
    """Trains the method's student and keeps its moving average.

    Args:
        method: a `codi_tf.methods.method.Method`.
        ema_decay: gamma in theta- <- gamma theta- + (1 - gamma) theta.
        mu_rate: the learning rate of the adapter's mu, as a multiple of the others'.
        seed: seed of all draws of the loss.
    """

    def __init__(self, method, *, ema_decay: float = 0.999, mu_rate: float = 1.0, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.method, self.ema_decay, self.mu_rate, self.seed = method, ema_decay, mu_rate, seed
        self.student = method.student
        self.average, self.teacher = None, None
        self.built = True

    def compile(self, optimizer="adamw", *, jit_compile=False, **kwargs):
        """As in Keras, but the optimizer's state and theta- are made here, where nothing has been trained yet.

        Under tf.distribute no variable may be made inside a step. XLA is off unless it is asked for: on CPUs it is
        slower for small networks.
        """
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        if self.average is None:
            self.average = self.method.start_average()  # theta- <- theta
            self.average.trainable = False
            if self.method.teacher is not None:  # tracked here, it is part of a run's state
                self.teacher = self.method.teacher
                self.teacher.trainable = False
        self.optimizer.exclude_from_weight_decay(var_list=self._mu())
        self.optimizer.build(self.trainable_variables)

    def train_step(self, batch):
        """One optimizer step (Algorithm 1). Returns the loss, its terms and the gradient's norm as scalars."""
        self.method.begin_step(self.optimizer.iterations)
        with tf.GradientTape() as tape:
            terms = self.method.loss_terms(batch, self.seed, self.optimizer.iterations)
            means = {name: tf.reduce_mean(values) for name, values in terms.items()}
            loss = tf.add_n(list(means.values()))
            # Gradients are summed over replicas: divide once, here.
            share = loss / tf.distribute.get_strategy().num_replicas_in_sync
        gradients = tape.gradient(share, self.trainable_variables)
        self._update(gradients)  # theta <- theta - eta grad L(theta, theta-)
        self._average()  # theta- <- gamma theta- + (1 - gamma) theta
        return {"loss": loss, **means, "gradient_norm": tf.linalg.global_norm(gradients)}

    def _mu(self) -> list:
        mu = getattr(getattr(self.student, "adapter", None), "mu", None)
        return [] if mu is None else [mu]

    def _update(self, gradients):
        before = [tf.identity(mu.value) for mu in self._mu()]
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        for mu, old in zip(self._mu(), before, strict=True):
            mu.assign(old + self.mu_rate * (mu.value - old))

    def _average(self):
        # Parts that are not trained are shared between the two networks: only the others move.
        for mean, value in zip(self.average.variables, self.student.variables, strict=True):
            if mean is not value:
                # mean <- mean - (1 - gamma) (mean - value), in one operation after the difference
                tf.raw_ops.ResourceApplyGradientDescent(
                    var=mean.value.handle, alpha=1.0 - self.ema_decay, delta=mean.value - value.value
                )
