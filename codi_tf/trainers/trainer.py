"""The keras.Model whose train_step runs a method; both `fit` and the command line's loop use it."""

from __future__ import annotations

import keras
import tensorflow as tf

from codi_tf.core import replicas
from codi_tf.methods.draws import Draws
from codi_tf.methods.method import Method
from codi_tf.trainers.optimizers import FusedAdamW

FIRST_SCALE, DOUBLE_AFTER = 2.0**15, 2000  # of the loss in float16; good steps until it is doubled


class Trainer(keras.Model):
    """Trains the method's student and updates its moving average.

    An update whose loss or gradient is not finite is skipped: it changes nothing but `skipped_in_row`. With several
    replicas this works with `FusedAdamW` only: Keras' own optimizers merge their updates, which tf.distribute does not
    allow under a condition.

    Args:
        method: gives the student and the loss.
        ema_decay: gamma in theta- <- gamma theta- + (1 - gamma) theta.
        mu_rate: the learning rate of `scaled_parameters`, as a multiple of that of the other weights.
        seed: seed of all draws of the loss.
        accumulate: the number of micro-batches, one after the other, that a replica's batch is split into.
        scaled: whether the loss is scaled before the backward pass, so that gradients fit into float16. The scale is
            halved when they do not, and doubled after 2,000 updates in which they do (Micikevicius et al. 2018).

    Attributes:
        skipped_in_row: the number of updates, up to the last one, that were skipped in a row, int32 []; overflows of a
            scaled loss do not count.
    """

    def __init__(
        self,
        method: Method,
        *,
        ema_decay: float = 0.999,
        mu_rate: float = 1.0,
        seed: int = 0,
        accumulate: int = 1,
        scaled: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.method, self.ema_decay, self.mu_rate, self.seed = method, ema_decay, mu_rate, seed
        self.accumulate, self.scaled = accumulate, scaled
        self.student = method.student
        self.average, self.teacher = None, None
        self.built = True

    def compile(self, optimizer="adamw", *, jit_compile=False, **kwargs):
        """As in Keras; the optimizer's state and theta- are created here, before training.

        Under tf.distribute no variable may be created inside a step. XLA is off by default: on CPUs it is slower for
        small networks.
        """
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        if self.average is None:
            self.average = self.method.start_average()  # theta- <- theta
            self.average.trainable = False
            if self.method.teacher is not None:  # as an attribute of the model it is part of a run's state
                self.teacher = self.method.teacher
                self.teacher.trainable = False
            self.skipped_in_row = self._counter("skipped_in_row", "int32", 0)
            if self.scaled:
                self.scale = self._counter("scale", "float32", FIRST_SCALE)
                self.good_steps = self._counter("good_steps", "int32", 0)
        self.optimizer.exclude_from_weight_decay(var_list=self.scaled_parameters)
        self.optimizer.build(self.trainable_variables)

    @property
    def log_names(self) -> tuple[str, ...]:
        """The keys of the dictionary that `train_step` returns, "skipped" last."""
        return ("loss", *self.method.terms, "gradient_norm", "skipped")

    def train_step(self, batch):
        """One update (Algorithm 1) on this replica's share of the global batch.

        Returns scalars: the loss and its terms, means over the global batch, the norm of the gradient, and whether the
        update was skipped (1, else 0).
        """
        self.method.begin_step(self.optimizer.iterations)
        gradients, means = self._gradients(batch)
        merged = isinstance(self.optimizer, FusedAdamW) or replicas.count() == 1
        reduced = replicas.summed([*(gradients if merged else []), means])
        gradients, means = reduced[:-1] if merged else gradients, reduced[-1]
        norm = tf.linalg.global_norm(gradients)
        finite = tf.math.is_finite(norm) & tf.reduce_all(tf.math.is_finite(means))
        if merged:
            tf.cond(finite, lambda: self._learn(gradients), lambda: ())
        else:
            self._learn(gradients)
        self._count(finite)
        logs = dict(zip(self.method.terms, tf.unstack(means), strict=True))
        skipped = 1.0 - tf.cast(finite, tf.float32)
        return {"loss": tf.reduce_sum(means), **logs, "gradient_norm": norm, "skipped": skipped}

    def _gradients(self, batch):
        """This replica's part of the gradients and of the terms [T]; summed, they are means over the global batch."""
        part, parts = replicas.index() * self.accumulate, replicas.count() * self.accumulate
        if self.accumulate == 1:
            return self._gradients_of(batch, part, parts)
        count = next(iter(batch.values())).shape[0] // self.accumulate

        def add(micro, sums, means):
            own = {key: _rows(value, micro * count, count) for key, value in batch.items()}
            gradients, terms = self._gradients_of(own, part + micro, parts)
            return micro + 1, [a + b for a, b in zip(sums, gradients, strict=True)], means + terms

        zeros = [tf.zeros(variable.shape, variable.dtype) for variable in self.trainable_variables]
        start = (tf.constant(0), zeros, tf.zeros(len(self.method.terms)))
        _, gradients, means = tf.while_loop(
            lambda micro, *_: micro < self.accumulate, add, start, maximum_iterations=self.accumulate
        )
        return gradients, means

    def _gradients_of(self, batch, part, parts: int):
        draws = Draws(self.seed, self.optimizer.iterations, part, parts)
        scale = self.scale.value if self.scaled else 1.0
        with tf.GradientTape() as tape:
            terms = self.method.loss_terms(batch, draws)
            # Parts are summed, over micro-batches and replicas: divide once, here.
            means = tf.stack([tf.reduce_mean(terms[name]) for name in self.method.terms]) / parts
            loss = scale * tf.reduce_sum(means)
        gradients = tape.gradient(loss, self.trainable_variables)
        missing = [v.path for v, g in zip(self.trainable_variables, gradients, strict=True) if g is None]
        if missing:
            raise ValueError(f"no gradient reaches {', '.join(missing)}")
        return [gradient / scale for gradient in gradients] if self.scaled else gradients, means

    def _learn(self, gradients):
        self._update(gradients)  # theta <- theta - eta grad L(theta, theta-)
        self.move_average(1.0 - self.ema_decay)  # theta- <- gamma theta- + (1 - gamma) theta
        return ()

    @property
    def scaled_parameters(self) -> list:
        """Variables of the student whose learning rate is multiplied by `mu_rate`; they have no weight decay."""
        return []

    def _update(self, gradients):
        scaled = self.scaled_parameters
        before = [tf.identity(variable.value) for variable in scaled]
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        for variable, old in zip(scaled, before, strict=True):
            replicas.assign(variable, old + self.mu_rate * (variable.value - old))

    def move_average(self, share: float):
        """theta- <- theta- - share (theta- - theta), inside a step."""
        assert self.average is not None
        # The two networks share the parts that are not trained.
        for mean, value in zip(self.average.variables, self.student.variables, strict=True):
            if mean is not value:
                replicas.move(mean, value.value, share)

    def _count(self, finite):
        """Count skipped updates, and adapt the scale of the loss."""
        counted = ~finite
        if self.scaled:
            scale, good = self.scale.value, tf.where(finite, self.good_steps.value + 1, 0)
            counted &= scale <= 1.0
            doubled = good >= DOUBLE_AFTER
            grown = tf.where(doubled, tf.minimum(2.0 * scale, 2.0**24), scale)
            replicas.assign(self.scale, tf.where(finite, grown, tf.maximum(scale / 2.0, 1.0)))
            replicas.assign(self.good_steps, tf.where(doubled, 0, good))
        ended = tf.where(finite, 0, self.skipped_in_row.value)
        replicas.assign(self.skipped_in_row, tf.where(counted, ended + 1, ended))

    def _counter(self, name: str, dtype: str, value):
        initializer = keras.initializers.Constant(value)
        return self.add_weight(name=name, shape=(), dtype=dtype, initializer=initializer, trainable=False)


def _rows(values, start, count: int):
    """values[start : start + count], with a static shape."""
    return tf.slice(values, [start] + [0] * (values.shape.rank - 1), [count, *values.shape[1:]])
