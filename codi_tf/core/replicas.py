"""Replicas of tf.distribute: what runs inside one, as sums and changes of variables, and on all of them alike.

An update sums gradients and logs once. Everything after that is the same on every replica, so variables need no
merging: each replica changes its own copy. That also works where tf.distribute refuses to merge, in a `tf.cond`;
without a strategy it is an ordinary assignment.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


def count() -> int:
    """The number of replicas: 1 without a strategy."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def index():
    """The number of this replica, from 0; int32 [] where one program serves several replicas."""
    context = tf.distribute.get_replica_context()
    return 0 if context is None else context.replica_id_in_sync_group


def summed(values: list) -> list:
    """The sums of tensors over all replicas."""
    if count() == 1:
        return values
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)


def assign(variable, value) -> None:
    """variable <- value, for the copy of a Keras variable on this replica."""
    local = variable.value
    tf.raw_ops.AssignVariableOp(resource=local.handle, value=tf.cast(value, local.dtype))


def assign_add(variable, value) -> None:
    """variable <- variable + value, as `assign`."""
    local = variable.value
    tf.raw_ops.AssignAddVariableOp(resource=local.handle, value=tf.cast(value, local.dtype))


def move(variable, target, share) -> None:
    """variable <- variable - share (variable - target), in one operation after the difference."""
    local = variable.value
    tf.raw_ops.ResourceApplyGradientDescent(var=local.handle, alpha=tf.cast(share, local.dtype), delta=local - target)


class Compiled:
    """A function of tensors, compiled. In the scope of a strategy every replica computes it; the first one's is taken.

    So on a TPU it runs as one program on the chips, which hold the weights; outside of the scope it would run on the
    host, operation by operation, with weights that are copied there.

    Attributes:
        alone: what runs outside of a scope, a `tf.function`.
    """

    def __init__(self, function: Callable):
        self.alone = tf.function(function, autograph=False)

        @tf.function(autograph=False)
        def on_each(*args):
            strategy = tf.distribute.get_strategy()
            results = strategy.run(function, args)
            return tf.nest.map_structure(lambda one: strategy.experimental_local_results(one)[0], results)

        self._on_each = on_each

    def __call__(self, *args):
        in_scope = tf.distribute.has_strategy() and tf.distribute.in_cross_replica_context()
        return self._on_each(*args) if in_scope else self.alone(*args)
