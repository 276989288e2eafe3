"""The keras.Model whose train_step runs a method; both `fit` and the command line's loop use it."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from codi_tf.core import replicas
from codi_tf.core.arguments import whole_number
from codi_tf.core.errors import UserError
from codi_tf.core.keras_internals import trainable_variables_of
from codi_tf.core.trained import TrainsPart
from codi_tf.methods.batches import as_batch, check_parts, check_values, size_of
from codi_tf.methods.draws import Draws
from codi_tf.methods.method import Method
from codi_tf.models.low_rank import dropping
from codi_tf.trainers.keras_fit import KerasFit
from codi_tf.trainers.keras_options import check_compile, check_policy, check_replicated, checked_optimizer
from codi_tf.trainers.meters import Meters
from codi_tf.trainers.summed import SummedOptimizer

FIRST_SCALE, DOUBLE_AFTER = 2.0**15, 2000  # of the loss in float16; good steps until it is doubled


class Trainer(KerasFit, TrainsPart):
    """Trains the method's student and updates its moving averages: theta-, where the loss has one, and the result.

    What is trained, and nothing else, is `trainable_variables`: those of the student.

    An update whose loss or gradient is not finite is skipped: it changes nothing but `skipped_in_row`. With several
    replicas this holds for a `SummedOptimizer`: Keras' own merge their updates, which tf.distribute does not allow
    under a condition, so they make the update with a gradient of 0.

    Args:
        method: gives the student and the loss.
        ema_decay: gamma in theta- <- gamma theta- + (1 - gamma) theta, theta- the method's target network; for methods
            without one, and where result_decay is 0, it is the decay of the network that generates.
        result_decay: the decay, for a method with a target network, of an average of its own that generates and is
            saved; it grows from 0 (`result_share`). 0: theta- is the result.
        mu_rate: the learning rate of `scaled_parameters`, as a multiple of that of the other weights.
        seed: seed of all draws of the loss.
        accumulate: the number of micro-batches, one after the other, that a replica's batch is split into.
        scaled: whether the loss is scaled before the backward pass, so that gradients fit into float16. The scale is
            halved when they do not, and doubled after 2,000 updates in which they do (Micikevicius et al. 2018).

    Raises:
        UserError: an option out of its range.

    Attributes:
        target, average: theta-, None where the method has none; and the network that generates.
        averaged: the updates that the result's own average has seen, int32 []; None where it has none of its own.
        skipped_in_row: the number of updates, up to the last one, that were skipped in a row, int32 []; overflows of a
            scaled loss do not count.
    """

    def __init__(
        self,
        method: Method,
        *,
        ema_decay: float = 0.999,
        result_decay: float = 0.0,
        mu_rate: float = 1.0,
        seed: int = 0,
        accumulate: int = 1,
        scaled: bool = False,
        **kwargs,
    ):
        super().__init__(dtype="float32", **kwargs)
        self.method, self.mu_rate = method, float(mu_rate)
        self.ema_decay, self.result_decay = float(ema_decay), float(result_decay)
        for option in ("ema_decay", "result_decay"):
            if not 0 <= getattr(self, option) < 1:
                raise UserError(f"{option} is {getattr(self, option)}: it must be in [0, 1)")
        if not 0 < self.mu_rate < math.inf:
            raise UserError(f"mu_rate is {mu_rate}: it must be positive")
        self.seed = whole_number("seed", seed, 0, 2**31 - 1)
        self.accumulate, self.scaled = whole_number("accumulate", accumulate, 1, 2**31 - 1), scaled
        self.student = method.student
        self.target, self.average, self.teacher, self.averaged = None, None, None, None
        self.meters: Meters | None = None
        self.made_in = tf.distribute.get_strategy()
        self.built = True

    def trained_parts(self) -> list[keras.Model]:
        """The student, of which its own parts are trained."""
        return [self.student]

    def compile(self, optimizer="adamw", *, jit_compile=False, run_eagerly=False, steps_per_execution=1, **others):
        """As in Keras; the optimizer's state and the moving averages are created here, before training.

        Under tf.distribute no variable may be created inside a step. XLA is off by default: on CPUs it is slower for
        small networks.

        Args:
            optimizer: an optimizer of Keras, or its name.
            jit_compile, run_eagerly, steps_per_execution: as in Keras.
            others: Keras' further options. They have no meaning here, and must be None.

        Raises:
            UserError: an option that has no meaning here, an optimizer of another model, or another strategy's scope
                than the model was made in; the line says what to use instead.
        """
        check_compile(others)
        check_policy()
        if tf.distribute.get_strategy() is not self.made_in:
            raise UserError("compile the model within the strategy.scope() that it was made in, or make it in this one")
        if not self.trainable_variables:
            raise UserError("the model has nothing to train: all of it is frozen")
        optimizer = checked_optimizer(optimizer)
        if self.made_in.num_replicas_in_sync > 1 and not isinstance(optimizer, SummedOptimizer):
            check_replicated(optimizer)
        self._build(optimizer)
        super().compile(
            optimizer=optimizer,
            jit_compile=jit_compile,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            auto_scale_loss=False,
        )
        if self.average is None:
            self.target = self.method.start_target()  # theta- <- theta
            is_one = self.target is not None and not self.result_decay
            self.average = self.target if is_one else self.method.start_average()
            self.teacher = self.method.teacher  # as an attribute of the model it is part of a run's state
            if self.target is not None and not is_one:
                self.averaged = self._counter("averaged", "int32", 0)
            self.skipped_in_row = self._counter("skipped_in_row", "int32", 0)
            if self.scaled:
                self.scale = self._counter("scale", "float32", FIRST_SCALE)
                self.good_steps = self._counter("good_steps", "int32", 0)
            self.meters = Meters(self.method.terms)

    def _build(self, optimizer) -> None:
        """Makes the optimizer's state. One that this model has used before goes on with the state that it has."""
        if not optimizer.built:
            optimizer.exclude_from_weight_decay(var_list=self.scaled_parameters)
            optimizer.build(self.trainable_variables)
        elif list(map(id, trainable_variables_of(optimizer))) != list(map(id, self.trainable_variables)):
            raise UserError(
                f"this {type(optimizer).__name__} has trained another model, or other parts of this one: make a new one"
            )

    @property
    def updated_variables(self) -> list:
        """What an update changes: the variables that were trainable when the model was compiled."""
        return trainable_variables_of(self.optimizer)

    @property
    def log_names(self) -> tuple[str, ...]:
        """The keys of the dictionary that `train_step` returns, "skipped" last."""
        return ("loss", *self.method.terms, "gradient_norm", "skipped")

    def train_step(self, data):
        """`update` for Keras' `fit`: counts in the means of the epoch. Returns the scalars of this batch alone.

        Raises:
            UserError: the model is not compiled, or the batch cannot be trained on.
        """
        meters, batch = self._meters(), self._batch(data)
        check_parts(size_of(batch), 1, replicas.count())
        logs = self.update(batch)
        meters.record(logs, tf.shape(_first(batch))[0])
        return logs

    def test_step(self, data):
        """The loss and its terms on this replica's share of a batch, for Keras' `evaluate` and `validation_data`.

        The draws are a function of the seed and of the examples before this batch: the same in every evaluation, and
        different from those of training. Returns the means over the examples of the evaluation so far.

        Raises:
            UserError: see `train_step`.
        """
        meters, batch = self._meters(), self._batch(data)
        self.check_batch(batch)
        check_parts(size_of(batch), 1, replicas.count())
        part, parts = replicas.index(), replicas.count()
        before = parts * tf.cast(meters.seen, tf.int32)  # replicas share each batch evenly
        draws = Draws(self.seed, self.optimizer.iterations, part, parts, before)
        (means,) = replicas.summed([self._means(batch, draws)])
        logs = {"loss": tf.reduce_sum(means), **self._named(means)}
        return meters.tested(logs, tf.shape(_first(batch))[0])

    def _meters(self) -> Meters:
        if self.meters is None:
            raise UserError("this model has not been compiled: call compile(optimizer) before it is trained")
        return self.meters

    def check_batch(self, batch: dict) -> None:
        """Raises UserError for a batch of tensors that cannot be trained on; called when a step is traced."""
        self.method.check_batch(batch)

    def _batch(self, data) -> dict:
        """A batch as Keras gives it, as a dictionary of tensors; the first one's values are checked where they can be.

        Inside a function they cannot: see `trainers.first_batch`.
        """
        batch = as_batch(data)
        if tf.executing_eagerly() and replicas.count() == 1 and self._meters().seen == 0.0:
            check_values(batch)
        return batch

    def update(self, batch):
        """One update (Algorithm 1) on this replica's share of the global batch, a dictionary of tensors.

        All replicas have shares of one size, which need not be known when the step is traced.

        Returns float32 scalars: the loss and its terms, means over the global batch, the norm of the gradient, and
        whether the update was skipped (1, else 0).

        Raises:
            UserError: the batch cannot be trained on, or not be divided into micro-batches.
        """
        self.check_batch(batch)
        check_parts(size_of(batch), self.accumulate, 1)
        self.method.begin_step(self.optimizer.iterations)
        gradients, means = self._gradients(batch)
        *reduced, means = replicas.summed([*gradients, means])
        norm = tf.linalg.global_norm(reduced)
        finite = tf.math.is_finite(norm) & tf.reduce_all(tf.math.is_finite(means))
        if isinstance(self.optimizer, SummedOptimizer) or replicas.count() == 1:
            tf.cond(finite, lambda: self._learn(reduced), lambda: ())
        else:  # Keras' optimizer adds up the replicas' gradients by itself
            self._learn([tf.where(finite, gradient, 0.0) for gradient in gradients])
        self._count(finite)
        skipped = 1.0 - tf.cast(finite, tf.float32)
        return {"loss": tf.reduce_sum(means), **self._named(means), "gradient_norm": norm, "skipped": skipped}

    def _named(self, means) -> dict:
        return dict(zip(self.method.terms, tf.unstack(means), strict=True))

    def _means(self, batch, draws: Draws):
        """The means of the terms, float32 [T], divided by the parts, whose sum they are in the end."""
        terms = self.method.loss_terms(batch, draws)
        return tf.stack([tf.reduce_mean(terms[name]) for name in self.method.terms]) / draws.parts

    def _gradients(self, batch):
        """This replica's part of the gradients and of the terms [T]; summed, they are means over the global batch."""
        part, parts = replicas.index() * self.accumulate, replicas.count() * self.accumulate
        if self.accumulate == 1:
            return self._gradients_of(batch, part, parts)
        count = _first(batch).shape[0] // self.accumulate

        def add(micro, sums, means):
            own = {key: _rows(value, micro * count, count) for key, value in batch.items()}
            gradients, terms = self._gradients_of(own, part + micro, parts)
            return micro + 1, [a + b for a, b in zip(sums, gradients, strict=True)], means + terms

        zeros = [tf.zeros(variable.shape, variable.dtype) for variable in self.updated_variables]
        start = (tf.constant(0), zeros, tf.zeros(len(self.method.terms)))
        _, gradients, means = tf.while_loop(
            lambda micro, *_: micro < self.accumulate, add, start, maximum_iterations=self.accumulate
        )
        return gradients, means

    def _gradients_of(self, batch, part, parts: int):
        draws = Draws(self.seed, self.optimizer.iterations, part, parts)
        scale = self.scale.value if self.scaled else 1.0
        trained = [variable.value for variable in self.updated_variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(trained)
            with dropping(draws.shared):
                means = self._means(batch, draws)
            loss = scale * tf.reduce_sum(means)
        gradients: Any = tape.gradient(loss, trained)
        missing = [v.path for v, g in zip(self.updated_variables, gradients, strict=True) if g is None]
        if missing:
            raise ValueError(f"no gradient reaches {', '.join(missing)}")
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]  # that of an embedding is sparse
        return [gradient / scale for gradient in gradients] if self.scaled else gradients, means

    def _learn(self, gradients):
        self._apply(gradients)  # theta <- theta - eta grad L(theta, theta-)
        own_share = 0.0
        if self.averaged is not None:
            replicas.assign_add(self.averaged, 1)
            own_share = result_share(self.result_decay, self.averaged.value)
        self.move_averages(1.0 - self.ema_decay, own_share)  # theta- <- gamma theta- + (1 - gamma) theta
        return ()

    @property
    def scaled_parameters(self) -> list:
        """Variables of the student whose learning rate is multiplied by `mu_rate`; they have no weight decay."""
        return []

    def _apply(self, gradients):
        scaled = self.scaled_parameters
        before = [tf.identity(variable.value) for variable in scaled]
        self.optimizer.apply_gradients(zip(gradients, self.updated_variables, strict=True))
        for variable, old in zip(scaled, before, strict=True):
            replicas.assign(variable, old + self.mu_rate * (variable.value - old))

    def move_averages(self, share, own_share):
        """theta- <- theta- - share (theta- - theta), inside a step; and so the result's own average with its own share.

        A method without a target network has the result alone, which moves with `share`.
        """
        if self.target is not None:
            self._move(self.target, share)
        if self.average is not self.target:
            self._move(self.average, share if self.target is None else own_share)

    def _move(self, average, share) -> None:
        # The two networks share the parts that are not trained.
        for mean, value in zip(average.variables, self.student.variables, strict=True):
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


def result_share(decay: float, updates):
    """1 - decay of the result's own average in update 1, 2, ...; 10 / (9 + updates) as long as that is more.

    So the first update sets it to the student, and up to update 10 / (1 - decay) it averages about the last tenth.
    """
    return tf.maximum(1.0 - decay, 10.0 / (9.0 + tf.cast(updates, tf.float32)))


def _first(batch: dict):
    return next(iter(batch.values()))


def _rows(values, start, count: int):
    """values[start : start + count], with a static shape."""
    return tf.slice(values, [start] + [0] * (values.shape.rank - 1), [count, *values.shape[1:]])
