"""Code that runs inside a replica of tf.distribute: sums over all replicas, and equal changes of variables on each.

An update sums gradients and logs once. Everything after that is the same on every replica, so variables need no
merging: each replica changes its own copy. That also works where tf.distribute refuses to merge, in a `tf.cond`;
without a strategy it is an ordinary assignment.
"""

from __future__ import annotations

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
