"""Inside a replica of tf.distribute: sums over all replicas, and changes that every replica makes alike.

A step sums gradients and logs once. Everything after that is the same on every replica, so that variables need no
merging: each replica changes its own copy. That also works where tf.distribute refuses to merge, in a `tf.cond`, and
without a strategy it is what any assignment does.
"""

from __future__ import annotations

import tensorflow as tf


def count() -> int:
    """How many replicas there are: 1 without a strategy."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def index():
    """Which one this is: a number from 0, or int32 [] where one program serves several replicas."""
    context = tf.distribute.get_replica_context()
    return 0 if context is None else context.replica_id_in_sync_group


def summed(values: list) -> list:
    """The sums of tensors over all replicas."""
    if count() == 1:
        return values
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)


def assign(variable, value) -> None:
    """variable <- value, a Keras variable's copy on this replica."""
    kept = variable.value
    tf.raw_ops.AssignVariableOp(resource=kept.handle, value=tf.cast(value, kept.dtype))


def assign_add(variable, value) -> None:
    """variable <- variable + value, as `assign`."""
    kept = variable.value
    tf.raw_ops.AssignAddVariableOp(resource=kept.handle, value=tf.cast(value, kept.dtype))


def move(variable, towards, share) -> None:
    """variable <- variable - share (variable - towards), in one operation after the difference."""
    kept = variable.value
    tf.raw_ops.ResourceApplyGradientDescent(var=kept.handle, alpha=tf.cast(share, kept.dtype), delta=kept - towards)
