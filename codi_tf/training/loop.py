"""Several updates in one call from Python, in a loop on the device, on all replicas."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from codi_tf.core import replicas
from codi_tf.data.counts import COUNTED
from codi_tf.trainers.trainer import Trainer

WAITED, STOP = "waited", "stop"  # keys of what a call returns besides the logs


def make_loop(trainer: Trainer, strategy, *, jit_compile: bool = False) -> Callable[..., dict]:
    """The compiled function (iterator, count, stop) -> sums over `count` updates.

    Args:
        trainer: compiled, made in the strategy's scope.
        strategy: a `tf.distribute.Strategy`.
        jit_compile: compile the step with XLA. On TPUs it always is.

    Returns:
        A function of a distributed iterator, the number of updates, int32 [], and whether this worker wants to stop, 1
        or 0, int32 []. It returns float32 scalars: the sums of `trainer.log_names`, to which a skipped update adds
        nothing but "skipped"; "waited", the seconds that this worker waited for its input; "stop", the number of
        workers that want to stop, the same on all of them; and the sums of what batches have of COUNTED.
    """
    step = tf.function(trainer.update, autograph=False, jit_compile=True) if jit_compile else trainer.update
    step = tf.autograph.experimental.do_not_convert(step)
    names = trainer.log_names  # the last is "skipped"
    skipped = tf.one_hot(len(names) - 1, len(names))
    here = len(strategy.experimental_local_results(trainer.skipped_in_row.value))  # replicas of this program

    @tf.autograph.experimental.do_not_convert
    def summed_over_workers(values):  # of each worker's replicas its first one gives them
        own = strategy.run(lambda: tf.where(tf.equal(replicas.index() % here, 0), values, tf.zeros_like(values)))
        return strategy.reduce("SUM", own, axis=None)

    @tf.autograph.experimental.do_not_convert
    def step_after(batch, moment):
        with tf.control_dependencies([moment]):  # take the time before the step starts
            batch = {key: tf.identity(value) for key, value in batch.items()}
        counts = [tf.reduce_sum(tf.cast(batch.pop(key), tf.float32)) for key in COUNTED if key in batch]
        return step(batch), counts

    @tf.function
    def run(iterator, count, stop):
        sums, waited = tf.zeros(len(names)), tf.constant(0.0, tf.float64)
        counted = [key for key in COUNTED if key in iterator.element_spec]
        totals = tf.zeros(len(counted))
        for _ in tf.range(count):
            with tf.control_dependencies([sums]):  # the step before is done
                asked = tf.timestamp()
            with tf.control_dependencies([asked]):
                batch = next(iterator)
            with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
                given = tf.timestamp()
            waited += given - asked
            logs, counts = strategy.run(step_after, args=(batch, tf.cast(given, tf.float32)))
            if counted:
                totals += tf.stack([tf.add_n(strategy.experimental_local_results(one)) for one in counts])
            logs = tf.stack([_of_first(strategy, logs[name]) for name in names])  # they are the same on all replicas
            sums += tf.where(logs[-1] > 0, skipped, logs)
        # One exchange for each call, not for each update.
        of_all = summed_over_workers(tf.concat([tf.cast(stop, tf.float32)[None], totals], axis=0))
        found = {name: sums[i] for i, name in enumerate(names)} | {key: of_all[1 + i] for i, key in enumerate(counted)}
        return {**found, WAITED: tf.cast(waited, tf.float32), STOP: of_all[0]}

    return run


def make_average_alone(trainer: Trainer, strategy) -> Callable[[], None]:
    """The compiled moving averages with a share of 0: they change nothing, and take as long as in an update."""

    @tf.function(autograph=False)
    def average():
        strategy.run(lambda: trainer.move_averages(0.0, 0.0))

    return average


def _of_first(strategy, value):
    return strategy.experimental_local_results(value)[0]
